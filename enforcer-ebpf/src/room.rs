//! Room for whole records.
//!
//! When the send buffer of a socket is full in the middle of a record, kernel TLS keeps the rest of it for later, and
//! drops it when the socket is closed or its sending half is shut down: the last octets of an application that does not
//! block and closes at once would be lost. So a record that has begun always finds room. What limits an application is
//! how much may wait to leave: the kernel looks before a record begins, where it shall, and again whenever the record
//! needs another buffer, where it shall not. Between the two it asks for the length of header options, and that is here.
//!
//! The agent has made the send buffer itself too large to matter. Left are a machine that is short of memory for TCP,
//! and packets whose options are full of selective acknowledgements, for which the kernel does not ask.

use aya_ebpf::Global;
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_RETRANS_CB_FLAG, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG, bpf_sock,
};
use aya_ebpf::helpers::generated::bpf_skc_to_tcp_sock;
use aya_ebpf::programs::SockOpsContext;
use enforcer_ebpf::{GATE_OPEN, Gate};

use crate::context::read;
use crate::gate::{set, storage};

/// Where `struct tcp_sock` has `write_seq`, the number of the next octet to be written.
#[unsafe(no_mangle)]
static WRITE_SEQ: Global<u32> = Global::new(0);
/// Where it has `snd_nxt`, the number of the next octet to be sent.
#[unsafe(no_mangle)]
static SND_NXT: Global<u32> = Global::new(0);
/// Where it has `notsent_lowat`, which is the limit or what it was raised to.
#[unsafe(no_mangle)]
static NOTSENT_LOWAT: Global<u32> = Global::new(0);

/// `tcp_sendmsg` asks, and not a packet.
const BPF_WRITE_HDR_TCP_CURRENT_MSS: u32 = 1;

/// The flags of a held or direct socket: the kernel tells of its states, and asks for header options.
pub(crate) const FLAGS: u32 = BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;
/// Set while a record that has begun at the limit may exceed it. A flag that means nothing here, but is at hand in every
/// callback: the kernel tells of retransmissions, and nobody listens.
const RAISED: u32 = BPF_SOCK_OPS_RETRANS_CB_FLAG;

/// The kernel asks for the length of header options: `tcp_sendmsg` before it takes data, and every packet that leaves.
/// Nearly always there is nothing to do, and that is found without a look at the gate.
pub(crate) fn asked(ctx: &SockOpsContext) {
    let is_packet = read!((*ctx.ops).__bindgen_anon_1.args[0]) != BPF_WRITE_HDR_TCP_CURRENT_MSS;
    if is_packet && read!((*ctx.ops).bpf_sock_ops_cb_flags) & RAISED == 0 {
        return;
    }
    let socket = read!((*ctx.ops).__bindgen_anon_2.sk);
    if socket.is_null() {
        return;
    }
    if is_packet {
        return lower(ctx, socket);
    }
    // SAFETY: the helper gives null for what is no whole TCP socket.
    let tcp: *mut u8 = unsafe { bpf_skc_to_tcp_sock(socket.cast()) }.cast();
    if tcp.is_null() {
        return;
    }
    // SAFETY: a pointer that the verifier knows as `struct tcp_sock`; it checks that the offset is one of a member.
    let member = |offset: &Global<u32>| unsafe { tcp.add(offset.load() as usize).cast::<u32>().read_volatile() };
    let unsent = member(&WRITE_SEQ).wrapping_sub(member(&SND_NXT));
    if unsent > 0 && unsent >= member(&NOTSENT_LOWAT) {
        raise(ctx, socket, unsent);
    }
}

/// A record has begun, and is at the limit.
#[inline(never)]
fn raise(ctx: &SockOpsContext, socket: *mut bpf_sock, unsent: u32) {
    if limit(socket).is_some() {
        let _ = ctx.set_cb_flags((FLAGS | RAISED) as i32);
        // For one more buffer: if the record needs another one, the kernel asks again.
        set(ctx, unsent.saturating_add(1));
    }
}

/// Something leaves, so something can be written again: under the usual limit.
#[inline(never)]
fn lower(ctx: &SockOpsContext, socket: *mut bpf_sock) {
    if let Some(limit) = limit(socket) {
        let _ = ctx.set_cb_flags(FLAGS as i32);
        set(ctx, limit);
    }
}

/// Of an open gate.
fn limit(socket: *mut bpf_sock) -> Option<u32> {
    let gate = storage(socket, None)?;
    // SAFETY: the storage lives as long as the socket, whose lock the kernel holds.
    let Gate { state, limit, .. } = unsafe { *gate };
    (state == GATE_OPEN).then_some(limit)
}
