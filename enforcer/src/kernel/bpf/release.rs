//! Letting go of single cgroups and namespaces, and undoing what was begun.
//!
//! What is held must have been ended before: without the programs nothing locks it.

use std::fs;
use std::io;

use super::namespaces::NAMESPACE_PROGRAM;
use super::{CGROUP_PROGRAMS, DIRECT_PROGRAMS, Error, Guard, Paths, links};
use crate::kernel::netns::Namespace;

/// Something that was not there before.
pub(super) enum Fresh {
    /// A link, by the name of its pin.
    Pin(String),
    /// The gate of a namespace.
    Gate(Namespace),
}

impl Guard {
    /// What was done until now stays.
    pub fn settle(&mut self) {
        self.fresh.clear();
    }

    /// Undoes what was done since the last [`Self::settle`]. Programs that were replaced stay: they are the same ones.
    ///
    /// # Errors
    ///
    /// [`Error`], for the first thing that cannot be undone; the others are all the same.
    pub fn take_back(&mut self) -> Result<(), Error> {
        let fresh = std::mem::take(&mut self.fresh);
        let undone = fresh.into_iter().rev().map(|fresh| match fresh {
            Fresh::Pin(pin) => self.unpin(&pin),
            Fresh::Gate(namespace) => self.ungate(&namespace),
        });
        undone.fold(Ok(()), Result::and)
    }

    /// Detaches the programs from a cgroup, except for those of these paths, if it has some still.
    ///
    /// # Errors
    ///
    /// [`Error::Directory`].
    pub fn release_cgroup(&mut self, cgroup: u64, kept: Option<Paths>) -> Result<(), Error> {
        let (direct, all) = (&DIRECT_PROGRAMS[..], &CGROUP_PROGRAMS[..]);
        let released = match kept {
            Some(Paths::WithDirect) => [&[][..], &[]],
            Some(Paths::Relay) => [direct, &[]],
            // The gates go before the locks: nothing is held that is not locked.
            None => [all, direct],
        };
        released.into_iter().flatten().try_for_each(|(name, _)| self.unpin(&format!("{name}-{cgroup}")))
    }

    /// Leaves a namespace to itself: what arrives there is not handed over any more, and its sockets are open.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn release_namespace(&mut self, namespace: &Namespace) -> Result<(), Error> {
        self.ungate(namespace)?;
        self.unpin(&format!("{NAMESPACE_PROGRAM}-{}", namespace.cookie()))
    }

    /// Gives a namespace the write gate that was usual there, if its sockets are gated, by whichever agent.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn ungate(&mut self, namespace: &Namespace) -> Result<(), Error> {
        let Some(usual) = self.maps.usual_lowat(namespace.cookie())? else { return Ok(()) };
        // First: a socket that is born meanwhile is open either way.
        namespace.set_notsent_lowat(usual).map_err(Error::Gate)?;
        self.maps.forget_usual_lowat(namespace.cookie())
    }

    fn unpin(&mut self, pin: &str) -> Result<(), Error> {
        self.wanted.remove(pin);
        let path = links(&self.directory).join(pin);
        match fs::remove_file(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(Error::Directory { path, cause }),
            _ => Ok(()),
        }
    }
}
