//! Enrolment: from the snapshot to namespaces, listeners, map entries and attached programs.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use enforcer_ebpf::{DIRECTION_INBOUND, DIRECTION_OUTBOUND, ListenerKey, PortKey, WorkloadValue};
use tokio::net::TcpListener;

use super::Error;
use crate::connection::{Listener, Place, Workload, place_records};
use crate::control::snapshot::{self, Snapshot};
use crate::identity::store::Store;
use crate::kernel::bpf::Guard;
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
    pub(super) listeners: Vec<(Arc<Listener>, TcpListener)>,
}

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

/// Puts the snapshot in force.
pub(super) fn enrol(
    snapshot: &Snapshot,
    abilities: &Abilities,
    store: &Arc<Store>,
    guard: &mut Guard,
) -> Result<Enrolled, Error> {
    let mut enrolled = Enrolled { workloads: Vec::new(), by_cgroup: HashMap::new(), listeners: Vec::new() };
    let mut values = HashMap::new();
    let mut ports = HashSet::new();
    let groups = group(snapshot, abilities, store)?;
    let mut cgroups = Vec::new();
    let mut places = Vec::new();
    for group in groups {
        let (place, members) = place(group);
        let value = open_listeners(&place, &members, guard, &mut enrolled.listeners)?;
        for member in members {
            ports.extend(port_keys(&place.namespace, &member.wanted));
            values.insert(member.cgroup.id(), value);
            enrolled.workloads.push(Arc::clone(&member.workload));
            enrolled.by_cgroup.insert(member.cgroup.id(), member.workload);
            cgroups.push(member.cgroup);
        }
        places.push(place);
    }
    guard.maps.set_peers(snapshot.peers().iter().flat_map(|peer| peer.addresses.iter().copied()))?;
    guard.maps.set_workloads(&values)?;
    guard.maps.set_ports(&ports)?;
    for cgroup in &cgroups {
        guard.enrol(cgroup)?;
    }
    for place in &places {
        guard.guard_namespace(&place.namespace)?;
    }
    guard.sweep()?;
    Ok(enrolled)
}

/// Opens what the workloads are made of and sorts them by namespace: two may name the same one differently.
fn group(snapshot: &Snapshot, abilities: &Abilities, store: &Arc<Store>) -> Result<Vec<Group>, Error> {
    let mut groups: Vec<Group> = Vec::new();
    for wanted in snapshot.workloads() {
        let member = Member {
            wanted: wanted.clone(),
            workload: Arc::new(workload(wanted, snapshot, abilities, store)),
            cgroup: open_cgroup(wanted)?,
        };
        let path = wanted.network.path();
        let namespace =
            Namespace::open(&path).map_err(|cause| Error::Path { operation: "open network namespace", path, cause })?;
        match groups.iter_mut().find(|group| group.namespace.cookie() == namespace.cookie()) {
            Some(group) => group.members.push(member),
            None => groups.push(Group { namespace, members: vec![member] }),
        }
    }
    Ok(groups)
}

fn workload(wanted: &snapshot::Workload, snapshot: &Snapshot, abilities: &Abilities, store: &Arc<Store>) -> Workload {
    let offload = place_records(wanted.offload, abilities.ktls().map_err(drop));
    tracing::info!(workload = wanted.name, identity = %wanted.identity, records = offload.explanation(), "enrolling");
    let mode = snapshot.mode_of(wanted);
    Workload::new(&wanted.name, wanted.identity.clone(), (mode, offload), Arc::clone(store))
}

fn open_cgroup(wanted: &snapshot::Workload) -> Result<Cgroup, Error> {
    let failed = |cause| Error::Path { operation: "open cgroup", path: wanted.cgroup.clone(), cause };
    let cgroup = Cgroup::open(&wanted.cgroup).map_err(failed)?;
    if cgroup.contains_this_process().map_err(failed)? {
        return Err(Error::OwnCgroup { workload: wanted.name.clone() });
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
    let mut value = WorkloadValue { port_v4: 0, port_v6: 0 };
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
