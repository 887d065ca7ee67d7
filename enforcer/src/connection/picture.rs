//! What is in force: the snapshot, and what is enrolled of it. One picture at a time, immutable; a change of the
//! configuration puts the next one in its place.
//!
//! Whoever judges takes the picture once and judges by it alone, so that no connection is let be by half of one
//! configuration and half of another. Who judges something that stays open subscribes to changes before; it is told when
//! the kernel's tables follow the picture too, and judges again.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::watch;

use super::choose::{Means, Wants};
use super::workload::Workload;
use crate::control::policy::Policy;
use crate::control::snapshot::{Peer, Snapshot};
use crate::identity::Identity;
use crate::kernel::destroy::Destroyer;
use crate::kernel::netns::{Id, Namespace};

/// What is in force at one moment.
pub struct Picture {
    /// What is wanted.
    pub snapshot: Arc<Snapshot>,
    /// The enrolled workloads, in the order of the snapshot.
    pub workloads: Vec<Arc<Workload>>,
    /// Those whose agents may open pair sessions: see [`Snapshot::paired`].
    pub paired: Arc<HashSet<Identity>>,
    by_cgroup: HashMap<u64, Arc<Workload>>,
    /// By the cookie of a namespace and a port there; port 0 is every port.
    by_port: HashMap<(u64, u32), Arc<Workload>>,
}

impl Picture {
    /// Puts the parts together.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>, workloads: Vec<Arc<Workload>>) -> Self {
        let by_cgroup = workloads.iter().map(|workload| (workload.cgroup_id, Arc::clone(workload))).collect();
        let ports = |workload: &Arc<Workload>| {
            let workload = Arc::clone(workload);
            let keys = workload.ports.clone().into_iter();
            keys.map(move |key| ((key.netns, key.port), Arc::clone(&workload)))
        };
        let by_port = workloads.iter().flat_map(ports).collect();
        Self { paired: Arc::new(snapshot.paired()), snapshot, workloads, by_cgroup, by_port }
    }

    /// The workload of a cgroup.
    #[must_use]
    pub fn workload_of(&self, cgroup: u64) -> Option<&Arc<Workload>> {
        self.by_cgroup.get(&cgroup)
    }

    /// The workload to which connections to this port of this namespace belong.
    #[must_use]
    pub fn workload_at(&self, netns: u64, port: u16) -> Option<&Arc<Workload>> {
        self.by_port.get(&(netns, u32::from(port))).or_else(|| self.by_port.get(&(netns, 0)))
    }

    /// Whether a workload is enrolled, and has been all the time: one that was removed and is back is another one.
    #[must_use]
    pub fn has(&self, workload: &Workload) -> bool {
        self.by_cgroup.get(&workload.cgroup_id).is_some_and(|enrolled| enrolled.is_same(workload))
    }

    /// What policies say of a workload.
    #[must_use]
    pub fn policy_of(&self, workload: &Workload) -> Arc<Policy> {
        self.snapshot.policy_for(&workload.name)
    }

    /// What a workload wants and can have.
    #[must_use]
    pub fn wants(&self, workload: &Workload) -> Wants {
        let policy = self.policy_of(workload);
        Wants { mode: policy.mode, path: policy.path, means: workload.means(policy.path) }
    }

    /// Which path the connections of a workload can take.
    #[must_use]
    pub fn means(&self, workload: &Workload) -> Means {
        workload.means(self.policy_of(workload).path)
    }

    /// What the registry knows of an address.
    #[must_use]
    pub fn peer_of(&self, address: IpAddr) -> Option<&Peer> {
        self.snapshot.peer_of(address)
    }

    /// Whether the registry has this identity at this address.
    #[must_use]
    pub fn is_at(&self, identity: &Identity, address: IpAddr) -> bool {
        self.peer_of(address).and_then(|peer| peer.speaks.identity()) == Some(identity)
    }
}

/// The picture that is in force. Clones are the same one.
#[derive(Clone)]
pub struct Current(Arc<Place>);

struct Place {
    picture: RwLock<Arc<Picture>>,
    /// Counts changes that whoever is open has to be judged by.
    changes: watch::Sender<u64>,
}

impl Current {
    /// This one, until there is another.
    #[must_use]
    pub fn new(picture: Arc<Picture>) -> Self {
        Self(Arc::new(Place { picture: RwLock::new(picture), changes: watch::Sender::new(0) }))
    }

    /// The picture.
    #[must_use]
    pub fn picture(&self) -> Arc<Picture> {
        Arc::clone(&self.0.picture.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on everything is judged by this one. What is open is not yet: see
    /// [`changed`](super::changed).
    pub fn put(&self, picture: Arc<Picture>) {
        *self.0.picture.write().unwrap_or_else(PoisonError::into_inner) = picture;
    }

    /// Tells of changes from now on.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Has everything that is open judged by the picture as it is now.
    pub(super) fn tell(&self) {
        self.0.changes.send_modify(|changes| *changes += 1);
    }
}

/// A network namespace with enrolled workloads, for as long as any of them is enrolled or has connections.
pub struct Home {
    /// The namespace.
    pub namespace: Arc<Namespace>,
    /// What its file is known by.
    pub id: Id,
    /// Ends connections there.
    pub destroyer: Destroyer,
}

/// The homes by the cookies of their namespaces. Clones are the same ones.
#[derive(Clone, Default)]
pub struct Homes(Arc<Mutex<HashMap<u64, Arc<Home>>>>);

impl Homes {
    /// Adds one.
    pub fn add(&self, home: Arc<Home>) {
        self.locked(|homes| homes.insert(home.namespace.cookie(), home));
    }

    /// Removes one.
    pub fn remove(&self, netns: u64) {
        self.locked(|homes| homes.remove(&netns));
    }

    /// The one of this namespace.
    #[must_use]
    pub fn of(&self, netns: u64) -> Option<Arc<Home>> {
        self.locked(|homes| homes.get(&netns).cloned())
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Home>> {
        self.locked(|homes| homes.values().cloned().collect())
    }

    /// What it protects stays whole when a holder panics: every change is one insert or removal.
    fn locked<T>(&self, work: impl FnOnce(&mut HashMap<u64, Arc<Home>>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
