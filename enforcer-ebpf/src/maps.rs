//! Every map. All are pinned by the agent next to the programs, so that they outlive it and a successor finds them.

use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{HashMap, LpmTrie, PerCpuArray, SockHash};
use enforcer_ebpf::{Endpoint, FlowKey, ListenerKey, PortKey, REASONS, Redirect, SourceKey, WorkloadValue};

/// Connections between `connect` and the agent's `accept`. When it is full, the agent does not know the connection
/// and resets it.
const FLOWS_LIMIT: u32 = 65_536;
/// Inbound connections that live at the same time. When it is full, the agent refuses the next.
const SOURCES_LIMIT: u32 = 262_144;

/// Prefixes of registered peers; the value is not used.
#[map]
pub(crate) static PEERS: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(65_536, 0);

/// Enrolled workloads by the id of their cgroup.
#[map]
pub(crate) static WORKLOADS: HashMap<u64, WorkloadValue> = HashMap::with_max_entries(16_384, 0);

/// Redirected connections that the agent has not accepted yet.
#[map]
pub(crate) static FLOWS: HashMap<FlowKey, Redirect> =
    HashMap::with_max_entries(FLOWS_LIMIT, aya_ebpf::bindings::BPF_F_NO_PREALLOC);

/// The true client of each connection that the agent opened to an application.
#[map]
pub(crate) static SOURCES: HashMap<SourceKey, Endpoint> =
    HashMap::with_max_entries(SOURCES_LIMIT, aya_ebpf::bindings::BPF_F_NO_PREALLOC);

/// Ports on which connections are taken.
#[map]
pub(crate) static PORTS: HashMap<PortKey, u32> =
    HashMap::with_max_entries(65_536, aya_ebpf::bindings::BPF_F_NO_PREALLOC);

/// The agent's listening sockets. The kernel takes a socket out when it is closed, so a dead agent has none.
#[map]
pub(crate) static LISTENERS: SockHash<ListenerKey> = SockHash::with_max_entries(65_536, 0);

/// Refusals by the number of their reason.
#[map]
pub(crate) static REFUSALS: PerCpuArray<u64> = PerCpuArray::with_max_entries(REASONS, 0);

/// Where a redirected socket was meant to go; freed by the kernel with the socket.
#[btf_map]
pub(crate) static REDIRECTS: SkStorage<Redirect> = SkStorage::new();
