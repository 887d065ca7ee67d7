//! Enrolment: from the snapshot to namespaces, listeners, map entries and attached programs.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use enforcer_ebpf::{
    DIRECTION_INBOUND, DIRECTION_OUTBOUND, ListenerKey, PEER_DIRECT, PEER_PLAINTEXT, PEER_RELAY, PORT_DIRECT,
    PORT_FREE, PORT_RELAY, PortKey, Reason, WorkloadValue,
};
use ipnet::IpNet;
use tokio::net::TcpListener;

use super::{Error, own_addresses};
use crate::connection::{Kernel, Listener, Means, Place, Programs, Site, Workload, means, place_records};
use crate::control::snapshot::{self, Peer, Snapshot, Speaks};
use crate::identity::acme::Names;
use crate::identity::store::Store;
use crate::identity::workload_api;
use crate::kernel::bpf::{Events, Guard, Outside, Paths, Taken};
use crate::kernel::cgroup::Cgroup;
use crate::kernel::netns::Namespace;
use crate::kernel::probe::Abilities;
use crate::kernel::socket::{Side, listen};
use crate::observe::events::Direction;

/// What is there once everything is in place.
pub(super) struct Enrolled {
    /// In the order of the snapshot, as far as they are in one namespace.
    pub(super) workloads: Vec<Arc<Workload>>,
    pub(super) by_cgroup: HashMap<u64, Arc<Workload>>,
    /// The same as the Workload API recognises them; their namespaces are held by `places`.
    pub(super) members: HashMap<u64, workload_api::Member>,
    pub(super) listeners: Vec<(Arc<Listener>, TcpListener)>,
    pub(super) places: Vec<Arc<Place>>,
    /// Where programs tell of direct connections, if there may be any.
    pub(super) events: Option<Events>,
}

/// Those of identities, and those of public names, if there are any.
type Certificates<'a> = (&'a Arc<Store>, Option<&'a Names>);

/// A workload with what belongs to it in the kernel.
struct Member {
    wanted: snapshot::Workload,
    workload: Arc<Workload>,
    cgroup: Cgroup,
}

/// The workloads of one namespace.
struct Group {
    namespace: Namespace,
    members: Vec<Member>,
}

impl Group {
    /// True when some of its workloads may have direct connections, or may have had some: then its sockets are gated.
    fn has_direct(&self) -> bool {
        let mut means = self.members.iter().map(|member| member.workload.means());
        means.any(|means| matches!(means, Means::Direct | Means::Relay(Reason::ProgramLosesTheEnd)))
    }
}

/// Puts the snapshot in force.
pub(super) fn enrol(
    snapshot: &Snapshot,
    abilities: &Abilities,
    certificates: Certificates<'_>,
    guard: &mut Guard,
) -> Result<Enrolled, Error> {
    let (taken, outside) = (guard.maps.taken(), guard.maps.outside());
    let groups = group(snapshot, abilities, certificates, &taken)?;
    let is_direct = groups.iter().any(Group::has_direct);
    let events = if is_direct { Some(guard.prepare_direct()?) } else { None };
    let mut enrolled = Enrolled {
        workloads: Vec::new(),
        by_cgroup: HashMap::new(),
        members: HashMap::new(),
        listeners: Vec::new(),
        places: Vec::new(),
        events,
    };
    let mut tables = Tables::default();
    let mut guarded = Vec::new();
    for group in groups {
        let paths = if group.has_direct() { Paths::WithDirect } else { Paths::Relay };
        let (place, members) = place(group);
        let value = open_listeners(&place, &members, guard, &mut enrolled.listeners)?;
        own_addresses::follow(&place, &outside)?;
        if place.everything.is_none() {
            let every = PortKey { netns: place.namespace.cookie(), port: 0, reserved: 0 };
            tables.ports.insert(every, PORT_FREE);
        }
        for member in &members {
            tables.add(member, terms(member, &outside, value)?);
            enrolled.workloads.push(Arc::clone(&member.workload));
            enrolled.by_cgroup.insert(member.cgroup.id(), Arc::clone(&member.workload));
            enrolled.members.insert(member.cgroup.id(), recognised(member, &place)?);
        }
        enrolled.places.push(Arc::clone(&place));
        guarded.push((place, members, paths));
    }
    guard.maps.set_peers(snapshot.peers().iter().flat_map(prefixes))?;
    guard.maps.misses().set_workloads(&tables.workloads.keys().copied().collect())?;
    taken.set_workloads(&tables.workloads)?;
    taken.set_ports(&tables.ports)?;
    for (_, members, paths) in &guarded {
        members.iter().try_for_each(|member| guard.enrol(&member.cgroup, *paths))?;
    }
    for path in &snapshot.node().guard {
        guard.shut(&open_cgroup(path)?)?;
    }
    for (place, _, paths) in &guarded {
        guard.guard_namespace(&place.namespace, *paths)?;
    }
    guard.sweep()?;
    outside.retain_namespaces(&enrolled.places.iter().map(|place| place.namespace.cookie()).collect())?;
    outside.sweep(&tables.workloads.values().map(|value| value.egress).collect())?;
    Ok(enrolled)
}

/// With the terms on which the workload reaches what is outside the mesh, which the programs know from now on.
fn terms(member: &Member, outside: &Outside, value: WorkloadValue) -> Result<WorkloadValue, Error> {
    let policy = member.workload.policy();
    Ok(WorkloadValue { egress: outside.number(&policy.terms)?, others: policy.others().0.action().into(), ..value })
}

fn recognised(member: &Member, place: &Place) -> Result<workload_api::Member, Error> {
    let failed =
        |cause| Error::Path { operation: "look at network namespace", path: member.wanted.network.path(), cause };
    let Workload { name, identity, .. } = &*member.workload;
    let namespace = place.namespace.id().map_err(failed)?;
    Ok(workload_api::Member { name: Arc::clone(name), identity: identity.clone(), namespace })
}

/// What the programs look up.
#[derive(Default)]
struct Tables {
    workloads: HashMap<u64, WorkloadValue>,
    ports: HashMap<PortKey, u32>,
}

impl Tables {
    fn add(&mut self, member: &Member, value: WorkloadValue) {
        let means = member.workload.means();
        let (direct, loses) = (means == Means::Direct, means == Means::Relay(Reason::ProgramLosesTheEnd));
        let value = WorkloadValue { direct: direct.into(), loses_the_end: loses.into(), ..value };
        self.workloads.insert(member.cgroup.id(), value);
        let kind = if direct { PORT_DIRECT } else { PORT_RELAY };
        self.ports.extend(member.workload.ports.iter().map(|key| (*key, kind)));
    }
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

/// Opens what the workloads are made of and sorts them by namespace: two may name the same one differently.
fn group(
    snapshot: &Snapshot,
    abilities: &Abilities,
    (store, public): Certificates<'_>,
    taken: &Taken,
) -> Result<Vec<Group>, Error> {
    let mut groups: Vec<Group> = Vec::new();
    for wanted in snapshot.workloads() {
        let path = wanted.network.path();
        let namespace =
            Namespace::open(&path).map_err(|cause| Error::Path { operation: "open network namespace", path, cause })?;
        let cgroup = open_cgroup(&wanted.cgroup)?;
        let programs = if taken.loses_the_end(cgroup.id()) { Programs::LoseTheEnd } else { Programs::Unknown };
        let site = Site::of(&namespace);
        let means = means(snapshot.policy_of(wanted).path, (Kernel::of(abilities), programs), site);
        let offload = place_records(wanted.offload, abilities.ktls().map_err(drop));
        let place = (cgroup.id(), port_keys(&namespace, wanted));
        let workload = Arc::new(Workload::new(wanted, snapshot, (means, offload), place, (Arc::clone(store), public)));
        let member = Member { wanted: wanted.clone(), workload, cgroup };
        announce(&member.workload);
        match groups.iter_mut().find(|group| group.namespace.cookie() == namespace.cookie()) {
            Some(group) => group.members.push(member),
            None => groups.push(Group { namespace, members: vec![member] }),
        }
    }
    Ok(groups)
}

fn announce(workload: &Workload) {
    let (name, identity, records) = (&workload.name, &workload.identity, workload.offload.explanation());
    let path = match workload.means() {
        Means::Direct => "direct where the peer has an agent",
        Means::Relay(reason) => reason.label(),
    };
    tracing::info!(workload = %name, %identity, path, relayed = records, "enrolling");
}

fn open_cgroup(path: &Path) -> Result<Cgroup, Error> {
    let failed = |cause| Error::Path { operation: "open cgroup", path: path.to_owned(), cause };
    let cgroup = Cgroup::open(path).map_err(failed)?;
    if cgroup.contains_this_process().map_err(failed)? {
        return Err(Error::OwnCgroup { cgroup: path.to_owned() });
    }
    Ok(cgroup)
}

fn place(group: Group) -> (Arc<Place>, Vec<Member>) {
    let mut everything = None;
    let mut by_port = HashMap::new();
    for member in &group.members {
        match &member.wanted.ports {
            None => everything = Some(Arc::clone(&member.workload)),
            Some(ports) => by_port.extend(ports.iter().map(|&port| (port, Arc::clone(&member.workload)))),
        }
    }
    let place = Place { namespace: Arc::new(group.namespace), everything, by_port };
    (Arc::new(place), group.members)
}

fn port_keys(namespace: &Namespace, wanted: &snapshot::Workload) -> Vec<PortKey> {
    let every = [0];
    let ports = wanted.ports.as_deref().unwrap_or(&every);
    ports.iter().map(|&port| PortKey { netns: namespace.cookie(), port: u32::from(port), reserved: 0 }).collect()
}

/// Listens for both directions and both IP versions, and tells the programs. Returns where outbound connections
/// have to be sent.
fn open_listeners(
    place: &Arc<Place>,
    members: &[Member],
    guard: &mut Guard,
    listeners: &mut Vec<(Arc<Listener>, TcpListener)>,
) -> Result<WorkloadValue, Error> {
    let workload = members.first().map(|member| member.wanted.name.clone()).unwrap_or_default();
    let mut value = WorkloadValue { port_v4: 0, port_v6: 0, direct: 0, loses_the_end: 0, egress: 0, others: 0 };
    for version in [4, 6] {
        for direction in [Direction::Outbound, Direction::Inbound] {
            let failed = |cause| Error::Listen { workload: workload.clone(), cause };
            let side = if direction == Direction::Outbound { Side::Application } else { Side::Peer };
            let socket = match listen(&place.namespace, version, side) {
                // A namespace without IPv6; without a listener the programs refuse that version.
                Err(error) if version == 6 => {
                    tracing::info!(workload, %error, "no IPv6 in the namespace");
                    continue;
                }
                result => result.map_err(failed)?,
            };
            let address = socket.local_addr().map_err(failed)?;
            guard.maps.set_listener(key(&place.namespace, version, direction), &socket)?;
            if direction == Direction::Outbound {
                remember(&mut value, address);
            }
            listeners.push((Arc::new(Listener { direction, address, place: Arc::clone(place) }), socket));
        }
    }
    Ok(value)
}

fn key(namespace: &Namespace, version: u32, direction: Direction) -> ListenerKey {
    let direction = match direction {
        Direction::Outbound => DIRECTION_OUTBOUND,
        Direction::Inbound => DIRECTION_INBOUND,
    };
    ListenerKey { netns: namespace.cookie(), version, direction }
}

fn remember(value: &mut WorkloadValue, address: SocketAddr) {
    match address {
        SocketAddr::V4(_) => value.port_v4 = u32::from(address.port()),
        SocketAddr::V6(_) => value.port_v6 = u32::from(address.port()),
    }
}
