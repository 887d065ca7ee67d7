//! From trees to objects: each field read and checked by itself.
//!
//! An object keeps what could be read: a field that could not is `None`, and there is a problem for it. So the checks
//! among objects (`index.rs`) still run on the rest and one start shows all mistakes. Nothing here looks at the host.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::field::{Fields, choice, integer, read_each, read_located};
use super::host::Inode;
use super::policy::read::{RawPolicy, policy};
use super::problem::{Located, Position, Problems};
use super::public::{RawPublic, acme, public};
use super::scalar::{
    PAIR_PORT, address, agent, api_version, checked_label, checked_trust_domain, cipher, host_and_port, identity,
    label, listening, loopback, name, offload, path, pid, port, prefix, socket, trust_domain, workload_api,
};
use super::snapshot::{Acme, Cipher, Control, Limits, NetworkRef, Offload, Speaks};
use super::yaml::{Entry, Tree, Value, documents};
use crate::identity::Identity;

/// Minutes in which a revocation list is in force after its end: at most, and usually.
const MOST_GRACE: u32 = 7 * 24 * 60;
const USUAL_GRACE: u32 = 60;
/// What the kernel's tables have room for: open connections and held ones.
const MOST_CONNECTIONS: u32 = 1 << 20;
const MOST_HELD: u32 = 1 << 16;
/// A terabyte.
const MOST_MEMORY: u32 = 1 << 20;

/// The objects of one file.
#[derive(Debug, Default)]
pub(super) struct Objects {
    pub(super) nodes: Vec<RawNode>,
    pub(super) workloads: Vec<RawWorkload>,
    pub(super) peers: Vec<RawPeer>,
    pub(super) policies: Vec<RawPolicy>,
    /// Some object could not be read at all, so that nobody may complain of its absence.
    pub(super) incomplete: bool,
}

#[derive(Debug)]
pub(super) struct RawNode {
    pub(super) at: Position,
    pub(super) name: Option<Located<String>>,
    pub(super) trust_domain: Option<Located<String>>,
    pub(super) state_directory: Option<Located<PathBuf>>,
    pub(super) bpf_directory: Option<Located<PathBuf>>,
    pub(super) admin: Option<Located<SocketAddr>>,
    pub(super) pair: Option<Located<SocketAddr>>,
    pub(super) cipher: Option<Located<Cipher>>,
    pub(super) control: Option<Located<Control>>,
    pub(super) federation: Vec<(Located<String>, PathBuf)>,
    pub(super) identity_source: Option<Located<PathBuf>>,
    pub(super) workload_api: Option<Located<Option<PathBuf>>>,
    /// Cgroups below which only enrolled workloads have sockets.
    pub(super) guard: Vec<Located<PathBuf>>,
    /// The file names its resolvers, readably or not.
    pub(super) own_resolvers: bool,
    /// Its resolvers; those that the file does not name once `host.rs` has looked.
    pub(super) resolvers: Vec<IpAddr>,
    /// It says who issues certificates for public names, readably or not.
    pub(super) has_acme: bool,
    pub(super) acme: Option<Acme>,
}

#[derive(Debug)]
pub(super) struct RawWorkload {
    pub(super) name: Located<String>,
    pub(super) namespace: Option<Located<String>>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) identity: Option<Located<Identity>>,
    pub(super) cgroup: Option<Located<PathBuf>>,
    pub(super) network: Option<Located<NetworkRef>>,
    /// The namespace itself, once `host.rs` has looked.
    pub(super) inode: Option<Inode>,
    /// The ports that could be read; `None` only if the field is absent.
    pub(super) ports: Option<Vec<Located<u16>>>,
    pub(super) offload: Option<Located<Offload>>,
    pub(super) limits: Option<Limits>,
    pub(super) public: Option<RawPublic>,
}

#[derive(Debug)]
pub(super) struct RawPeer {
    pub(super) name: Located<String>,
    /// Those that could be read.
    pub(super) addresses: Vec<Located<IpNet>>,
    pub(super) speaks: Option<Speaks>,
    pub(super) agent: Option<SocketAddr>,
}

/// The objects in `text`.
pub(super) fn objects(text: &str, problems: &mut Problems) -> Objects {
    let mut objects = Objects::default();
    match documents(text, problems) {
        Some(trees) => {
            for tree in trees {
                objects.incomplete |= object(tree, &mut objects, problems).is_none();
            }
        }
        None => objects.incomplete = true,
    }
    objects
}

#[derive(Clone, Copy)]
enum Kind {
    Node,
    Workload,
    Peer,
    MtlsPolicy,
}

fn kind(tree: &Tree) -> Result<Kind, String> {
    let kinds =
        [("Node", Kind::Node), ("Workload", Kind::Workload), ("Peer", Kind::Peer), ("MtlsPolicy", Kind::MtlsPolicy)];
    choice(tree, &kinds)
}

/// Adds the object in `tree`; `None`, with a problem, if so much is wrong that there is none.
fn object(tree: Tree, objects: &mut Objects, problems: &mut Problems) -> Option<()> {
    let mut object = Fields::open(tree, "an object", problems)?;
    object.optional("apiVersion", api_version, "");
    let kind = object.required("kind", kind)?.value;
    // A node is named in its spec: it has no namespace and no labels.
    let metadata = match kind {
        Kind::Node => None,
        _ => object.take_required("metadata"),
    };
    let spec = object.take_required("spec");
    object.close();
    match kind {
        Kind::Node => objects.nodes.push(node(spec?, problems)?),
        Kind::Workload => objects.workloads.push(workload(metadata, spec?, problems)?),
        Kind::Peer => objects.peers.push(peer(metadata, spec?, problems)?),
        Kind::MtlsPolicy => objects.policies.push(policy(metadata, spec?, problems)?),
    }
    Some(())
}

fn node(spec: Tree, problems: &mut Problems) -> Option<RawNode> {
    let at = spec.at;
    let mut spec = Fields::open(spec, "Node spec", problems)?;
    let federation = spec.take("federation");
    let (resolvers, guard) = (spec.take("resolvers"), spec.take("guard"));
    let (control, source, acme) = (spec.take("control"), spec.take("identitySource"), spec.take("acme"));
    let node = RawNode {
        at,
        name: spec.required("name", name),
        trust_domain: spec.required("trustDomain", trust_domain),
        state_directory: spec.required("stateDirectory", path),
        bpf_directory: spec.optional("bpfDirectory", path, PathBuf::from("/sys/fs/bpf/enforcer")),
        admin: spec.optional("admin", loopback, SocketAddr::from((Ipv4Addr::LOCALHOST, 15000))),
        pair: spec.optional("pair", listening, SocketAddr::from((Ipv4Addr::UNSPECIFIED, PAIR_PORT))),
        cipher: spec.optional("cipher", cipher, Cipher::default()),
        control: None,
        federation: Vec::new(),
        identity_source: None,
        workload_api: spec.optional("workloadApi", |tree| socket(tree).map(Some), None),
        guard: Vec::new(),
        own_resolvers: resolvers.is_some(),
        resolvers: Vec::new(),
        has_acme: acme.is_some(),
        acme: None,
    };
    spec.close();
    let control = control.and_then(|tree| self::control(tree, problems));
    let federation = federation.map(|tree| self::federation(tree, problems)).unwrap_or_default();
    let resolvers = resolvers.map(|tree| read_each(tree, address, problems)).unwrap_or_default();
    Some(RawNode {
        control,
        guard: guard.map(|tree| read_each(tree, path, problems)).unwrap_or_default(),
        resolvers: resolvers.into_iter().map(|resolver| resolver.value).collect(),
        federation,
        identity_source: source.and_then(|tree| identity_source(tree, problems)),
        acme: acme.and_then(|tree| self::acme(tree, problems)),
        ..node
    })
}

/// The bundles that could be read about, by trust domain.
fn federation(tree: Tree, problems: &mut Problems) -> Vec<(Located<String>, PathBuf)> {
    let Value::Mapping(entries) = tree.value else {
        let how = "write {partner.example: /etc/enforcer/partner.pem}";
        let message = format!("expected trust domains, found {}; each has a bundle; {how}", tree.found());
        problems.add(tree.at, message);
        return Vec::new();
    };
    let mut bundles = Vec::new();
    for Entry { key, value } in entries {
        if let Err(message) = checked_trust_domain(&key.value) {
            problems.add(key.at, message);
        }
        if let Some(bundle) = read_located(&value, path, problems) {
            bundles.push((key, bundle.value));
        }
    }
    bundles
}

fn identity_source(tree: Tree, problems: &mut Problems) -> Option<Located<PathBuf>> {
    let mut source = Fields::open(tree, "identitySource", problems)?;
    let socket = source.required("workloadApi", workload_api);
    source.close();
    socket
}

fn control(tree: Tree, problems: &mut Problems) -> Option<Located<Control>> {
    let at = tree.at;
    let mut control = Fields::open(tree, "control", problems)?;
    let address = control.required("address", host_and_port);
    let token = control.optional("tokenFile", |tree| path(tree).map(Some), None);
    let grace = control.optional("graceMinutes", |tree| integer(tree, 0, MOST_GRACE), USUAL_GRACE);
    control.close();
    let grace = Duration::from_secs(60 * u64::from(grace?.value));
    Some(Located { at, value: Control { address: address?.value, token: token?.value, grace } })
}

fn workload(metadata: Option<Tree>, spec: Tree, problems: &mut Problems) -> Option<RawWorkload> {
    let metadata = metadata.and_then(|tree| workload_metadata(tree, problems));
    let mut spec = Fields::open(spec, "Workload spec", problems)?;
    let identity = spec.required("identity", identity);
    let cgroup = spec.required("cgroup", path);
    let offload = spec.optional("offload", offload, Offload::Auto);
    let network_tree = spec.take_required("network");
    let (ports_tree, public_tree, limits_tree) = (spec.take("ports"), spec.take("public"), spec.take("limits"));
    spec.close();

    let network = network_tree.and_then(|tree| network(tree, problems));
    let ports = ports_tree.map(|tree| read_each(tree, port, problems));
    let public = public_tree.and_then(|tree| public(tree, problems));
    let limits = limits_tree.map_or(Some(Limits::default()), |tree| limits(tree, problems));
    let Metadata { name, namespace, labels } = metadata?;
    Some(RawWorkload {
        name,
        namespace,
        labels,
        identity,
        cgroup,
        network,
        inode: None,
        ports,
        offload,
        limits,
        public,
    })
}

/// How much of a workload there may be at once. What is not named is as usual.
fn limits(tree: Tree, problems: &mut Problems) -> Option<Limits> {
    let usual = Limits::default();
    let mut limits = Fields::open(tree, "limits", problems)?;
    let connections = limits.optional("connections", |tree| integer(tree, 1, MOST_CONNECTIONS), usual.connections);
    let held = limits.optional("held", |tree| integer(tree, 1, MOST_HELD), usual.held);
    let handshakes = limits.optional("handshakes", |tree| integer(tree, 1, MOST_CONNECTIONS), usual.handshakes);
    let memory = limits.optional("relayMemoryMiB", |tree| integer(tree, 1, MOST_MEMORY), usual.relay_memory);
    limits.close();
    Some(Limits {
        connections: connections?.value,
        held: held?.value,
        handshakes: handshakes?.value,
        relay_memory: memory?.value,
    })
}

struct Metadata {
    name: Located<String>,
    namespace: Option<Located<String>>,
    labels: BTreeMap<String, String>,
}

fn workload_metadata(metadata: Tree, problems: &mut Problems) -> Option<Metadata> {
    let mut metadata = Fields::open(metadata, "Workload metadata", problems)?;
    let name = metadata.required("name", name);
    let namespace = metadata.optional("namespace", self::name, "default".to_owned());
    let labels_tree = metadata.take("labels");
    metadata.close();
    let labels = labels_tree.map(|tree| labels(tree, problems)).unwrap_or_default();
    Some(Metadata { name: name?, namespace, labels })
}

/// The labels that could be read.
pub(super) fn labels(tree: Tree, problems: &mut Problems) -> BTreeMap<String, String> {
    let Value::Mapping(entries) = tree.value else {
        let message =
            format!("expected labels, found {}; each has a key and a value; write {{app: web}}", tree.found());
        problems.add(tree.at, message);
        return BTreeMap::new();
    };
    let mut labels = BTreeMap::new();
    for Entry { key, value } in entries {
        if let Err(message) = checked_label(&key.value) {
            problems.add(key.at, message);
        }
        if let Some(value) = read_located(&value, label, problems) {
            labels.insert(key.value, value.value);
        }
    }
    labels
}

fn network(tree: Tree, problems: &mut Problems) -> Option<Located<NetworkRef>> {
    let at = tree.at;
    let mut network = Fields::open(tree, "network", problems)?;
    let (path_tree, pid_tree) = (network.take("path"), network.take("pid"));
    network.close();
    let value = match (path_tree, pid_tree) {
        (Some(tree), None) => NetworkRef::Path(read_located(&tree, path, problems)?.value),
        (None, Some(tree)) => NetworkRef::Pid(read_located(&tree, pid, problems)?.value),
        (Some(_), Some(_)) => {
            problems.add(at, "network has both path and pid; they could name two namespaces; remove one");
            return None;
        }
        (None, None) => {
            problems
                .add(at, "network has neither path nor pid; one must name the namespace; write {path: /run/netns/a}");
            return None;
        }
    };
    Some(Located { at, value })
}

fn peer(metadata: Option<Tree>, spec: Tree, problems: &mut Problems) -> Option<RawPeer> {
    let name = only_name(metadata, "Peer metadata", problems);
    let mut spec = Fields::open(spec, "Peer spec", problems)?;
    let protocol = spec.optional("speaks", protocol, Some(Speaks::Enforcer));
    let identity_tree = spec.take("identity");
    if identity_tree.is_none() && protocol.as_ref().is_some_and(|protocol| protocol.value.is_some()) {
        spec.missing("identity");
    }
    let addresses_tree = spec.take_required("addresses");
    let agent_tree = spec.take("agent");
    spec.close();

    let addresses = addresses_tree.map(|tree| read_each(tree, prefix, problems)).unwrap_or_default();
    let proof = identity_tree.map(|tree| (tree.at, read_located(&tree, identity, problems)));
    let agent = agent_tree.and_then(|tree| read_located(&tree, agent, problems));
    let speaks = match (protocol?.value, proof) {
        (Some(proving), proof) => proof.and_then(|(_, identity)| identity).map(|identity| proving(identity.value)),
        (None, None) => Some(Speaks::Plaintext),
        (None, Some((at, _))) => {
            problems.add(at, "an identity for a plaintext peer; it has nothing to prove it with; remove it");
            None
        }
    };
    if let (Some(agent), Some(Speaks::Mtls(_) | Speaks::Plaintext)) = (&agent, &speaks) {
        let message = "an agent for a peer without one; no session would ever be opened; remove it, or write \
                       `speaks: enforcer`";
        problems.add(agent.at, message);
    }
    Some(RawPeer { name: name?, addresses, speaks, agent: agent.map(|agent| agent.value) })
}

/// How a peer is spoken to, once its identity is known; `None` for one that proves none.
type Protocol = Option<fn(Identity) -> Speaks>;

fn protocol(tree: &Tree) -> Result<Protocol, String> {
    let choices: [(_, Protocol); 3] =
        [("enforcer", Some(Speaks::Enforcer)), ("mtls", Some(Speaks::Mtls)), ("plaintext", None)];
    choice(tree, &choices)
}

/// The name in metadata that has nothing else.
pub(super) fn only_name(
    metadata: Option<Tree>,
    owner: &'static str,
    problems: &mut Problems,
) -> Option<Located<String>> {
    let mut metadata = Fields::open(metadata?, owner, problems)?;
    let name = metadata.required("name", name);
    metadata.close();
    name
}
