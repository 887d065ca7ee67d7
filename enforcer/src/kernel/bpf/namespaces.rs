//! Namespaces under the programs: what arrives goes to the agent, and sockets are shut until programs open them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use aya::{Btf, Ebpf};

use super::release::Fresh;
use super::stencil::Stencil;
use super::{Error, Guard, Paths, USUAL_LOWAT, existing, link, links, load};
use crate::kernel::netns::Namespace;

/// The program attached to every namespace.
pub(super) const NAMESPACE_PROGRAM: &str = "inbound";
/// What the program is, and how it is attached (`BPF_PROG_TYPE_SK_LOOKUP` and `BPF_SK_LOOKUP` of linux/bpf.h).
const SK_LOOKUP: (u32, u32) = (30, ATTACH_SK_LOOKUP);
const ATTACH_SK_LOOKUP: u32 = 36;
/// The constant that tells it the cookie of its namespace.
const COOKIE: &str = "NETNS_COOKIE";

/// Programs that open what is there with another value than the kernel's own default, by that value.
type Walks = HashMap<u32, Ebpf>;

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
        let mut stencil = Stencil::of(NAMESPACE_PROGRAM, &self.directory)?;
        let mut walks = Walks::new();
        for &(namespace, path) in namespaces {
            self.hand_over(namespace, &mut stencil)?;
            if path == Paths::WithDirect {
                self.gate(namespace, &mut walks)?;
            }
        }
        Ok(())
    }

    /// Connections that arrive go to the agent.
    fn hand_over(&mut self, namespace: &Namespace, stencil: &mut Stencil) -> Result<(), Error> {
        let program = stencil.load(SK_LOOKUP, (COOKIE, namespace.cookie()))?;
        let pin = format!("{NAMESPACE_PROGRAM}-{}", namespace.cookie());
        let pinned = links(&self.directory).join(&pin);
        if !link::replace(&pinned, &program)? {
            link::create(&pinned, &program, (namespace, ATTACH_SK_LOOKUP))?;
            self.fresh.push(Fresh::Pin(pin.clone()));
        }
        self.wanted.insert(pin);
        Ok(())
    }

    /// Sockets are shut until programs open them, but for those that are there.
    fn gate(&mut self, namespace: &Namespace, walks: &mut Walks) -> Result<(), Error> {
        let known = self.maps.usual_lowat(namespace.cookie())?;
        if known.is_none() {
            self.fresh.push(Fresh::Gate(namespace.try_clone().map_err(Error::Gate)?));
        }
        let usual = known.map_or_else(|| namespace.notsent_lowat().map_err(Error::Gate), Ok)?;
        self.maps.set_usual_lowat(namespace.cookie(), usual)?;
        existing::open(self.walk(usual, walks)?, namespace)?;
        namespace.set_notsent_lowat(0).map_err(Error::Gate)
    }

    /// Programs that open what is there with this value.
    fn walk<'a>(&'a mut self, usual: u32, walks: &'a mut Walks) -> Result<&'a mut Ebpf, Error> {
        if usual == u32::MAX {
            return Ok(&mut self.programs);
        }
        match walks.entry(usual) {
            Entry::Occupied(loaded) => Ok(loaded.into_mut()),
            Entry::Vacant(vacant) => {
                let programs = vacant.insert(load(&self.directory, &[(USUAL_LOWAT, usual)])?);
                existing::load(programs, &Btf::from_sys_fs().map_err(Error::Btf)?)?;
                Ok(programs)
            }
        }
    }
}
