//! The gate of a direct connection: from its first packet until both ends have their keys, the workload's socket can
//! neither send nor receive.
//!
//! Sending: TCP_NOTSENT_LOWAT of the socket is 0, and so is the default of its namespace (the agent sees to that), so
//! the socket is never writable. A socket that no program has seen therefore stays shut. [`crate::lock`] is the second
//! lock, and the one on receiving. What is not held is opened here, with the value that the application has chosen or
//! the default that the namespace had.

use aya_ebpf::bindings::{
    BPF_NOEXIST, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
    BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE, bpf_sock,
};
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_getsockopt, bpf_setsockopt, bpf_sk_storage_delete,
};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::programs::SockOpsContext;
use enforcer_ebpf::{
    DIRECTION_INBOUND, DIRECTION_OUTBOUND, EVENT_CLOSED, EVENT_CONNECTED, EVENT_REFUSED, Endpoint, GATE_HELD,
    GATE_REFUSED, Gate, Held, PEER_DIRECT, PEER_KEY_BITS, PORT_FREE, Reason, STAGE_CONNECTING, STAGE_ESTABLISHED,
};

use crate::context::{is_local, local_endpoint, read, remote_endpoint};
use crate::event::{tell, tell_in_time};
use crate::inbound::taken;
use crate::maps::{CALLS, GATES, HELD, LIVE, NAMESPACES, PEERS, WANTED};
use crate::owner::callers;
use crate::room;
use crate::store;
use crate::verdict::count;

/// `IPPROTO_TCP`.
pub(crate) const SOL_TCP: i32 = 6;
/// Option of [`SOL_TCP`].
pub(crate) const TCP_NOTSENT_LOWAT: i32 = 25;
/// Length of its value.
const OPTION: i32 = 4;

/// `connect` to a peer that can do it: the socket will be held from its first packet on.
pub(crate) fn hold(socket: *mut bpf_sock, cgroup: u64) -> Result<(), Reason> {
    let caller = bpf_get_current_pid_tgid();
    // SAFETY: the value is copied before anything else can run here.
    let descriptor = unsafe { CALLS.get(caller) }.copied().unwrap_or(-1);
    let mut gate = Gate { descriptor, process: (caller >> 32) as u32, cgroup, ..Gate::new(GATE_HELD) };
    let stored = storage(socket, Some(&mut gate)).ok_or(Reason::MapFull)?;
    // The gate of an earlier `connect` that failed may still be there.
    // SAFETY: the kernel keeps the storage as long as the socket, and only this thread is in `connect` on it.
    unsafe { overwrite(stored, &gate) };
    Ok(())
}

/// All but the lock, which no program may touch.
#[inline(always)]
unsafe fn overwrite(stored: *mut Gate, gate: &Gate) {
    let Gate { state, descriptor, process, seen, cgroup, octets, limit, buffer, .. } = *gate;
    // SAFETY: the caller's.
    unsafe {
        (*stored).descriptor = descriptor;
        (*stored).process = process;
        (*stored).seen = seen;
        (*stored).cgroup = cgroup;
        (*stored).octets = octets;
        (*stored).limit = limit;
        (*stored).buffer = buffer;
        (*stored).state = state;
    }
}

/// The socket is none of ours (any more).
pub(crate) fn release(socket: *mut bpf_sock) {
    // SAFETY: the map is a socket storage; the kernel checks the socket pointer. Nothing to remove is no error.
    let _ = unsafe { bpf_sk_storage_delete((&raw const GATES).cast_mut().cast(), socket.cast()) };
}

/// Follows a socket through its life.
pub(crate) fn follow(ctx: &SockOpsContext) {
    let (op, socket) = (read!((*ctx.ops).op), read!((*ctx.ops).__bindgen_anon_2.sk));
    if socket.is_null() {
        return;
    }
    match op {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connecting(ctx, socket),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => connected(ctx, socket),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => arrived(ctx, socket),
        // The second argument of the state callback is the new state.
        BPF_SOCK_OPS_STATE_CB if read!((*ctx.ops).__bindgen_anon_1.args[1]) == BPF_TCP_CLOSE => closed(ctx),
        _ => {}
    }
}

/// Before the first packet of a connection that a workload opens.
fn connecting(ctx: &SockOpsContext, socket: *mut bpf_sock) {
    let Some(netns) = gated(ctx) else { return };
    let Some(gate) = storage(socket, None) else { return open(ctx, socket, netns.1) };
    let (source, destination) = (local_endpoint(ctx), remote_endpoint(ctx));
    if source.address == destination.address {
        // To one of the namespace's own addresses: it never leaves the host, and there is only one agent.
        release(socket);
        count(Reason::SameNamespace);
        return open(ctx, socket, netns.1);
    }
    // SAFETY: the storage lives as long as the socket.
    let opened = unsafe { *gate };
    let held = Held {
        netns: netns.0,
        cgroup: opened.cgroup,
        source,
        destination,
        direction: DIRECTION_OUTBOUND,
        stage: STAGE_CONNECTING,
        process: opened.process,
        descriptor: opened.descriptor,
    };
    take(ctx, (socket, gate), &held, netns.1);
}

/// The TCP handshake of a connection that a workload opened is over, and nobody knows yet.
fn connected(ctx: &SockOpsContext, socket: *mut bpf_sock) {
    let Some(gate) = storage(socket, None) else { return };
    // SAFETY: the storage lives as long as the socket.
    if unsafe { (*gate).state } != GATE_HELD {
        return;
    }
    let cookie = cookie(ctx);
    let Some(held) = HELD.get_ptr_mut(&cookie) else { return };
    // SAFETY: the entry is freed a grace period after it is removed; nobody else writes it at this stage.
    let held = unsafe {
        (*held).stage = STAGE_ESTABLISHED;
        *held
    };
    tell(EVENT_CONNECTED, cookie, Some(&held), (0, 0));
}

/// The TCP handshake of a connection to a workload is over; `accept` has not seen it yet.
fn arrived(ctx: &SockOpsContext, socket: *mut bpf_sock) {
    let Some(netns) = gated(ctx) else { return };
    let (source, destination) = (remote_endpoint(ctx), local_endpoint(ctx));
    if source.address == destination.address || !is_taken(netns.0, &source, &destination) {
        return open(ctx, socket, netns.1);
    }
    let held = Held {
        netns: netns.0,
        cgroup: 0,
        source,
        destination,
        direction: DIRECTION_INBOUND,
        stage: STAGE_ESTABLISHED,
        process: 0,
        descriptor: -1,
    };
    match shut_storage(socket) {
        Some(gate) => take(ctx, (socket, gate), &held, netns.1),
        // Without memory for a gate only the write gate holds; the agent destroys the socket.
        None => {
            count(Reason::MapFull);
            tell(EVENT_REFUSED, cookie(ctx), Some(&held), (0, 0));
        }
    }
}

/// Shuts the gate and writes the connection into the hold table. Where that is full the socket stays shut for good.
fn take(ctx: &SockOpsContext, (socket, gate): (*mut bpf_sock, *mut Gate), held: &Held, usual: u32) {
    let cookie = cookie(ctx);
    shut(ctx, socket, usual);
    let _ = ctx.set_cb_flags(room::FLAGS as i32);
    // Room for notes, so that taking one is quick; where there is none yet it is made then, or the connection refused.
    let _ = callers(socket);
    if HELD.insert(&cookie, held, u64::from(BPF_NOEXIST)).is_err() {
        // SAFETY: the storage lives as long as the socket; the agent does not know it yet.
        unsafe { (*gate).state = GATE_REFUSED };
        count(Reason::MapFull);
        tell(EVENT_REFUSED, cookie, Some(held), (0, 0));
    }
}

/// The socket is closed: nothing of it is left behind.
fn closed(ctx: &SockOpsContext) {
    let cookie = cookie(ctx);
    let octets = (read!((*ctx.ops).bytes_acked), read!((*ctx.ops).bytes_received));
    // SAFETY: copied before it is removed.
    if let Some(held) = unsafe { HELD.get(cookie) }.copied() {
        let _ = HELD.remove(cookie);
        tell(EVENT_CLOSED, cookie, Some(&held), octets);
    }
    // SAFETY: only the presence counts.
    if unsafe { LIVE.get(cookie) }.is_some() {
        let _ = LIVE.remove(cookie);
        let socket = read!((*ctx.ops).__bindgen_anon_2.sk);
        let gate = if socket.is_null() { None } else { storage(socket, None) };
        // SAFETY: the storage lives as long as the socket.
        let seen = gate.map_or(0, |gate| unsafe { (*gate).seen });
        // The application does not wait for it, and neither does the other end.
        tell_in_time(EVENT_CLOSED, (cookie, seen), octets);
    }
}

/// Whether a connection from this source to this port of this namespace is ours, if it has come to the application. One
/// that is relayed comes to the agent; but port and peer may have become such ones since this connection began. At a
/// loopback address nothing comes to the application but what [`crate::inbound`] knows to be from inside.
fn is_taken(netns: u64, source: &Endpoint, destination: &Endpoint) -> bool {
    let is_inside = is_local(&source.address) || is_local(&destination.address);
    taken(netns, destination.port) != Some(PORT_FREE) && !is_inside
}

/// Whether the registry knows an agent for this address.
pub(crate) fn peer_is_direct(address: &[u8; 16]) -> bool {
    PEERS.get(Key::new(PEER_KEY_BITS, *address)) == Some(&PEER_DIRECT)
}

/// The namespace of the socket and the write gate that is usual there; `None` if its sockets are not gated.
fn gated(ctx: &SockOpsContext) -> Option<(u64, u32)> {
    // SAFETY: the context is the kernel's own; entries are written once.
    unsafe {
        let netns = bpf_get_netns_cookie(ctx.ops.cast());
        NAMESPACES.get(netns).map(|&usual| (netns, usual))
    }
}

/// Opens a socket that is not held.
fn open(ctx: &SockOpsContext, socket: *mut bpf_sock, usual: u32) {
    match wanted(socket, None) {
        // SAFETY: the storage lives as long as the socket.
        Some(wanted) if unsafe { *wanted } != 0 => set(ctx, unsafe { *wanted }),
        _ if current(ctx) == Some(0) => set(ctx, usual),
        _ => {}
    }
}

/// Shuts the write gate, and keeps what the application had chosen before its socket was held, if it had.
fn shut(ctx: &SockOpsContext, socket: *mut bpf_sock, usual: u32) {
    match current(ctx) {
        // It is as the namespace has it: shut.
        Some(0) => return,
        // One that the application has chosen since is kept. Without memory the application gets the usual one back.
        Some(mut value) if value != usual => drop(wanted(socket, Some(&mut value))),
        _ => {}
    }
    set(ctx, 0);
}

fn current(ctx: &SockOpsContext) -> Option<u32> {
    let mut value = 0_u32;
    // SAFETY: the context is the kernel's own, and the helper writes as many bytes as it is told.
    let got = unsafe { bpf_getsockopt(ctx.ops.cast(), SOL_TCP, TCP_NOTSENT_LOWAT, (&raw mut value).cast(), OPTION) };
    (got == 0).then_some(value)
}

pub(crate) fn set(ctx: &SockOpsContext, mut value: u32) {
    // SAFETY: as above. It fails only for values that this kernel does not know; then the socket stays shut.
    let _ = unsafe { bpf_setsockopt(ctx.ops.cast(), SOL_TCP, TCP_NOTSENT_LOWAT, (&raw mut value).cast(), OPTION) };
}

fn cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the context is the kernel's own.
    unsafe { bpf_get_socket_cookie(ctx.ops.cast()) }
}

/// The gate in the socket's storage; made when a value is given.
pub(crate) fn storage(socket: *mut bpf_sock, value: Option<&mut Gate>) -> Option<*mut Gate> {
    store::of(&GATES, socket, value)
}

/// The gate of a socket that has none, made in its place: its zeros are the kernel's.
fn shut_storage(socket: *mut bpf_sock) -> Option<*mut Gate> {
    let gate = store::of_zeros(&GATES, socket)?;
    let Gate { state, descriptor, limit, .. } = Gate::new(GATE_HELD);
    // SAFETY: the storage lives as long as the socket, which nobody else knows yet.
    unsafe {
        (*gate).descriptor = descriptor;
        (*gate).limit = limit;
        (*gate).state = state;
    }
    Some(gate)
}

/// The write gate that the application has chosen, in the socket's storage; made when a value is given.
pub(crate) fn wanted(socket: *mut bpf_sock, value: Option<&mut u32>) -> Option<*mut u32> {
    store::of(&WANTED, socket, value)
}
