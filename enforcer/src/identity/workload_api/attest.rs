//! Which enrolled workload a process is: the one whose control group it is in, or one below it, if it is also in that
//! workload's network namespace.
//!
//! Both are asked of the kernel, about the process that connected (`kernel::caller`), and nothing that the process says
//! plays a part. A process that is in one of the two only is nobody: a container that shares the network of another, or
//! a process that has left for a namespace of its own making.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::identity::Identity;
use crate::identity::request::blocking;
use crate::kernel::caller::{Caller, Place};
use crate::kernel::netns;

/// Looks into /proc at once. They are short, and whoever waits has its turn in order.
const LOOKS: usize = 8;
/// Connections of one workload, and as many of all processes together that are none.
const CONNECTIONS: usize = 64;
/// Connections of all.
const ALL_CONNECTIONS: usize = 1024;
/// Open calls of one workload.
const STREAMS: usize = 64;
/// Open calls of all.
const ALL_STREAMS: usize = 1024;

/// An enrolled workload, as it is recognised.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// Its name, unique on the node.
    pub name: Arc<str>,
    /// What it proves to be.
    pub identity: Identity,
    /// Its network namespace, which must be held open.
    pub namespace: netns::Id,
}

/// Who is served, by the ids of the control groups. Clones are the same roll.
#[derive(Clone, Debug)]
pub struct Roll(Arc<watch::Sender<Residents>>);

type Residents = HashMap<u64, Arc<Resident>>;

impl Roll {
    /// These, until something else is said.
    #[must_use]
    pub fn new(members: HashMap<u64, Member>) -> Self {
        let roll = Self(Arc::default());
        roll.set(members);
        roll
    }

    /// These from now on. Calls of others end.
    pub fn set(&self, members: HashMap<u64, Member>) {
        self.0.send_modify(|residents| {
            let mut before = std::mem::take(residents);
            let resident = |(group, member): (u64, Member)| {
                let known = before.remove(&group).filter(|resident| resident.member == member);
                (group, known.unwrap_or_else(|| Arc::new(Resident::new(member))))
            };
            *residents = members.into_iter().map(resident).collect();
        });
    }
}

/// A workload and how much of the API it has in use.
#[derive(Debug)]
pub(super) struct Resident {
    pub(super) member: Member,
    connections: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl Resident {
    fn new(member: Member) -> Self {
        let (connections, streams) = (Semaphore::new(CONNECTIONS), Semaphore::new(STREAMS));
        Self { member, connections: Arc::new(connections), streams: Arc::new(streams) }
    }
}

/// A share of what there is, until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    _own: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// A process is no enrolled workload.
#[derive(Debug)]
pub(super) enum Nobody {
    /// It is in no workload's control group.
    Group,
    /// It is in the control group of this workload, but not in its network namespace.
    Namespace(Arc<str>),
    /// It has ended, or cannot be looked at.
    Unseen(io::Error),
}

impl fmt::Display for Nobody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group => f.write_str("it is in the control group of no enrolled workload"),
            Self::Namespace(name) => {
                write!(f, "it is in the control group of {name}, but not in its network namespace")
            }
            Self::Unseen(cause) => write!(f, "it cannot be looked at: {cause}"),
        }
    }
}

/// All workloads that are served.
#[derive(Debug)]
pub(super) struct Members {
    roll: Roll,
    looks: Semaphore,
    strangers: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl Members {
    pub(super) fn new(roll: Roll) -> Self {
        Self {
            roll,
            looks: Semaphore::new(LOOKS),
            strangers: Arc::new(Semaphore::new(CONNECTIONS)),
            connections: Arc::new(Semaphore::new(ALL_CONNECTIONS)),
            streams: Arc::new(Semaphore::new(ALL_STREAMS)),
        }
    }

    /// Who the process is now.
    pub(super) async fn find(&self, caller: &Arc<Caller>) -> Result<Arc<Resident>, Nobody> {
        let _turn = self.looks.acquire().await;
        let caller = Arc::clone(caller);
        let place = blocking(move || caller.place()).await.map_err(Nobody::Unseen)?;
        self.at(&place)
    }

    /// Returns when this workload is not enrolled any more, or another one.
    pub(super) async fn left(&self, resident: &Arc<Resident>) {
        let mut residents = self.roll.0.subscribe();
        let is_there = |residents: &Residents| residents.values().any(|there| Arc::ptr_eq(there, resident));
        // An error: nobody is enrolled any more.
        let _left = residents.wait_for(|residents| !is_there(residents)).await;
    }

    /// The workload in this place. Workloads' control groups are not inside each other, so there is one at most.
    fn at(&self, place: &Place) -> Result<Arc<Resident>, Nobody> {
        let residents = self.roll.0.borrow();
        let resident = place.groups.iter().find_map(|group| residents.get(group)).ok_or(Nobody::Group)?;
        let member = &resident.member;
        if member.namespace == place.namespace {
            Ok(Arc::clone(resident))
        } else {
            Err(Nobody::Namespace(Arc::clone(&member.name)))
        }
    }

    /// A share for a connection of this workload, or of somebody who is none.
    pub(super) fn connection(&self, resident: Option<&Resident>) -> Option<Share> {
        share(resident.map_or(&self.strangers, |resident| &resident.connections), &self.connections)
    }

    /// A share for a call.
    pub(super) fn stream(&self, resident: &Resident) -> Option<Share> {
        share(&resident.streams, &self.streams)
    }
}

fn share(own: &Arc<Semaphore>, of_all: &Arc<Semaphore>) -> Option<Share> {
    let own = Arc::clone(own).try_acquire_owned().ok()?;
    Some(Share { _own: own, _of_all: Arc::clone(of_all).try_acquire_owned().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_and_namespace_must_be_of_one_workload() {
        let here = netns::Id::of_process(std::process::id()).unwrap();
        let elsewhere = netns::tests::new_namespace().id().unwrap();
        let member = |name: &str, namespace| {
            let identity = format!("spiffe://example.org/ns/default/sa/{name}").parse().unwrap();
            Member { name: name.into(), identity, namespace }
        };
        let roll = Roll::new(HashMap::from([(7, member("web", here)), (9, member("db", elsewhere))]));
        let members = Members::new(roll);
        for (groups, namespace, expected) in [
            (vec![7, 1], here, Ok("web")),
            (vec![71, 70, 7, 1], here, Ok("web")),
            (vec![9, 1], elsewhere, Ok("db")),
            (vec![7, 1], elsewhere, Err("of web, but not in its network namespace")),
            (vec![9, 1], here, Err("of db, but not in its network namespace")),
            (vec![8, 1], here, Err("of no enrolled workload")),
            (vec![], here, Err("of no enrolled workload")),
        ] {
            match (members.at(&Place { groups: groups.clone(), namespace }), expected) {
                (Ok(found), Ok(name)) => assert_eq!(&*found.member.name, name, "{groups:?}"),
                (Err(nobody), Err(why)) => assert!(nobody.to_string().contains(why), "{nobody}"),
                (found, _) => panic!("{groups:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn nobody_takes_the_shares_of_others() {
        let namespace = netns::Id::of_process(std::process::id()).unwrap();
        let identity: Identity = "spiffe://example.org/a".parse().unwrap();
        let member = |name: &str| Member { name: name.into(), identity: identity.clone(), namespace };
        let members = Members::new(Roll::new(HashMap::from([(1, member("a")), (2, member("b"))])));
        let [a, b] = [1, 2].map(|group| Arc::clone(&members.roll.0.borrow()[&group]));
        let strangers: Vec<_> = std::iter::from_fn(|| members.connection(None)).collect();
        let of_a: Vec<_> = std::iter::from_fn(|| members.connection(Some(&a))).collect();
        let streams: Vec<_> = std::iter::from_fn(|| members.stream(&a)).collect();
        assert_eq!((strangers.len(), of_a.len(), streams.len()), (CONNECTIONS, CONNECTIONS, STREAMS));
        assert!(members.connection(Some(&b)).is_some() && members.stream(&b).is_some());
        drop(streams);
        assert!(members.stream(&a).is_some());
    }

    #[tokio::test]
    async fn who_stays_keeps_its_shares_and_who_has_left_is_told() {
        let namespace = netns::Id::of_process(std::process::id()).unwrap();
        let member = |name: &str, identity: &str| {
            let identity = format!("spiffe://example.org/{identity}").parse().unwrap();
            Member { name: name.into(), identity, namespace }
        };
        let roll = Roll::new(HashMap::from([(1, member("a", "a")), (2, member("b", "b")), (3, member("c", "c"))]));
        let members = Members::new(roll.clone());
        let find = |group| members.at(&Place { groups: vec![group], namespace }).ok();
        let [a, b, c] = [1, 2, 3].map(|group| find(group).unwrap());
        roll.set(HashMap::from([(1, member("a", "a")), (2, member("b", "other"))]));
        assert!(Arc::ptr_eq(&find(1).unwrap(), &a));
        assert_eq!(find(2).unwrap().member.identity.as_str(), "spiffe://example.org/other");
        assert!(find(3).is_none());
        members.left(&b).await;
        members.left(&c).await;
        let is_told = tokio::time::timeout(std::time::Duration::ZERO, members.left(&a)).await;
        assert!(is_told.is_err(), "it is still there");
    }
}
