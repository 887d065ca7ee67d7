//! Namespaces under the programs: what arrives goes to the agent, and sockets are shut until programs open them.

use aya::programs::{Program, SkLookup};
use aya::{Btf, Ebpf};

use super::release::Fresh;
use super::{Error, Guard, Instance, Paths, existing, link, links, loader, pin_link, program};
use crate::kernel::netns::Namespace;

/// The program attached to every namespace.
pub(super) const NAMESPACE_PROGRAM: &str = "inbound";

impl Guard {
    /// Hands connections that arrive in these namespaces to the agent's listeners there, and gates their sockets where some
    /// of their workloads have direct connections. Their cgroups must be enrolled before.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn guard_namespaces(&mut self, namespaces: &[(&Namespace, Paths)]) -> Result<(), Error> {
        if namespaces.is_empty() {
            return Ok(());
        }
        let instances = namespaces.iter().map(|(namespace, _)| self.instance(namespace));
        let instances = instances.collect::<Result<Vec<_>, Error>>()?;
        let is_gated = namespaces.iter().any(|(_, path)| *path == Paths::WithDirect);
        // Each of the two reads all that the kernel says of its types, so there is one of them for all namespaces.
        let kernel = if is_gated { Some(Btf::from_sys_fs().map_err(Error::Btf)?) } else { None };
        let mut loader = loader(&self.directory);
        for (&(namespace, path), instance) in namespaces.iter().zip(&instances) {
            // An instance of its own, because the program must know its namespace and has no way to ask.
            let mut programs = instance.load(&mut loader)?;
            self.hand_over(namespace, &mut programs)?;
            if let (Some(kernel), Paths::WithDirect) = (&kernel, path) {
                self.gate(namespace, instance.usual_lowat, (&mut programs, kernel))?;
            }
        }
        Ok(())
    }

    fn instance(&self, namespace: &Namespace) -> Result<Instance, Error> {
        let known = self.maps.usual_lowat(namespace.cookie())?;
        let usual_lowat = known.map_or_else(|| namespace.notsent_lowat().map_err(Error::Gate), Ok)?;
        Ok(Instance { netns: namespace.cookie(), usual_lowat, ..Instance::default() })
    }

    /// Connections that arrive go to the agent.
    fn hand_over(&mut self, namespace: &Namespace, instance: &mut Ebpf) -> Result<(), Error> {
        let name = NAMESPACE_PROGRAM;
        let program = program(instance, name)?;
        let failed = |cause| Error::Program { name, cause: Box::new(cause) };
        let Program::SkLookup(inbound) = program else { return Err(Error::Missing { kind: "program", name }) };
        inbound.load().map_err(failed)?;
        let pin = format!("{name}-{}", namespace.cookie());
        let pinned = links(&self.directory).join(&pin);
        if !link::replace(&pinned, program)? {
            let inbound: &mut SkLookup = program.try_into().map_err(failed)?;
            let id = inbound.attach(namespace).map_err(failed)?;
            pin_link(inbound.take_link(id).map_err(failed)?.into(), &pinned)?;
            self.fresh.push(Fresh::Pin(pin.clone()));
        }
        self.wanted.insert(pin);
        Ok(())
    }

    /// Sockets are shut until programs open them, but for those that are there.
    fn gate(&mut self, namespace: &Namespace, usual: u32, instance: (&mut Ebpf, &Btf)) -> Result<(), Error> {
        if self.maps.usual_lowat(namespace.cookie())?.is_none() {
            self.fresh.push(Fresh::Gate(namespace.try_clone().map_err(Error::Gate)?));
        }
        self.maps.set_usual_lowat(namespace.cookie(), usual)?;
        existing::open(instance, namespace)?;
        namespace.set_notsent_lowat(0).map_err(Error::Gate)
    }
}
