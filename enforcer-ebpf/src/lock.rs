//! The second lock on a held socket, and the only one on receiving: no payload passes, in or out, and no end of data
//! leaves.
//!
//! An end of data without keys would be an end of everything: kernel TLS goes only under a socket that is open both
//! ways. So it waits like payload does, unless the connection is over anyway: the peer has ended it too, or the agent
//! knows that the workload has closed it. TCP itself sends what was dropped again.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_sk_fullsock, bpf_skb_load_bytes};
use aya_ebpf::programs::SkBuffContext;
use enforcer_ebpf::{
    EVENT_REFUSED, EVENT_SENT_MUCH, GATE_HELD, GATE_KEYED, GATE_OPEN, GATE_REFUSED, Gate, MANY_OCTETS, Reason,
    SEEN_RECORD, STAGE_ENDED,
};

use crate::context::{TCP, is_local, mapped, read};
use crate::event::tell;
use crate::gate::storage;
use crate::maps::HELD;
use crate::verdict::Verdict;

/// What [`Verdict::Pass`] is to the kernel.
const PASS: i32 = 1;
/// `BPF_TCP_LAST_ACK` and `BPF_TCP_LISTEN`.
const LAST_ACK: u32 = 9;
const LISTEN: u32 = 10;
/// `ETH_P_IP` and `ETH_P_IPV6`, as they lie in a context.
const IP4: u32 = 0x0800_u16.to_be() as u32;
const IP6: u32 = 0x86dd_u16.to_be() as u32;
/// TCP flags (RFC 9293 3.1).
const FIN: u8 = 1;
const RST: u8 = 4;

/// A packet leaves a workload. Behind an open gate this is all that is done for each packet, so it is short, and the rest is
/// in functions of its own, for which the kernel saves registers only when they are called.
pub(crate) fn outgoing(ctx: &SkBuffContext) -> i32 {
    let Some(common) = common(ctx) else { return PASS };
    let Some(gate) = storage(common, None) else { return PASS };
    // SAFETY: the storage lives as long as the socket.
    if unsafe { (*gate).state } == GATE_OPEN && unsafe { (*gate).seen } & SEEN_RECORD != 0 {
        if weigh(ctx, gate) {
            much(ctx, gate);
        }
        return PASS;
    }
    outgoing_shut(ctx, common, gate)
}

/// The same where the gate is not open, or nothing has left through it.
#[inline(never)]
fn outgoing_shut(ctx: &SkBuffContext, common: *mut bpf_sock, gate: *mut Gate) -> i32 {
    // SAFETY: as above.
    let verdict = match unsafe { (*gate).state } {
        GATE_OPEN => first(ctx, gate),
        GATE_HELD | GATE_KEYED => judge(ctx, |segment| {
            segment.payload == 0 && (!segment.has(FIN) || state(common) == Some(LAST_ACK) || is_over(ctx))
        }),
        _ => judge(ctx, |segment| segment.has(RST)),
    };
    verdict.into()
}

/// The first payload must be a record of application data (RFC 8446 5.2): a second look at what [`crate::owner`] sees to,
/// by what really leaves.
fn first(ctx: &SkBuffContext, gate: *mut Gate) -> Verdict {
    const RECORD: [u8; 3] = [23, 3, 3];
    match Segment::of(ctx) {
        Some(segment) if segment.payload == 0 => Verdict::Pass,
        Some(segment) if load(ctx, segment.headers) == Some(RECORD) => {
            // SAFETY: the storage lives as long as the socket.
            unsafe { (*gate).seen |= SEEN_RECORD };
            Verdict::Pass
        }
        _ => {
            // SAFETY: the context is the kernel's own.
            refuse(gate, unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) });
            Verdict::Deny(Reason::PlaintextStopped)
        }
    }
}

/// Shuts a gate for good, and has the agent end the connection.
pub(crate) fn refuse(gate: *mut Gate, cookie: u64) {
    // SAFETY: the storage lives as long as the socket.
    unsafe { (*gate).state = GATE_REFUSED };
    tell(EVENT_REFUSED, cookie, None, (0, 0));
}

/// Counts what leaves: a key may not serve more records than RFC 8446 5.5 allows, and the kernel does not look. True when it
/// is time to say so.
#[inline(always)]
fn weigh(ctx: &SkBuffContext, gate: *mut Gate) -> bool {
    let length = u64::from(read!((*ctx.skb.skb).len));
    // SAFETY: the storage lives as long as the socket; packets of one socket leave one at a time, and a count that is
    // off by a packet does no harm.
    let (before, sent) = unsafe {
        let before = (*gate).octets;
        (*gate).octets = before + length;
        (before, before + length)
    };
    before / MANY_OCTETS != sent / MANY_OCTETS
}

#[inline(never)]
fn much(ctx: &SkBuffContext, gate: *mut Gate) {
    // SAFETY: the context is the kernel's own, and the storage lives as long as the socket.
    let (cookie, sent) = unsafe { (bpf_get_socket_cookie(ctx.skb.skb.cast()), (*gate).octets) };
    tell(EVENT_SENT_MUCH, cookie, None, (sent, 0));
}

/// Whether the agent has found that the workload has closed this socket.
fn is_over(ctx: &SkBuffContext) -> bool {
    // SAFETY: the context is the kernel's own; the entry is only read.
    unsafe { HELD.get(bpf_get_socket_cookie(ctx.skb.skb.cast())) }.is_some_and(|held| held.stage == STAGE_ENDED)
}

/// A packet arrives at a workload. As short as [`outgoing`].
pub(crate) fn incoming(ctx: &SkBuffContext) -> i32 {
    let Some(common) = common(ctx) else { return PASS };
    let Some(gate) = storage(common, None) else {
        return if state(common) == Some(LISTEN) { answering(ctx) } else { PASS };
    };
    // SAFETY: as above.
    let state = unsafe { (*gate).state };
    if state == GATE_OPEN { PASS } else { incoming_shut(ctx, state) }
}

/// The same where the gate is not open.
#[inline(never)]
fn incoming_shut(ctx: &SkBuffContext, state: u32) -> i32 {
    let verdict = match state {
        GATE_KEYED => Verdict::Pass,
        GATE_HELD => judge(ctx, |segment| segment.payload == 0),
        _ => judge(ctx, |segment| segment.has(RST)),
    };
    verdict.into()
}

/// The last packet of a TCP handshake belongs to the listening socket; its payload would be there before the gate is.
/// No agent lets a peer send any, and from anybody else it comes again.
#[inline(never)]
fn answering(ctx: &SkBuffContext) -> i32 {
    match Segment::of(ctx) {
        Some(segment) if segment.payload > 0 && !is_local(&segment.source) => Verdict::Deny(Reason::HeldPayload).into(),
        _ => PASS,
    }
}

/// What cannot be read does not pass.
fn judge(ctx: &SkBuffContext, passes: impl Fn(&Segment) -> bool) -> Verdict {
    match Segment::of(ctx) {
        Some(segment) if passes(&segment) => Verdict::Pass,
        _ => Verdict::Deny(Reason::HeldPayload),
    }
}

/// The socket that a packet belongs to, whole or not: storage is only found of whole ones.
fn common(ctx: &SkBuffContext) -> Option<*mut bpf_sock> {
    let common = read!((*ctx.skb.skb).__bindgen_anon_2.sk);
    if common.is_null() { None } else { Some(common) }
}

/// The state of a socket, if it is a whole one (no request, no TIME_WAIT).
fn state(common: *mut bpf_sock) -> Option<u32> {
    // SAFETY: the kernel checks the pointer, and gives null for what is no whole one.
    let socket: *mut bpf_sock = unsafe { bpf_sk_fullsock(common.cast()) }.cast();
    if socket.is_null() { None } else { Some(read!((*socket).state)) }
}

/// What matters of a TCP segment.
struct Segment {
    source: [u8; 16],
    /// Where the payload begins.
    headers: u32,
    /// Octets of payload.
    payload: u32,
    flags: u8,
}

impl Segment {
    /// Reads it; `None` for what is no plain TCP over IP (IPv6 with extension headers, for one).
    fn of(ctx: &SkBuffContext) -> Option<Self> {
        let (source, start) = match read!((*ctx.skb.skb).protocol) {
            IP4 => {
                let header: [u8; 20] = load(ctx, 0)?;
                if u32::from(header[9]) != TCP {
                    return None;
                }
                let source = [header[12], header[13], header[14], header[15]];
                (mapped(source), u32::from(header[0] & 0xf) * 4)
            }
            IP6 => {
                let header: [u8; 40] = load(ctx, 0)?;
                if u32::from(header[6]) != TCP {
                    return None;
                }
                let mut source = [0; 16];
                source.copy_from_slice(&header[8..24]);
                (source, 40)
            }
            _ => return None,
        };
        // Data offset and flags: octets 12 and 13 of the TCP header.
        let [offset, flags]: [u8; 2] = load(ctx, start + 12)?;
        let headers = start + u32::from(offset >> 4) * 4;
        Some(Self { source, headers, payload: read!((*ctx.skb.skb).len).saturating_sub(headers), flags })
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

fn load<const N: usize>(ctx: &SkBuffContext, offset: u32) -> Option<[u8; N]> {
    let mut bytes = MaybeUninit::<[u8; N]>::uninit();
    // SAFETY: the context is the kernel's own, and the helper writes N bytes.
    let loaded = unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), offset, bytes.as_mut_ptr().cast(), N as u32) };
    // SAFETY: it has written them.
    if loaded == 0 { Some(unsafe { bytes.assume_init() }) } else { None }
}
