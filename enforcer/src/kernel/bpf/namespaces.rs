//! Namespaces under the programs: what arrives goes to the agent, and sockets are shut until programs open them.

use std::path::Path;
use std::sync::mpsc::{self, SyncSender};
use std::thread;

use aya::programs::{Program, SkLookup};
use aya::{Btf, Ebpf, EbpfLoader};

use super::release::Fresh;
use super::{Error, Guard, Instance, Paths, existing, link, links, loader, pin_link, program};
use crate::kernel::netns::Namespace;

/// The program attached to every namespace.
pub(super) const NAMESPACE_PROGRAM: &str = "inbound";

/// That load at once, at most: each has megabytes of types in memory meanwhile.
const LOADERS: usize = 4;

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
        let wanted = namespaces.iter().map(|&(namespace, path)| {
            let instance = self.instance(namespace)?;
            Ok(Wanted { namespace, instance, is_gated: path == Paths::WithDirect })
        });
        let wanted = wanted.collect::<Result<Vec<_>, Error>>()?;
        let is_gated = wanted.iter().any(|one| one.is_gated);
        let kernel = if is_gated { Some(Btf::from_sys_fs().map_err(Error::Btf)?) } else { None };
        let directory = self.directory.clone();
        let loaders = thread::available_parallelism().map_or(1, usize::from).min(LOADERS);
        thread::scope(|scope| {
            // Few wait for us at a time: each has many files open.
            let (give, loaded) = mpsc::sync_channel(loaders);
            for first in 0..loaders.min(wanted.len()) {
                let share = wanted.iter().skip(first).step_by(loaders);
                let (directory, kernel, give) = (&directory, kernel.as_ref(), give.clone());
                scope.spawn(move || load_each(share, (directory, kernel), &give));
            }
            drop(give);
            for (Wanted { namespace, instance, is_gated }, programs) in loaded {
                let mut programs = programs?;
                self.hand_over(namespace, &mut programs)?;
                if *is_gated {
                    self.gate(namespace, instance.usual_lowat, &mut programs)?;
                }
            }
            Ok(())
        })
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
    fn gate(&mut self, namespace: &Namespace, usual: u32, instance: &mut Ebpf) -> Result<(), Error> {
        if self.maps.usual_lowat(namespace.cookie())?.is_none() {
            self.fresh.push(Fresh::Gate(namespace.try_clone().map_err(Error::Gate)?));
        }
        self.maps.set_usual_lowat(namespace.cookie(), usual)?;
        existing::open(instance, namespace)?;
        namespace.set_notsent_lowat(0).map_err(Error::Gate)
    }
}

/// A namespace that programs are loaded for.
struct Wanted<'a> {
    namespace: &'a Namespace,
    instance: Instance,
    is_gated: bool,
}

type Loaded<'a> = (&'a Wanted<'a>, Result<Ebpf, Error>);

/// Loads until nobody takes any more. A loader reads all that the kernel says of its types, so there is one for many.
fn load_each<'a>(
    share: impl Iterator<Item = &'a Wanted<'a>>,
    (directory, kernel): (&Path, Option<&Btf>),
    give: &SyncSender<Loaded<'a>>,
) {
    let mut loader = loader(directory);
    for wanted in share {
        let loaded = load(wanted, &mut loader, kernel);
        if give.send((wanted, loaded)).is_err() {
            return;
        }
    }
}

/// An instance of its own, because the program must know its namespace and has no way to ask.
fn load<'a>(wanted: &'a Wanted<'_>, loader: &mut EbpfLoader<'a>, kernel: Option<&Btf>) -> Result<Ebpf, Error> {
    let (name, mut programs) = (NAMESPACE_PROGRAM, wanted.instance.load(loader)?);
    let Program::SkLookup(inbound) = program(&mut programs, name)? else {
        return Err(Error::Missing { kind: "program", name });
    };
    inbound.load().map_err(|cause| Error::Program { name, cause: Box::new(cause) })?;
    if let Some(kernel) = kernel.filter(|_| wanted.is_gated) {
        existing::load(&mut programs, kernel)?;
    }
    Ok(programs)
}
