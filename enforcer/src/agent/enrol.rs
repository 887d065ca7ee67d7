//! Enrolment: from a snapshot to namespaces, listeners, map entries and attached programs, and from one snapshot to the
//! next.
//!
//! ```text
//! plan      what there is to be, with everything made that nobody sees yet      a failure leaves no trace
//! put       the picture, programs, gates, then map entries                      a failure takes back what was put
//! remove    map entries of what is gone
//!           (the caller has everything that is open judged by the new picture)
//! release   programs, gates and listeners of what is gone
//! ```
//!
//! The order is what keeps everything sealed. Programs and gates come before the entries that send connections through
//! them; what the programs take and the agent does not know, or the agent is not listening for, is refused. What is held
//! is ended before its locks go.

mod member;
mod plan;
mod post;

use std::collections::HashMap;
use std::sync::Arc;

use enforcer_ebpf::{
    PEER_DIRECT, PEER_PLAINTEXT, PEER_RELAY, PORT_DIRECT, PORT_FREE, PORT_RELAY, PortKey, Reason, WorkloadValue,
};
use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use super::Error;
use crate::connection::turns::Turns;
use crate::connection::{Current, Homes, Kernel, Means, Picture, Workload};
use crate::control::snapshot::{Peer, Snapshot, Speaks};
use crate::identity::acme::Names;
use crate::identity::store::Store;
use crate::identity::workload_api;
use crate::kernel::bpf::{self, Events, Guard, Outside, Paths, Tables};
use crate::kernel::memory;
use crate::kernel::probe::Abilities;
use member::{Member, open_cgroup, whereabouts};
use plan::Plan;
pub(super) use post::Listening;
use post::Post;

/// Those of identities, and those of public names, if there are any.
pub(super) type Certificates = (Arc<Store>, Option<Names>);

/// What is enrolled. One change at a time.
pub(super) struct Enrolment {
    guard: Guard,
    certificates: Certificates,
    kernel: Kernel,
    /// Whether it takes TLS records.
    has_ktls: bool,
    homes: Homes,
    /// Ends all listeners.
    closing: CancellationToken,
    enrolled: Enrolled,
    /// Turns at the processors.
    turns: Turns,
    /// Programs of direct connections are loaded.
    is_prepared: bool,
    /// Where they tell, until somebody listens.
    events: Option<Events>,
}

/// What there is at one moment.
#[derive(Clone, Default)]
struct Enrolled {
    /// By name.
    members: HashMap<String, Member>,
    /// By the cookies of their namespaces.
    posts: HashMap<u64, Post>,
    /// With which programs each cgroup is enrolled.
    cgroups: HashMap<u64, Paths>,
    /// What is in the maps.
    tables: Tables,
}

/// What somebody has to listen to from now on.
pub(super) struct Opened {
    pub(super) listeners: Vec<Listening>,
    /// What programs tell of direct connections, when there may be some for the first time.
    pub(super) events: Option<Events>,
}

/// What was changed.
pub(super) struct Changed {
    pub(super) opened: Opened,
    /// Entries that were written into the maps that programs look connections up in, or removed.
    pub(super) entries: usize,
    /// What has to be released once nobody uses it any more.
    pub(super) leftover: Leftover,
}

/// What there was before.
pub(super) struct Leftover(Enrolled);

/// Puts the first snapshot in force. What an earlier agent has left in the kernel is taken over.
pub(super) fn start(
    snapshot: &Arc<Snapshot>,
    (guard, abilities): (Guard, &Abilities),
    certificates: Certificates,
    closing: &CancellationToken,
) -> Result<(Enrolment, Current, Opened), Error> {
    let tables = guard.maps.taken().read()?;
    let mut enrolment = Enrolment {
        guard,
        certificates,
        kernel: Kernel::of(abilities),
        has_ktls: abilities.ktls().is_ok(),
        homes: Homes::default(),
        closing: closing.clone(),
        enrolled: Enrolled { tables, ..Enrolled::default() },
        turns: Turns::default(),
        is_prepared: false,
        events: None,
    };
    let here = whereabouts()?;
    for path in &snapshot.node().guard {
        enrolment.guard.shut(&open_cgroup(path, &here)?)?;
    }
    let plan = enrolment.plan(snapshot)?;
    let current = Current::new(Arc::clone(&plan.picture));
    let changed = enrolment.change(plan, &current)?;
    let cgroups = enrolment.enrolled.tables.workloads.keys().copied().collect();
    enrolment.guard.maps.misses().keep_only(&cgroups)?;
    enrolment.guard.sweep()?;
    enrolment.sweep_outside()?;
    Ok((enrolment, current, changed.opened))
}

impl Enrolment {
    /// The namespaces with enrolled workloads.
    pub(super) fn homes(&self) -> &Homes {
        &self.homes
    }

    /// Turns at the processors.
    pub(super) fn turns(&self) -> &Turns {
        &self.turns
    }

    /// The programs and maps.
    pub(super) fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Puts a plan in force: its picture, and what programs look up. When that fails everything is as it was, and what was
    /// judged by the new picture meanwhile has to be judged again.
    pub(super) fn change(&mut self, plan: Plan, current: &Current) -> Result<Changed, Error> {
        let before = current.picture();
        self.enrolled.posts_missing_of(&plan.next).for_each(|post| self.homes.add(Arc::clone(&post.home)));
        current.put(Arc::clone(&plan.picture));
        match self.put(&plan) {
            Ok(entries) => Ok(self.settle(plan, entries)),
            Err(error) => {
                current.put(before);
                self.take_back(&plan);
                Err(error)
            }
        }
    }

    /// All that can fail.
    fn put(&mut self, plan: &Plan) -> Result<usize, Error> {
        let (was, next) = (&self.enrolled, &plan.next);
        if next.posts.values().any(|post| post.paths == Paths::WithDirect) && !self.is_prepared {
            self.events = Some(self.guard.prepare_direct()?);
            self.is_prepared = true;
        }
        for member in next.members.values() {
            let paths = next.cgroups.get(&member.cgroup.id());
            if let Some(paths) = paths.filter(|paths| was.cgroups.get(&member.cgroup.id()) != Some(paths)) {
                self.guard.enrol(&member.cgroup, *paths)?;
            }
        }
        let is_new = |netns: &u64, post: &Post| match was.posts.get(netns).map(|post| post.paths) {
            None => true,
            Some(Paths::Relay) => post.paths == Paths::WithDirect,
            Some(Paths::WithDirect) => false,
        };
        let new = next.posts.iter().filter(|(netns, post)| is_new(netns, post));
        let new: Vec<_> = new.map(|(_, post)| (&*post.home.namespace, post.paths)).collect();
        self.guard.guard_namespaces(&new)?;
        self.guard.maps.misses().add(was.cgroups_missing_of(next))?;
        let written = self.guard.maps.taken().put(&was.tables, &next.tables)?;
        for Listening { key, socket, .. } in &plan.listeners {
            self.guard.maps.set_listener(*key, socket)?;
        }
        Ok(written + self.guard.maps.taken().remove(&was.tables, &next.tables)?)
    }

    fn settle(&mut self, Plan { next, listeners, .. }: Plan, entries: usize) -> Changed {
        self.guard.settle();
        memory::give_back();
        next.members.values().for_each(|member| member.workload.limits.set(&member.wanted.limits));
        let before = std::mem::replace(&mut self.enrolled, next);
        let opened = Opened { listeners, events: self.events.take() };
        Changed { opened, entries, leftover: Leftover(before) }
    }

    /// Makes everything what it was. What cannot be undone still refuses, and the next start mends it.
    fn take_back(&mut self, Plan { next, .. }: &Plan) {
        let restored = self.guard.maps.taken().restore(&self.enrolled.tables, &next.tables);
        let taken_back = self.guard.take_back();
        for error in [restored, taken_back].into_iter().filter_map(Result::err) {
            tracing::error!(%error, "a change of the configuration has failed, and is not undone in whole; restart the agent");
        }
        self.guard.maps.misses().remove(self.enrolled.cgroups_missing_of(next));
        self.leave(self.enrolled.posts_missing_of(next));
    }

    /// Lets go of what was there before and is not any more. Nobody may have connections there.
    pub(super) fn release(&mut self, Leftover(before): Leftover) {
        for error in self.release_programs(&before).into_iter().filter_map(Result::err) {
            tracing::error!(%error, "something of a workload that is gone stays in the kernel until the agent restarts");
        }
        self.guard.maps.misses().remove(self.enrolled.cgroups_missing_of(&before));
        self.leave(self.enrolled.posts_missing_of(&before));
        if let Err(error) = self.sweep_outside() {
            tracing::error!(%error, "rules of workloads that are gone stay in the kernel until the next change");
        }
    }

    /// Removes what nobody has any more of what programs know of destinations outside the mesh.
    fn sweep_outside(&self) -> Result<(), Error> {
        let outside = self.guard.maps.outside();
        outside.retain_namespaces(&self.enrolled.posts.keys().copied().collect())?;
        Ok(outside.sweep(&self.enrolled.tables.workloads.values().map(|value| value.egress).collect())?)
    }

    fn release_programs(&mut self, before: &Enrolled) -> Vec<Result<(), bpf::Error>> {
        let mut released = Vec::new();
        for (netns, post) in &before.posts {
            let namespace = &post.home.namespace;
            match self.enrolled.posts.get(netns) {
                None => released.push(self.guard.release_namespace(namespace)),
                Some(now) if (post.paths, now.paths) == (Paths::WithDirect, Paths::Relay) => {
                    released.push(self.guard.ungate(namespace));
                }
                Some(_) => {}
            }
        }
        for (cgroup, was) in &before.cgroups {
            let now = self.enrolled.cgroups.get(cgroup);
            if now != Some(was) {
                released.push(self.guard.release_cgroup(*cgroup, now.copied()));
            }
        }
        released
    }

    /// Nobody listens in these namespaces any more, and nothing is ended there.
    fn leave<'a>(&self, posts: impl Iterator<Item = &'a Post>) {
        posts.for_each(|post| {
            post.listening.cancel();
            self.homes.remove(post.home.namespace.cookie());
        });
    }
}

impl Enrolled {
    /// Cgroups that the other has and this one has not.
    fn cgroups_missing_of(&self, other: &Self) -> impl Iterator<Item = u64> {
        other.cgroups.keys().copied().filter(|cgroup| !self.cgroups.contains_key(cgroup))
    }

    /// Namespaces that the other has and this one has not.
    fn posts_missing_of<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a Post> {
        other.posts.values().filter(|post| !self.posts.contains_key(&post.home.namespace.cookie()))
    }
}

/// The enrolled workloads as the Workload API recognises them; their namespaces are held.
pub(super) fn recognised(picture: &Picture) -> HashMap<u64, workload_api::Member> {
    let member = |workload: &Arc<Workload>| {
        let Workload { name, identity, home, cgroup_id, .. } = &**workload;
        (*cgroup_id, workload_api::Member { name: Arc::clone(name), identity: identity.clone(), namespace: home.id })
    };
    picture.workloads.iter().map(member).collect()
}

/// What the programs look up, where this picture is in force and these ports are listened on. The terms on which workloads
/// reach what is outside the mesh are in the programs' reach afterwards, and nobody has them yet.
fn tables(picture: &Picture, posts: &HashMap<u64, Post>, outside: &Outside) -> Result<Tables, Error> {
    let mut tables =
        Tables { peers: picture.snapshot.peers().iter().flat_map(prefixes).collect(), ..Tables::default() };
    for &netns in posts.keys() {
        // Until a workload there takes every port.
        tables.ports.insert(PortKey { netns, port: 0, reserved: 0 }, PORT_FREE);
    }
    for workload in &picture.workloads {
        let Some(post) = posts.get(&workload.home.namespace.cookie()) else { continue };
        let (means, policy) = (picture.means(workload), picture.policy_of(workload));
        let (direct, loses) = (means == Means::Direct, means == Means::Relay(Reason::ProgramLosesTheEnd));
        let value = WorkloadValue {
            direct: direct.into(),
            loses_the_end: loses.into(),
            egress: outside.number(&policy.terms)?,
            others: policy.others().0.action().into(),
            ..post.value
        };
        tables.workloads.insert(workload.cgroup_id, value);
        let kind = if direct { PORT_DIRECT } else { PORT_RELAY };
        tables.ports.extend(workload.ports.iter().map(|key| (*key, kind)));
    }
    Ok(tables)
}

/// The prefixes of a peer, and how connections with it are taken.
fn prefixes(peer: &Peer) -> impl Iterator<Item = (IpNet, u32)> {
    let kind = match (&peer.speaks, peer.agent) {
        (Speaks::Enforcer(_), Some(_)) => PEER_DIRECT,
        (Speaks::Enforcer(_) | Speaks::Mtls(_), _) => PEER_RELAY,
        (Speaks::Plaintext, _) => PEER_PLAINTEXT,
    };
    peer.addresses.iter().map(move |prefix| (*prefix, kind))
}
