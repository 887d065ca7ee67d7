//! Every map. All are pinned by the agent next to the programs, so that they outlive it and a successor finds them.

use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SockHash};
use enforcer_ebpf::{
    Callers, DEPARTURES, Departed, EgressKey, Endpoint, FlowKey, Gate, Held, ListenerKey, Live, MissedKey, NotedKey,
    OFFSETS as OFFSETS_COUNT, OwnAddress, PortKey, REASONS, Redirect, SourceKey, Terms, WorkloadValue,
};

/// Connections between `connect` and the agent's `accept`. When it is full, the agent does not know the connection
/// and resets it.
const FLOWS_LIMIT: u32 = 65_536;
/// Inbound connections that live at the same time. When it is full, the agent refuses the next.
const SOURCES_LIMIT: u32 = 262_144;

/// Connections that are held at the same time. When it is full, the next one is refused, and never opened.
const HELD_LIMIT: u32 = 65_536;
/// Direct connections at the same time. When it is full, the agent ends the next one.
const LIVE_LIMIT: u32 = 1 << 20;
/// Threads inside `connect` or `accept` whose descriptors are remembered; the longest unused is forgotten first, and the
/// agent then searches for it.
const CALLS_LIMIT: u32 = 16_384;
/// Octets of the ring buffer: about 9,000 events.
pub(crate) const EVENTS_SIZE: u32 = 1 << 20;

/// Prefixes of registered peers: `PEER_RELAY` or `PEER_DIRECT`.
#[map]
pub(crate) static PEERS: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(65_536, 0);

/// Enrolled workloads by the id of their cgroup.
#[map]
pub(crate) static WORKLOADS: HashMap<u64, WorkloadValue> = HashMap::with_max_entries(16_384, 0);

/// What policies say of destinations outside the mesh, and of datagrams. When it is full, the configuration is refused.
#[map]
pub(crate) static EGRESS: LpmTrie<EgressKey, Terms> = LpmTrie::with_max_entries(65_536, 0);

/// Addresses of the namespaces of workloads: what goes there does not leave.
#[map]
pub(crate) static OWN_ADDRESSES: HashMap<OwnAddress, u32> =
    HashMap::with_max_entries(65_536, aya_ebpf::bindings::BPF_F_NO_PREALLOC);

/// What was refused or let pass with a reason, and how often. The longest unseen is forgotten first.
#[map]
pub(crate) static NOTED: LruHashMap<NotedKey, u64> = LruHashMap::with_max_entries(4_096, 0);

/// All that wanted to leave without mutual TLS, whatever became of it. The longest unseen is forgotten first.
#[map]
pub(crate) static DEPARTED: LruHashMap<NotedKey, Departed> = LruHashMap::with_max_entries(DEPARTURES, 0);

/// Redirected connections that the agent has not accepted yet.
#[map]
pub(crate) static FLOWS: HashMap<FlowKey, Redirect> =
    HashMap::with_max_entries(FLOWS_LIMIT, aya_ebpf::bindings::BPF_F_NO_PREALLOC);

/// The true client of each connection that the agent opened to an application.
#[map]
pub(crate) static SOURCES: HashMap<SourceKey, Endpoint> =
    HashMap::with_max_entries(SOURCES_LIMIT, aya_ebpf::bindings::BPF_F_NO_PREALLOC);

/// Ports on which connections are taken: `PORT_RELAY` or `PORT_DIRECT`.
#[map]
pub(crate) static PORTS: HashMap<PortKey, u32> =
    HashMap::with_max_entries(65_536, aya_ebpf::bindings::BPF_F_NO_PREALLOC);

/// The agent's listening sockets. The kernel takes a socket out when it is closed, so a dead agent has none.
#[map]
pub(crate) static LISTENERS: SockHash<ListenerKey> = SockHash::with_max_entries(65_536, 0);

/// Refusals by the number of their reason.
#[map]
pub(crate) static REFUSALS: PerCpuArray<u64> = PerCpuArray::with_max_entries(REASONS, 0);

/// How often something was missed, for each enrolled workload. The agent makes the entries.
#[map]
pub(crate) static MISSED: HashMap<MissedKey, u64> =
    HashMap::with_max_entries(32_768, aya_ebpf::bindings::BPF_F_NO_PREALLOC);

/// Where a redirected socket was meant to go; freed by the kernel with the socket.
#[btf_map]
pub(crate) static REDIRECTS: SkStorage<Redirect> = SkStorage::new();

/// Namespaces whose sockets are shut unless a program opens them, by their cookie; the value of
/// `net.ipv4.tcp_notsent_lowat` that was usual there before.
#[map]
pub(crate) static NAMESPACES: HashMap<u64, u32> = HashMap::with_max_entries(16_384, 0);

/// Connections that wait for their keys.
#[map]
pub(crate) static HELD: HashMap<u64, Held> =
    HashMap::with_max_entries(HELD_LIMIT, aya_ebpf::bindings::BPF_F_NO_PREALLOC);

/// Direct connections, as the agent has written them down.
#[map]
pub(crate) static LIVE: HashMap<u64, Live> =
    HashMap::with_max_entries(LIVE_LIMIT, aya_ebpf::bindings::BPF_F_NO_PREALLOC);

/// What the agent is told.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_SIZE, 0);

/// Not 0 while the agent looks for events by itself every moment, so that not each of them has to wake it.
#[map]
pub(crate) static LOOKING: Array<u32> = Array::with_max_entries(1, 0);

/// The descriptor of the `connect` that a thread is in.
#[map]
pub(crate) static CALLS: LruHashMap<u64, i32> = LruHashMap::with_max_entries(CALLS_LIMIT, 0);

/// The socket that a thread's `accept` is about to return, by its cookie.
#[map]
pub(crate) static ACCEPTING: LruHashMap<u64, u64> = LruHashMap::with_max_entries(CALLS_LIMIT, 0);

/// Where the running kernel has what programs look for in its structures, by the `OFFSET_` numbers; 0: it does not say.
#[map]
pub(crate) static OFFSETS: Array<u32> = Array::with_max_entries(OFFSETS_COUNT, 0);

/// The gate of each held or direct socket.
#[btf_map]
pub(crate) static GATES: SkStorage<Gate> = SkStorage::new();

/// TCP_NOTSENT_LOWAT as the application wants it.
#[btf_map]
pub(crate) static WANTED: SkStorage<u32> = SkStorage::new();

/// Threads inside calls on a held socket.
#[btf_map]
pub(crate) static CALLERS: SkStorage<Callers> = SkStorage::new();
