//! What is different between two snapshots. Pure: whoever puts a change in force looks nowhere else.
//!
//! Workloads and peers are told apart by their names. Their order in the file means nothing, and neither do labels: what
//! they select is in the policies.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use super::policy::Policy;
use super::snapshot::{Peer, Snapshot, Workload};

/// From one snapshot to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// What changed that cannot while the agent runs, if anything did.
    pub needs_restart: Option<String>,
    /// Of the workloads.
    pub workloads: Parts<WorkloadPart>,
    /// Of the peers.
    pub peers: Parts<PeerPart>,
}

/// What became of the objects of one kind, by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts<P> {
    /// They are new, in the order of the file.
    pub added: Vec<String>,
    /// They are gone, in the order of the file that had them.
    pub removed: Vec<String>,
    /// They are other ones than before, and how; never nothing.
    pub changed: Vec<(String, Vec<P>)>,
}

/// A part of a workload, with what policies say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkloadPart {
    /// What it proves to be.
    Identity,
    /// Its cgroup.
    Cgroup,
    /// Its network namespace.
    Network,
    /// The ports that are its own.
    Ports,
    /// Where the records of its relayed connections are made.
    Offload,
    /// How much of it there may be.
    Limits,
    /// Its public names.
    Public,
    /// Its mode and rules.
    Rules,
    /// Its path.
    Path,
}

/// A part of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerPart {
    /// Where it is found.
    Addresses,
    /// How it is spoken to, and whom it must prove to be.
    Speaks,
    /// Where its agent is.
    Agent,
}

impl Difference {
    /// Compares two snapshots.
    #[must_use]
    pub fn between(before: &Snapshot, after: &Snapshot) -> Self {
        let mut policies = Policies::default();
        let workloads = Parts::between(
            (before.workloads(), after.workloads()),
            |workload| &workload.name,
            |was, is| workload_parts((was, is), |changed| policies.compare((before, after), &is.name, changed)),
        );
        let peers = Parts::between((before.peers(), after.peers()), |peer| &peer.name, peer_parts);
        let needs_restart = needs_restart((before, after), &workloads);
        Self { needs_restart, workloads, peers }
    }

    /// Whether both say the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.needs_restart.is_none() && self.workloads.is_empty() && self.peers.is_empty()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "workloads: {}; peers: {}", self.workloads, self.peers)
    }
}

impl<P> Default for Parts<P> {
    fn default() -> Self {
        Self { added: Vec::new(), removed: Vec::new(), changed: Vec::new() }
    }
}

impl<P> Parts<P> {
    fn between<T>(
        (before, after): (&[T], &[T]),
        name: impl Fn(&T) -> &String,
        mut compare: impl FnMut(&T, &T) -> Vec<P>,
    ) -> Self {
        let mut left: HashMap<&String, &T> = before.iter().map(|object| (name(object), object)).collect();
        let mut parts = Self::default();
        for object in after {
            let Some(was) = left.remove(name(object)) else {
                parts.added.push(name(object).clone());
                continue;
            };
            let changed = compare(was, object);
            if !changed.is_empty() {
                parts.changed.push((name(object).clone(), changed));
            }
        }
        let gone = before.iter().map(name).filter(|name| left.contains_key(name));
        parts.removed = gone.cloned().collect();
        parts
    }

    /// Whether nothing became of any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

impl<P> fmt::Display for Parts<P> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { added, removed, changed } = self;
        write!(out, "{} added, {} removed, {} changed", added.len(), removed.len(), changed.len())
    }
}

impl WorkloadPart {
    /// Whether a workload with another one is another workload: connections of the old one are not those of the new.
    #[must_use]
    pub const fn is_enrolled(self) -> bool {
        matches!(self, Self::Identity | Self::Cgroup | Self::Network | Self::Ports)
    }
}

fn workload_parts(
    (was, is): (&Workload, &Workload),
    policies: impl FnOnce(&mut Vec<WorkloadPart>),
) -> Vec<WorkloadPart> {
    let parts = [
        (was.identity != is.identity, WorkloadPart::Identity),
        (was.cgroup != is.cgroup, WorkloadPart::Cgroup),
        (was.network != is.network, WorkloadPart::Network),
        (was.ports != is.ports, WorkloadPart::Ports),
        (was.offload != is.offload, WorkloadPart::Offload),
        (was.limits != is.limits, WorkloadPart::Limits),
        (was.public != is.public, WorkloadPart::Public),
    ];
    let mut changed = parts.into_iter().filter_map(|(is_changed, part)| is_changed.then_some(part)).collect();
    policies(&mut changed);
    changed
}

fn peer_parts(was: &Peer, is: &Peer) -> Vec<PeerPart> {
    let parts = [
        (was.addresses != is.addresses, PeerPart::Addresses),
        (was.speaks != is.speaks, PeerPart::Speaks),
        (was.agent != is.agent, PeerPart::Agent),
    ];
    parts.into_iter().filter_map(|(is_changed, part)| is_changed.then_some(part)).collect()
}

/// Pairs of policies that were compared. Many workloads share one.
#[derive(Default)]
struct Policies(HashMap<[*const Policy; 2], [bool; 2]>);

impl Policies {
    fn compare(&mut self, (before, after): (&Snapshot, &Snapshot), workload: &str, changed: &mut Vec<WorkloadPart>) {
        let (was, is) = (before.policy_for(workload), after.policy_for(workload));
        let compare = || {
            // All that there is but the path.
            let Policy { mode, path, inbound, outbound, ports, plaintext, terms } = &*was;
            let rules = (mode, inbound, outbound, ports, plaintext, terms);
            let has_rules = rules != (&is.mode, &is.inbound, &is.outbound, &is.ports, &is.plaintext, &is.terms);
            [has_rules, *path != is.path]
        };
        // Both snapshots keep them at their places.
        let [rules, path] = *self.0.entry([Arc::as_ptr(&was), Arc::as_ptr(&is)]).or_insert_with(compare);
        let parts = [(rules, WorkloadPart::Rules), (path, WorkloadPart::Path)];
        changed.extend(parts.into_iter().filter_map(|(is_changed, part)| is_changed.then_some(part)));
    }
}

/// The Node is built into the agent when it starts, and so are public names: one authority proves them all.
fn needs_restart((before, after): (&Snapshot, &Snapshot), workloads: &Parts<WorkloadPart>) -> Option<String> {
    if before.node() != after.node() {
        return Some("the Node".to_owned());
    }
    let [public_before, public_after] = [before, after].map(|snapshot| {
        let public = snapshot.workloads().iter().filter(|workload| workload.public.is_some());
        public.map(|workload| &workload.name).collect::<HashSet<_>>()
    });
    let changed = workloads.changed.iter().filter(|(_, parts)| parts.contains(&WorkloadPart::Public));
    let changed = changed.map(|(name, _)| name);
    let added = workloads.added.iter().filter(|name| public_after.contains(name));
    let removed = workloads.removed.iter().filter(|name| public_before.contains(name));
    let first = changed.chain(added).chain(removed).next()?;
    Some(format!("`public` of workload {first}"))
}

#[cfg(test)]
mod tests;
