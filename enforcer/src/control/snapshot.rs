//! The immutable picture of what is wanted on this node, which every other part of the agent reads.
//!
//! Built by `index.rs` from objects that were checked one by one and against each other, so whoever holds a
//! [`Snapshot`] need not check again: names are unique, identities parse, prefixes are disjoint in meaning. A change
//! of the configuration makes a new snapshot; none is ever altered. It says what is wanted, not what is in force.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;
use serde::Serialize;

use super::policy::Policy;
use crate::identity::Identity;

/// Everything that is wanted on this node at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    node: Node,
    workloads: Vec<Workload>,
    off: Vec<Workload>,
    peers: Vec<Peer>,
    policies: HashMap<String, Arc<Policy>>,
    /// Position in `peers` by prefix.
    prefixes: JointPrefixMap<IpNet, usize>,
}

impl Snapshot {
    /// Puts the parts together; `policies` are by workload name. The index has checked them against each other.
    pub(super) fn new(
        node: Node,
        workloads: Vec<Workload>,
        peers: Vec<Peer>,
        policies: HashMap<String, Arc<Policy>>,
    ) -> Self {
        let is_off = |workload: &Workload| policies.get(&workload.name).is_some_and(|policy| policy.mode == Mode::Off);
        let (off, mut workloads): (Vec<_>, Vec<_>) = workloads.into_iter().partition(is_off);
        (0..).zip(&mut workloads).for_each(|(id, workload)| workload.id = id);
        let mut prefixes = JointPrefixMap::new();
        for (position, peer) in peers.iter().enumerate() {
            for prefix in &peer.addresses {
                prefixes.insert(*prefix, position);
            }
        }
        Self { node, workloads, off, peers, policies, prefixes }
    }

    /// This node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The enrolled workloads of this node, each at the position that its `id` says.
    pub fn workloads(&self) -> &[Workload] {
        &self.workloads
    }

    /// Workloads that are left alone, because policies say so (`mode: off`).
    pub fn off(&self) -> &[Workload] {
        &self.off
    }

    /// The peers, in the order of the file.
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// The peer with the longest prefix that holds `address`; `None` if the registry does not know it. An IPv4
    /// address written as IPv6 (`::ffff:10.0.0.2`, which is what a dual-stack socket reports) is the IPv4 address.
    pub fn peer_of(&self, address: IpAddr) -> Option<&Peer> {
        let (_, position) = self.prefixes.get_lpm(&IpNet::from(address.to_canonical()))?;
        self.peers.get(*position)
    }

    /// Those whose agents may open pair sessions with this one: the peers that have an agent.
    pub fn paired(&self) -> HashSet<Identity> {
        let paired = self.peers.iter().filter(|peer| peer.agent.is_some());
        paired.filter_map(|peer| peer.speaks.identity().cloned()).collect()
    }

    /// What policies say of `workload`. One that this snapshot does not know is strict, and has no rules.
    pub fn policy_of(&self, workload: &Workload) -> Arc<Policy> {
        self.policy_for(&workload.name)
    }

    /// The same of the workload with this name.
    pub fn policy_for(&self, workload: &str) -> Arc<Policy> {
        self.policies.get(workload).cloned().unwrap_or_default()
    }
}

/// The node that the agent runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Name, for people and logs.
    pub name: String,
    /// Trust domain of every workload on this node.
    pub trust_domain: String,
    /// Directory of the embedded CA; absolute.
    pub state_directory: PathBuf,
    /// Directory of the pinned eBPF objects; absolute, on a bpf file system once the agent has started.
    pub bpf_directory: PathBuf,
    /// Where status and metrics are served; always a loopback address.
    pub admin: SocketAddr,
    /// Where other agents open pair sessions.
    pub pair: SocketAddr,
    /// What its connections are to be encrypted with.
    pub cipher: Cipher,
    /// Files with the bundles of other trust domains, by their names.
    pub federation: BTreeMap<String, PathBuf>,
    /// Who issues its certificates. `None`: the embedded CA, or whoever [`Self::identity_source`] names.
    pub control: Option<Control>,
    /// The socket of a SPIFFE Workload API that gives it its certificates, with their keys; absolute. Never beside
    /// `control`.
    pub identity_source: Option<PathBuf>,
    /// The socket on which it offers the Workload API to its own workloads; absolute. Never beside `identity_source`: there is
    /// nobody who would issue.
    pub workload_api: Option<PathBuf>,
    /// Cgroups below which only enrolled workloads have sockets; absolute.
    pub guard: Vec<PathBuf>,
    /// Who resolves names for its workloads: they may be asked in plaintext.
    pub resolvers: Vec<IpAddr>,
    /// Who issues certificates for public names.
    pub acme: Option<Acme>,
}

/// An authority that speaks ACME (RFC 8555), whose terms of service are agreed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acme {
    /// Its directory: an `https` URL.
    pub directory: String,
    /// Whom it may write to: `mailto:` URLs.
    pub contact: Vec<String>,
    /// A file with the roots that its own certificate is verified against; absolute.
    pub roots: PathBuf,
}

/// An `enforcer control`, as a node reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// `HOST:PORT`.
    pub address: String,
    /// A file with a join token; absolute.
    pub token: Option<PathBuf>,
    /// How long after its end a revocation list is still in force.
    pub grace: Duration,
}

/// One enrolled workload: the processes of a cgroup in a network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Position in [`Snapshot::workloads`]; means nothing in another snapshot.
    pub id: u32,
    /// Name, unique on the node.
    pub name: String,
    /// Namespace, in the sense of Kubernetes.
    pub namespace: String,
    /// Labels by key.
    pub labels: BTreeMap<String, String>,
    /// What the workload proves to be; in the trust domain of the node.
    pub identity: Identity,
    /// Its cgroup2 directory; absolute, and not inside that of another workload.
    pub cgroup: PathBuf,
    /// Its network namespace.
    pub network: NetworkRef,
    /// The ports whose inbound connections are the workload's: ascending, each once. `None`: every port of the
    /// namespace.
    pub ports: Option<Vec<u16>>,
    /// Where the TLS records of a relayed connection are made.
    pub offload: Offload,
    /// How much of it there may be at once.
    pub limits: Limits,
    /// Under which names it serves clients that have no certificate; `None`: it does not.
    pub public: Option<Public>,
}

/// How much of a workload there may be at once; at least one of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections, of both paths.
    pub connections: u32,
    /// Sockets on the direct path that are not open yet.
    pub held: u32,
    /// Handshakes of relayed connections, with those that wait for their turn.
    pub handshakes: u32,
    /// MiB that relayed connections may take in the agent.
    pub relay_memory: u32,
}

impl Default for Limits {
    /// Room for one workload with tens of thousands of connections, which takes a small part of what the tables in the kernel
    /// have room for: 65,536 held sockets and 1,048,576 open direct connections.
    fn default() -> Self {
        Self { connections: 65_536, held: 16_384, handshakes: 8_192, relay_memory: 2_688 }
    }
}

/// What a workload offers to everybody. The node has an [`Acme`] then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Public {
    /// DNS names in lower case, each once on the node.
    pub names: Vec<String>,
    /// Ports that are the workload's.
    pub ports: Vec<u16>,
}

/// How the file names a network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NetworkRef {
    /// A file that holds it, such as `/run/netns/a`.
    Path(PathBuf),
    /// The namespace that this process is in.
    Pid(u32),
}

impl NetworkRef {
    /// The file to open to enter the namespace.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Path(path) => path.clone(),
            Self::Pid(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
        }
    }
}

/// Who stands behind some addresses, as the registry knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Name, unique among the peers.
    pub name: String,
    /// Where it is found, without host bits; IPv4 is never written as IPv6.
    pub addresses: Vec<IpNet>,
    /// How it is spoken to, and whom it must prove to be.
    pub speaks: Speaks,
    /// Where the agent of its node takes pair sessions. `None`: its connections are relayed. Only a peer that
    /// [speaks through an agent](Speaks::Enforcer) has one.
    pub agent: Option<SocketAddr>,
}

/// How a peer is spoken to. Only a peer that proves an identity has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Speaks {
    /// It has an agent of ours.
    Enforcer(Identity),
    /// Ordinary mutual TLS, without an agent.
    Mtls(Identity),
    /// Known to have no TLS: refused under strict, let through with its reason under permissive.
    Plaintext,
}

impl Speaks {
    /// The identity that the peer's certificate must name; `None` if it has no certificate.
    pub fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Enforcer(identity) | Self::Mtls(identity) => Some(identity),
            Self::Plaintext => None,
        }
    }
}

/// What happens to a connection that cannot be mutual TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It is refused.
    #[default]
    Strict,
    /// It passes, and the reason is recorded.
    Permissive,
    /// The workload is left alone: nothing of it is taken, encrypted or refused.
    Off,
}

impl Mode {
    /// As the file has it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Permissive => "permissive",
            Self::Off => "off",
        }
    }
}

/// Which path the connections of a workload are to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WantedPath {
    /// Direct where both ends can, else through the relay with the reason recorded.
    #[default]
    Auto,
    /// Direct; what cannot be is refused.
    Direct,
    /// Through the relay, always.
    Relay,
}

/// A cipher of TLS 1.3 (RFC 8446 B.4) that the kernel knows too. The end that opens a connection chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Cipher {
    /// AES-128-GCM.
    #[default]
    Aes128Gcm,
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305: quicker where the processor has no instructions for AES, and without a limit to what one key
    /// may encrypt (RFC 8446 5.5).
    ChaCha20Poly1305,
}

/// Where the TLS records of a relayed connection are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Offload {
    /// In user space, which costs a relay less.
    #[default]
    Auto,
    /// In the kernel where it can, else in user space with the reason recorded.
    On,
    /// In user space, always.
    Off,
}
