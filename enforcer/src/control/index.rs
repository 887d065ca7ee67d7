//! From objects to a snapshot: the checks that need more than one object.
//!
//! Pure: the same objects always give the same problems or the same snapshot, whatever source they come from.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;

use ipnet::IpNet;

use super::host::Inode;
use super::object::{Objects, RawNode, RawPeer, RawWorkload};
use super::policy::assign::policies;
use super::problem::{Located, Position, Problems};
use super::public;
use super::snapshot::{NetworkRef, Node, Peer, Snapshot, Speaks, Workload};

/// The snapshot that `objects` ask for; `None` if one of them lacks something, for which there is a problem already.
/// Even a snapshot may be returned beside problems: it counts only if there are none.
pub(super) fn build(objects: Objects, problems: &mut Problems) -> Option<Snapshot> {
    check_nodes(&objects, problems);
    check_names(&objects, problems);
    check_trust_domain(&objects, problems);
    check_cgroups(&objects.workloads, problems);
    check_namespaces(&objects.workloads, problems);
    check_prefixes(&objects.peers, problems);
    public::check(&objects, problems);
    let policies = policies(&objects, problems);

    let node = objects.nodes.into_iter().next().and_then(node)?;
    let workloads = (0..).zip(objects.workloads).map(|(id, raw)| workload(id, raw)).collect::<Option<_>>()?;
    let peers = objects.peers.into_iter().map(peer).collect::<Option<_>>()?;
    Some(Snapshot::new(node, workloads, peers, policies))
}

fn check_nodes(objects: &Objects, problems: &mut Problems) {
    if objects.nodes.is_empty() && !objects.incomplete {
        problems.add(Position::START, "there is no Node; the agent must know what it is; add an object of kind Node");
    }
    for node in objects.nodes.iter().skip(1) {
        problems.add(node.at, "a second Node; an agent is one node; remove one");
    }
    for node in &objects.nodes {
        check_source(node, problems);
    }
}

/// A node has its certificates from one place.
fn check_source(node: &RawNode, problems: &mut Problems) {
    let Some(source) = &node.identity_source else { return };
    if node.control.is_some() {
        problems.add(source.at, "identitySource beside control; certificates come from one place; remove one");
    }
    if let Some(Located { at, value: Some(_) }) = &node.workload_api {
        let message = "workloadApi beside identitySource; the agent could issue nothing there; remove it, and let \
                       workloads ask where the agent asks";
        problems.add(*at, message);
    }
}

fn check_names(objects: &Objects, problems: &mut Problems) {
    unique("Workload", objects.workloads.iter().map(|workload| &workload.name), problems);
    unique("Peer", objects.peers.iter().map(|peer| &peer.name), problems);
    unique("MtlsPolicy", objects.policies.iter().map(|policy| &policy.name), problems);
}

fn unique<'a>(kind: &str, names: impl Iterator<Item = &'a Located<String>>, problems: &mut Problems) {
    let mut first = HashMap::new();
    for name in names {
        if let Some(first) = first.insert(&name.value, name.at) {
            let message = format!("a second {kind} {:?}, after {first}; names tell them apart; rename one", name.value);
            problems.add(name.at, message);
        }
    }
}

fn check_trust_domain(objects: &Objects, problems: &mut Problems) {
    let [RawNode { trust_domain: Some(domain), federation, .. }] = objects.nodes.as_slice() else { return };
    for (other, _) in federation.iter().filter(|(other, _)| other.value == domain.value) {
        let message =
            format!("{:?} is the node's own trust domain; its bundle comes from its CA; remove it", other.value);
        problems.add(other.at, message);
    }
    for identity in objects.workloads.iter().filter_map(|workload| workload.identity.as_ref()) {
        if identity.value.trust_domain() != domain.value {
            problems.add(
                identity.at,
                format!(
                    "identity {} is outside the node's trust domain; its CA cannot issue it; write spiffe://{}/...",
                    identity.value, domain.value
                ),
            );
        }
    }
}

/// A process has one identity, so no cgroup of a workload may hold another's.
fn check_cgroups(workloads: &[RawWorkload], problems: &mut Problems) {
    let mut cgroups: Vec<_> =
        workloads.iter().filter_map(|workload| Some((workload.cgroup.as_ref()?, workload))).collect();
    // Sorted by components, a directory stands right before everything inside it.
    cgroups.sort_by(|(left, _), (right, _)| left.value.cmp(&right.value));
    let mut outer: Option<(&Path, &str)> = None;
    for (cgroup, workload) in cgroups {
        match outer {
            Some((path, owner)) if cgroup.value.starts_with(path) => {
                let relation = if cgroup.value == path { "is also that of" } else { "is inside that of" };
                let message = format!(
                    "cgroup {:?} {relation} workload {owner:?}; a process has one identity; give each its own",
                    cgroup.value
                );
                problems.add(cgroup.at, message);
            }
            _ => outer = Some((&cgroup.value, &workload.name.value)),
        }
    }
}

/// A network namespace as far as it is known: its inode, or else how the file names it.
#[derive(PartialEq, Eq, Hash)]
enum Space<'a> {
    Inode(Inode),
    Named(&'a NetworkRef),
}

/// Workloads that share a namespace are told apart by port alone.
fn check_namespaces(workloads: &[RawWorkload], problems: &mut Problems) {
    let mut spaces: HashMap<Space<'_>, Vec<(&RawWorkload, Position)>> = HashMap::new();
    for workload in workloads {
        let Some(network) = &workload.network else { continue };
        let space = workload.inode.map_or(Space::Named(&network.value), Space::Inode);
        spaces.entry(space).or_default().push((workload, network.at));
    }
    for sharers in spaces.values().filter(|sharers| sharers.len() > 1) {
        let mut owners = HashMap::new();
        for (workload, network_at) in sharers {
            let name = &workload.name.value;
            let Some(ports) = &workload.ports else {
                let message = format!(
                    "{name:?} shares its network and has no ports; connections would have no owner; add `ports:`"
                );
                problems.add(*network_at, message);
                continue;
            };
            for port in ports {
                if let Some(owner) = owners.insert(port.value, name) {
                    let message = format!(
                        "port {} is also one of {owner:?} in the same network; it can have one owner; remove one",
                        port.value
                    );
                    problems.add(port.at, message);
                }
            }
        }
    }
}

fn check_prefixes(peers: &[RawPeer], problems: &mut Problems) {
    let mut first: HashMap<IpNet, ((&Speaks, Option<SocketAddr>), &str)> = HashMap::new();
    for peer in peers {
        let Some(speaks) = &peer.speaks else { continue };
        for prefix in &peer.addresses {
            let meaning = (speaks, peer.agent);
            let (earlier, owner) = first.entry(prefix.value).or_insert((meaning, &peer.name.value));
            if *earlier != meaning {
                let message = format!(
                    "{} means something else in peer {owner:?}; one identity and one agent per prefix are expected; \
                     remove one",
                    prefix.value
                );
                problems.add(prefix.at, message);
            }
        }
    }
}

fn node(raw: RawNode) -> Option<Node> {
    Some(Node {
        name: raw.name?.value,
        trust_domain: raw.trust_domain?.value,
        state_directory: raw.state_directory?.value,
        bpf_directory: raw.bpf_directory?.value,
        admin: raw.admin?.value,
        pair: raw.pair?.value,
        cipher: raw.cipher?.value,
        federation: raw.federation.into_iter().map(|(domain, bundle)| (domain.value, bundle)).collect(),
        control: raw.control.map(|control| control.value),
        identity_source: raw.identity_source.map(|socket| socket.value),
        workload_api: raw.workload_api?.value,
        guard: raw.guard.into_iter().map(|cgroup| cgroup.value).collect(),
        resolvers: raw.resolvers,
        acme: raw.acme,
    })
}

fn workload(id: u32, raw: RawWorkload) -> Option<Workload> {
    Some(Workload {
        id,
        name: raw.name.value,
        namespace: raw.namespace?.value,
        labels: raw.labels,
        identity: raw.identity?.value,
        cgroup: raw.cgroup?.value,
        network: raw.network?.value,
        ports: raw.ports.map(sorted),
        offload: raw.offload?.value,
        limits: raw.limits?,
        public: raw.public.map(public::wanted),
    })
}

fn sorted(ports: Vec<Located<u16>>) -> Vec<u16> {
    let mut ports: Vec<_> = ports.into_iter().map(|port| port.value).collect();
    ports.sort_unstable();
    ports
}

fn peer(raw: RawPeer) -> Option<Peer> {
    let addresses = raw.addresses.into_iter().map(|prefix| prefix.value).collect();
    Some(Peer { name: raw.name.value, addresses, speaks: raw.speaks?, agent: raw.agent })
}
