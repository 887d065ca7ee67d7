//! An enrolled workload as its connections need it: who it is, what it may, and how much of it there may be at once.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use enforcer_ebpf::{PortKey, Reason};
use tokio::sync::Semaphore;

use super::choose::{Kernel, Means, Programs, Site, means};
use super::limits::Limits;
use super::picture::Home;
use super::public::Public;
use super::turns::{Lane, Turns};
use crate::control::snapshot::{self, Offload, WantedPath};
use crate::identity::Identity;
use crate::identity::acme::Names;
use crate::identity::store::{Credentials, Store};
use crate::observe::events::{Offloaded, UserSpace};

/// Handshakes in flight per workload and direction. Counted apart for each direction, because two nodes whose turns
/// were all taken by connections to each other would wait for each other. A handshake is computation, so more at once
/// do not finish sooner, they only come nearer to their deadlines.
const HANDSHAKES: usize = 32;

/// An enrolled workload. Immutable, but for what is counted; what may change while it is enrolled makes another one with
/// the same counts. What policies say of it is in the [picture](super::Picture).
#[derive(Clone)]
pub struct Workload {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// What it proves to be.
    pub identity: Identity,
    /// Its cgroup's directory.
    pub cgroup: PathBuf,
    /// Its cgroup's id.
    pub cgroup_id: u64,
    /// Its network namespace.
    pub home: Arc<Home>,
    /// The ports on which connections to it are taken, as the programs have them.
    pub ports: Vec<PortKey>,
    /// Where the records of its relayed connections are made.
    pub offload: Offloaded,
    /// Turns to shake hands on connections that the workload opens.
    pub opening: Arc<Semaphore>,
    /// Turns to shake hands on connections that others open to it.
    pub answering: Arc<Semaphore>,
    /// How much of it there may be.
    pub limits: Arc<Limits>,
    /// Turns to work on its connections.
    pub lane: Arc<Lane>,
    /// What it offers to clients without an identity.
    pub public: Option<Arc<Public>>,
    kernel: Kernel,
    site: Site,
    loses_the_end: Arc<AtomicBool>,
    store: Arc<Store>,
}

/// Where an enrolled workload is in the kernel, and what that can do.
pub struct Seat {
    /// Its cgroup's id.
    pub cgroup_id: u64,
    /// Its network namespace.
    pub home: Arc<Home>,
    /// What the kernel makes of direct connections.
    pub kernel: Kernel,
    /// What is known of its programs.
    pub programs: Programs,
    /// Where the records of its relayed connections are made.
    pub offload: Offloaded,
    /// Those of the node.
    pub turns: Turns,
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
    pub fn new(wanted: &snapshot::Workload, seat: Seat, (store, certificates): (Arc<Store>, Option<&Names>)) -> Self {
        let public = wanted.public.as_ref().zip(certificates);
        Self {
            name: wanted.name.as_str().into(),
            identity: wanted.identity.clone(),
            cgroup: wanted.cgroup.clone(),
            cgroup_id: seat.cgroup_id,
            ports: port_keys(&seat.home, wanted),
            offload: seat.offload,
            opening: Arc::new(Semaphore::new(HANDSHAKES)),
            answering: Arc::new(Semaphore::new(HANDSHAKES)),
            limits: Limits::new(&wanted.limits),
            lane: Arc::new(seat.turns.lane()),
            public: public.map(|(wanted, certificates)| Arc::new(Public::new(wanted, certificates.clone()))),
            kernel: seat.kernel,
            site: Site::of(&seat.home.namespace),
            loses_the_end: Arc::new(AtomicBool::new(seat.programs == Programs::LoseTheEnd)),
            store,
            home: seat.home,
        }
    }

    /// The same workload, with the records of its new relayed connections made there.
    #[must_use]
    pub fn with_offload(&self, offload: Offloaded) -> Self {
        Self { offload, ..self.clone() }
    }

    /// Whether it is the same one, since it was enrolled.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.limits, &other.limits)
    }

    /// Which path its connections can take, if this is wanted.
    #[must_use]
    pub fn means(&self, wanted: WantedPath) -> Means {
        let programs =
            if self.loses_the_end.load(Ordering::Relaxed) { Programs::LoseTheEnd } else { Programs::Unknown };
        means(wanted, (self.kernel, programs), self.site)
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

    /// One of its programs has lost data on a direct connection. Whether that makes a difference where this is wanted.
    #[must_use]
    pub fn loses_the_end(&self, wanted: WantedPath) -> bool {
        let is_spared = wanted == WantedPath::Auto && self.means(wanted) == Means::Direct;
        if is_spared {
            self.loses_the_end.store(true, Ordering::Relaxed);
        }
        is_spared
    }

    /// Handshakes of relayed connections that are being done now.
    #[must_use]
    pub fn shaking(&self) -> usize {
        2 * HANDSHAKES - self.opening.available_permits() - self.answering.available_permits()
    }
}

fn port_keys(home: &Home, wanted: &snapshot::Workload) -> Vec<PortKey> {
    let every = [0];
    let ports = wanted.ports.as_deref().unwrap_or(&every);
    ports.iter().map(|&port| PortKey { netns: home.namespace.cookie(), port: u32::from(port), reserved: 0 }).collect()
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
