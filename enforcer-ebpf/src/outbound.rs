//! Connections that a workload opens: sent to the agent when they go to a registered peer, and judged by
//! [`crate::outside`] when they do not. Those that can be direct go to the peer itself, and [`crate::gate`] holds them.
//!
//! The agent listens on the loopback of the workload's own namespace. What the application asked for is kept in the
//! socket's storage; `follow` puts it where the agent finds it when it accepts the connection.

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE, bpf_sock,
};
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_netns_cookie, bpf_get_socket_cookie,
    bpf_map_lookup_elem, bpf_sk_release, bpf_sk_storage_delete,
};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::programs::{SockAddrContext, SockOpsContext};
use enforcer_ebpf::{
    DIRECTION_OUTBOUND, Endpoint, FlowKey, ListenerKey, PEER_DIRECT, PEER_KEY_BITS, Reason, Redirect, WorkloadValue,
};

use crate::context::{DATAGRAM, STREAM, SocketAddress, TCP, UDP, is_local, is_v4, loopback, read};
use crate::gate;
use crate::maps::{FLOWS, LISTENERS, PEERS, REDIRECTS, WORKLOADS};
use crate::outside;
use crate::store;
use crate::verdict::Verdict;

/// How deep below the root a workload's cgroup may lie.
const CGROUP_DEPTH: i32 = 16;

/// `connect` of an IPv4 socket.
pub(crate) fn connect4(ctx: &SockAddrContext) -> Verdict {
    let address = SocketAddress::of(ctx);
    match go(ctx, &address, &address.endpoint4()) {
        Course::Stay(verdict) => verdict,
        Course::Agent(agent) => {
            address.set_endpoint4(&agent);
            Verdict::Pass
        }
    }
}

/// `connect` of an IPv6 socket, to a v4-mapped address too.
pub(crate) fn connect6(ctx: &SockAddrContext) -> Verdict {
    let address = SocketAddress::of(ctx);
    match go(ctx, &address, &address.endpoint6()) {
        Course::Stay(verdict) => verdict,
        Course::Agent(agent) => {
            address.set_endpoint6(&agent);
            Verdict::Pass
        }
    }
}

/// Where a connection goes.
enum Course {
    /// Where it was meant to go, if that.
    Stay(Verdict),
    /// To the agent, which listens here.
    Agent(Endpoint),
}

#[inline(always)]
fn go(ctx: &SockAddrContext, address: &SocketAddress, destination: &Endpoint) -> Course {
    match address.kind() {
        (STREAM, TCP) => {}
        (DATAGRAM, UDP) => return Course::Stay(outside::datagram(ctx, destination)),
        // Judged when the socket was made.
        _ => return Course::Stay(Verdict::Pass),
    }
    // The socket may have been redirected or held before, by a `connect` that failed.
    if is_local(&destination.address) {
        forsake(address.socket());
        return Course::Stay(Verdict::Pass);
    }
    let Some((cgroup, workload)) = workload() else { return Course::Stay(Verdict::Deny(Reason::WorkloadUnknown)) };
    let Some(&peer) = PEERS.get(Key::new(PEER_KEY_BITS, destination.address)) else {
        forsake(address.socket());
        return Course::Stay(outside::stream(ctx, (cgroup, workload), destination));
    };
    if peer == PEER_DIRECT && workload.direct != 0 {
        clear_storage(address.socket());
        return Course::Stay(match gate::hold(address.socket(), cgroup) {
            Ok(()) => Verdict::Pass,
            Err(reason) => Verdict::Deny(reason),
        });
    }
    gate::release(address.socket());
    match redirect(ctx, (cgroup, workload), (address.socket(), destination)) {
        Ok(agent) => Course::Agent(agent),
        Err(reason) => Course::Stay(Verdict::Deny(reason)),
    }
}

/// The agent's address, once it will know where the connection was meant to go.
#[inline(always)]
fn redirect(
    ctx: &SockAddrContext,
    (cgroup, workload): (u64, &WorkloadValue),
    (socket, destination): (*mut bpf_sock, &Endpoint),
) -> Result<Endpoint, Reason> {
    let version = if is_v4(&destination.address) { 4 } else { 6 };
    // SAFETY: the context is the kernel's own.
    let (netns, cookie) =
        unsafe { (bpf_get_netns_cookie(ctx.sock_addr.cast()), bpf_get_socket_cookie(ctx.sock_addr.cast())) };
    let port = if version == 4 { workload.port_v4 } else { workload.port_v6 };
    if port == 0 || !agent_listens(ListenerKey { netns, version, direction: DIRECTION_OUTBOUND }) {
        return Err(Reason::AgentAway);
    }
    let mut value = Redirect { cgroup, cookie, destination: *destination, version };
    let stored = storage(socket, Some(&mut value)).ok_or(Reason::MapFull)?;
    // The value of an earlier `connect` that failed may still be there.
    // SAFETY: the kernel keeps the storage as long as the socket, and only this thread is in `connect` on it.
    unsafe { *stored = value };
    Ok(loopback(version, port))
}

/// The socket is none of ours (any more).
fn forsake(socket: *mut bpf_sock) {
    clear_storage(socket);
    gate::release(socket);
}

/// The enrolled workload of the calling process: its cgroup, or the nearest enrolled one above. Always inlined: the kernel
/// takes no function that returns such a type.
#[inline(always)]
pub(crate) fn workload() -> Option<(u64, &'static WorkloadValue)> {
    // SAFETY: no arguments; and entries are written once, when the agent enrols the workload.
    let (own, found) = unsafe {
        let own = bpf_get_current_cgroup_id();
        (own, WORKLOADS.get(own))
    };
    if let Some(value) = found {
        return Some((own, value));
    }
    for level in 1..CGROUP_DEPTH {
        // SAFETY: as above. From the top: enrolled cgroups do not lie inside each other, so the order is free.
        let (ancestor, found) = unsafe {
            let ancestor = bpf_get_current_ancestor_cgroup_id(level);
            (ancestor, WORKLOADS.get(ancestor))
        };
        if let Some(value) = found {
            return Some((ancestor, value));
        }
    }
    None
}

/// True while the agent holds its listener. Without this check another process could take the port of a dead agent
/// and be given what the application sends.
fn agent_listens(key: ListenerKey) -> bool {
    // SAFETY: the map and the key are valid; a found socket comes with a reference that is given back at once.
    unsafe {
        let socket = bpf_map_lookup_elem((&raw const LISTENERS).cast_mut().cast(), (&raw const key).cast());
        if socket.is_null() {
            return false;
        }
        bpf_sk_release(socket.cast());
        true
    }
}

/// Tells the agent which connection is which. At the start of a connection its source port is known and no packet
/// has left; at its end an entry that the agent never took is removed.
pub(crate) fn follow(ctx: &SockOpsContext) {
    let (op, socket) = (read!((*ctx.ops).op), read!((*ctx.ops).__bindgen_anon_2.sk));
    // The second argument of the state callback is the new state.
    let state = read!((*ctx.ops).__bindgen_anon_1.args[1]);
    let is_over = op == BPF_SOCK_OPS_STATE_CB && state == BPF_TCP_CLOSE;
    if socket.is_null() || !(is_over || op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
        return;
    }
    let Some(redirect) = storage(socket, None) else { return };
    // SAFETY: the storage lives as long as the socket; the context is the kernel's own.
    let (redirect, netns) = unsafe { (*redirect, bpf_get_netns_cookie(ctx.ops.cast())) };
    let key = FlowKey { netns, port: read!((*ctx.ops).local_port), version: redirect.version };
    if op == BPF_SOCK_OPS_TCP_CONNECT_CB {
        // When the map is full the agent does not find the connection, and resets it.
        if FLOWS.insert(&key, &redirect, 0).is_ok() {
            let _ = ctx.set_cb_flags(BPF_SOCK_OPS_STATE_CB_FLAG as i32);
        }
        return;
    }
    forget(&key, redirect.cookie);
}

/// Removes an entry, unless the port already serves another socket.
fn forget(key: &FlowKey, cookie: u64) {
    // SAFETY: the value is only compared; if it is replaced meanwhile, its cookie does not match.
    let ours = unsafe { FLOWS.get(key) }.is_some_and(|flow| flow.cookie == cookie);
    if ours {
        let _ = FLOWS.remove(key);
    }
}

fn clear_storage(socket: *mut bpf_sock) {
    // SAFETY: the map is a socket storage; the kernel checks the socket pointer. Nothing to remove is no error.
    let _ = unsafe { bpf_sk_storage_delete((&raw const REDIRECTS).cast_mut().cast(), socket.cast()) };
}

/// The storage of a socket; made when a first value is given.
fn storage(socket: *mut bpf_sock, value: Option<&mut Redirect>) -> Option<*mut Redirect> {
    store::of(&REDIRECTS, socket, value)
}
