//! An enrolled workload as its connections need it: who it is, what it may, and how much of it there may be at once.

use std::sync::Arc;

use enforcer_ebpf::Reason;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::control::snapshot::{Mode, Offload};
use crate::identity::Identity;
use crate::identity::store::{Credentials, Store};
use crate::observe::events::UserSpace;

/// Handshakes in flight per workload.
const HANDSHAKES: usize = 128;
/// Connections per workload.
const CONNECTIONS: usize = 16_384;

/// An enrolled workload.
pub struct Workload {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// What it proves to be.
    pub identity: Identity,
    /// What happens to connections that cannot be mutual TLS.
    pub mode: Mode,
    /// Where its records are made.
    pub offloading: Offloading,
    /// Permits to shake hands.
    pub handshakes: Semaphore,
    places: Arc<Semaphore>,
    store: Arc<Store>,
}

/// Where the records of a relayed connection are made, decided once for each workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offloading {
    /// In the kernel.
    Kernel,
    /// In user space, for this reason.
    UserSpace(UserSpace),
}

impl Offloading {
    /// Decides from what is wanted and whether the kernel has kTLS.
    #[must_use]
    pub fn decide(wanted: Offload, kernel_is_able: Result<(), ()>) -> Self {
        match (wanted, kernel_is_able) {
            (Offload::Off, _) => Self::UserSpace(UserSpace::PolicyOff),
            // In a relay the kernel's records cost 15 to 22 % more than ours.
            (Offload::Auto, _) => Self::UserSpace(UserSpace::RelayCheaper),
            (Offload::On, Ok(())) => Self::Kernel,
            (Offload::On, Err(())) => Self::UserSpace(UserSpace::KernelUnable),
        }
    }
}

impl Workload {
    /// Puts the parts together.
    #[must_use]
    pub fn new(name: &str, identity: Identity, (mode, offloading): (Mode, Offloading), store: Arc<Store>) -> Self {
        Self {
            name: name.into(),
            identity,
            mode,
            offloading,
            handshakes: Semaphore::new(HANDSHAKES),
            places: Arc::new(Semaphore::new(CONNECTIONS)),
            store,
        }
    }

    /// The current certificate.
    ///
    /// # Errors
    ///
    /// [`Reason::NoCertificate`], when there is none or it has expired.
    pub fn credentials(&self) -> Result<Arc<Credentials>, Reason> {
        self.store.get(&self.identity).map_err(|unavailable| {
            tracing::warn!(workload = %self.name, %unavailable, "no certificate");
            Reason::NoCertificate
        })
    }

    /// A place among the workload's connections, until it is dropped.
    ///
    /// # Errors
    ///
    /// [`Reason::TooManyConnections`].
    pub fn place(&self) -> Result<OwnedSemaphorePermit, Reason> {
        Arc::clone(&self.places).try_acquire_owned().map_err(|_full| Reason::TooManyConnections)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_go_to_the_kernel_only_when_asked_for_and_possible() {
        let user = Offloading::UserSpace;
        for able in [Ok(()), Err(())] {
            assert_eq!(Offloading::decide(Offload::Off, able), user(UserSpace::PolicyOff));
            assert_eq!(Offloading::decide(Offload::Auto, able), user(UserSpace::RelayCheaper));
        }
        assert_eq!(Offloading::decide(Offload::On, Ok(())), Offloading::Kernel);
        assert_eq!(Offloading::decide(Offload::On, Err(())), user(UserSpace::KernelUnable));
    }
}
