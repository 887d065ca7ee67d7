//! An enrolled workload as its connections need it: who it is, what it may, and how much of it there may be at once.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use enforcer_ebpf::{PortKey, Reason};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::choose::{Means, Wants};
use super::public::Public;
use crate::control::policy::Policy;
use crate::control::snapshot::{self, Offload, Snapshot, WantedPath};
use crate::identity::Identity;
use crate::identity::acme::Names;
use crate::identity::store::{Credentials, Store};
use crate::observe::events::{Direction, Offloaded, UserSpace};

/// Handshakes in flight per workload and direction. Counted apart for each direction, because two nodes whose turns
/// were all taken by connections to each other would wait for each other. A handshake is computation, so more at once
/// do not finish sooner, they only come nearer to their deadlines.
const HANDSHAKES: usize = 32;
/// Connections per workload.
const CONNECTIONS: usize = 16_384;

/// An enrolled workload.
pub struct Workload {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// What it proves to be.
    pub identity: Identity,
    /// Its cgroup's directory.
    pub cgroup: PathBuf,
    /// Its cgroup's id.
    pub cgroup_id: u64,
    /// The ports on which connections to it are taken, as the programs have them.
    pub ports: Vec<PortKey>,
    /// Where the records of its relayed connections are made.
    pub offload: Offloaded,
    /// Turns to shake hands on connections that the workload opens.
    pub opening: Semaphore,
    /// Turns to shake hands on connections that others open to it.
    pub answering: Semaphore,
    /// What it offers to clients without an identity.
    pub public: Option<Public>,
    policy: Mutex<Arc<Policy>>,
    means: Mutex<Means>,
    places: Arc<Semaphore>,
    store: Arc<Store>,
}

/// Where the records of a workload's relayed connections are made, from what is wanted and what the kernel can do.
#[must_use]
pub fn place_records(wanted: Offload, kernel_is_able: Result<(), ()>) -> Offloaded {
    match (wanted, kernel_is_able) {
        (Offload::Off, _) => Offloaded::UserSpace(UserSpace::PolicyOff),
        // In a relay the kernel's records cost 15 to 22 % more than ours.
        (Offload::Auto, _) => Offloaded::UserSpace(UserSpace::RelayCheaper),
        (Offload::On, Ok(())) => Offloaded::Kernel,
        (Offload::On, Err(())) => Offloaded::UserSpace(UserSpace::KernelUnable),
    }
}

impl Workload {
    /// Puts the parts together.
    #[must_use]
    pub fn new(
        wanted: &snapshot::Workload,
        snapshot: &Snapshot,
        (means, offload): (Means, Offloaded),
        (cgroup_id, ports): (u64, Vec<PortKey>),
        (store, certificates): (Arc<Store>, Option<&Names>),
    ) -> Self {
        let public = wanted.public.as_ref().zip(certificates);
        Self {
            name: wanted.name.as_str().into(),
            identity: wanted.identity.clone(),
            policy: Mutex::new(snapshot.policy_of(wanted)),
            means: Mutex::new(means),
            cgroup: wanted.cgroup.clone(),
            cgroup_id,
            ports,
            offload,
            opening: Semaphore::new(HANDSHAKES),
            answering: Semaphore::new(HANDSHAKES),
            public: public.map(|(wanted, certificates)| Public::new(wanted, certificates.clone())),
            places: Arc::new(Semaphore::new(CONNECTIONS)),
            store,
        }
    }

    /// What it wants and can have, for connections to this port.
    #[must_use]
    pub fn wants(&self, direction: Direction, port: u16) -> Wants {
        let policy = self.policy();
        Wants { mode: policy.mode_at(direction, port), path: policy.path, means: self.means() }
    }

    /// What policies say of it now.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on policies say this. What is open is not judged by it yet: see
    /// [`rules_changed`](super::rules_changed).
    pub fn set_policy(&self, policy: Arc<Policy>) {
        *self.policy.lock().unwrap_or_else(PoisonError::into_inner) = policy;
    }

    /// Which path its connections can take.
    #[must_use]
    pub fn means(&self) -> Means {
        *self.means.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// One of its programs has lost data on a direct connection. Whether that makes a difference.
    #[must_use]
    pub fn loses_the_end(&self) -> bool {
        let mut means = self.means.lock().unwrap_or_else(PoisonError::into_inner);
        let is_spared = self.policy().path == WantedPath::Auto && *means == Means::Direct;
        if is_spared {
            *means = Means::Relay(Reason::ProgramLosesTheEnd);
        }
        is_spared
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
        let user = Offloaded::UserSpace;
        for able in [Ok(()), Err(())] {
            assert_eq!(place_records(Offload::Off, able), user(UserSpace::PolicyOff));
            assert_eq!(place_records(Offload::Auto, able), user(UserSpace::RelayCheaper));
        }
        assert_eq!(place_records(Offload::On, Ok(())), Offloaded::Kernel);
        assert_eq!(place_records(Offload::On, Err(())), user(UserSpace::KernelUnable));
    }
}
