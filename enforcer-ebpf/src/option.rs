//! TCP_NOTSENT_LOWAT and SO_SNDBUF as the application sees them: its own values, whatever the gate has made of them.
//!
//! What an application sets on a held socket is kept and must not open it; the agent gives it back with the keys. What
//! it sets on any other socket takes effect, except 0, which would mean "as the namespace has it", and that is shut. On
//! a direct socket there is a limit to what takes effect, and a smaller send buffer is only remembered: [`crate::room`].

use aya_ebpf::bindings::{bpf_sock, bpf_sockopt};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_getsockopt};
use aya_ebpf::programs::SockoptContext;
use enforcer_ebpf::{AS_WANTED, GATE_OPEN, Gate, Reason, UNSENT_LIMIT};

use crate::context::read;
use crate::gate::{SOL_TCP, TCP_NOTSENT_LOWAT, storage, wanted};
use crate::maps::NAMESPACES;
use crate::missing;
use crate::verdict::Verdict;

/// `SOL_SOCKET` and `SO_SNDBUF`.
pub(crate) const SOL_SOCKET: i32 = 1;
const SO_SNDBUF: i32 = 7;
/// The same beyond what the machine allows: only the agent and the like may.
const SO_SNDBUFFORCE: i32 = 32;
/// Who means to send with MSG_ZEROCOPY sets it before.
const SO_ZEROCOPY: i32 = 60;
/// Of the values that matter.
const OPTION: usize = 4;

/// `setsockopt` of a workload, and of the agent on its sockets.
pub(crate) fn set(ctx: &SockoptContext) -> Verdict {
    match option(ctx) {
        (SOL_TCP, TCP_NOTSENT_LOWAT) => return set_gate(ctx),
        (SOL_SOCKET, SO_SNDBUF) => {
            if let Some((buffer, gate)) = buffer(ctx) {
                // What `getsockopt` answers is twice what was set (socket(7)).
                // SAFETY: `buffer` has checked that the kernel holds as many bytes; the storage lives as long as the socket.
                unsafe { (*gate).buffer = buffer.read_unaligned().saturating_mul(2) };
                done(ctx);
                return Verdict::Pass;
            }
        }
        (SOL_SOCKET, SO_SNDBUFFORCE) => keep_buffer(ctx),
        (SOL_SOCKET, SO_ZEROCOPY) => missing::zero_copy(ctx),
        _ => {}
    }
    leave(ctx);
    Verdict::Pass
}

/// The write gate: what the application wants is kept, and in force where the gate is open.
fn set_gate(ctx: &SockoptContext) -> Verdict {
    let (Some(usual), Some(value)) = (gated(ctx), value(ctx)) else {
        leave(ctx);
        return Verdict::Pass;
    };
    let socket = read!((*ctx.sockopt).__bindgen_anon_1.sk);
    // SAFETY: `value` has checked that the kernel holds as many bytes.
    let chosen = unsafe { value.read_unaligned() };
    let kept = match chosen {
        AS_WANTED => kept(socket),
        _ if chosen == usual => 0,
        _ => chosen,
    };
    if !keep(socket, kept) {
        return Verdict::Deny(Reason::MapFull);
    }
    let effective = if kept == 0 { usual } else { kept };
    match storage(socket, None) {
        // SAFETY: as above, and `value` has checked the length.
        Some(gate) if unsafe { (*gate).state } == GATE_OPEN => unsafe {
            (*gate).limit = effective.min(UNSENT_LIMIT);
            value.write_unaligned((*gate).limit);
        },
        Some(_) => {
            done(ctx);
            return Verdict::Pass;
        }
        // SAFETY: as above.
        None => unsafe { value.write_unaligned(effective) },
    }
    // The kernel takes longer values too, of which it gives programs the beginning.
    // SAFETY: the field is writable in this hook.
    unsafe { (&raw mut (*ctx.sockopt).optlen).write_volatile(OPTION as i32) };
    Verdict::Pass
}

/// What the application wants; 0: what is usual.
fn kept(socket: *mut bpf_sock) -> u32 {
    // SAFETY: the storage lives as long as the socket.
    wanted(socket, None).map_or(0, |wanted| unsafe { *wanted })
}

/// Keeps it. False without memory. Most applications want what is usual, and nothing is kept for them.
fn keep(socket: *mut bpf_sock, mut value: u32) -> bool {
    if value == 0 && wanted(socket, None).is_none() {
        return true;
    }
    let Some(stored) = wanted(socket, Some(&mut value)) else { return false };
    // SAFETY: as above.
    unsafe { *stored = value };
    true
}

/// The agent is about to enlarge the send buffer of a socket that it has just opened: what it was is kept.
fn keep_buffer(ctx: &SockoptContext) {
    let socket = read!((*ctx.sockopt).__bindgen_anon_1.sk);
    let Some(gate) = storage(socket, None) else { return };
    // SAFETY: the storage lives as long as the socket.
    let Gate { state, buffer, .. } = unsafe { *gate };
    let mut before = 0_u32;
    // SAFETY: the kernel holds the socket's lock, and the helper writes four octets.
    let told = |value: *mut u32| unsafe { bpf_getsockopt(socket.cast(), SOL_SOCKET, SO_SNDBUF, value.cast(), 4) };
    if state == GATE_OPEN && buffer == 0 && told(&raw mut before) == 0 {
        // SAFETY: as above.
        unsafe { (*gate).buffer = before };
    }
}

/// Level and number of the option.
fn option(ctx: &SockoptContext) -> (i32, i32) {
    (read!((*ctx.sockopt).level), read!((*ctx.sockopt).optname))
}

/// The kernel is not to do it too.
fn done(ctx: &SockoptContext) {
    // SAFETY: the field is writable in this hook.
    unsafe { (&raw mut (*ctx.sockopt).optlen).write_volatile(-1) };
}

/// The kernel does as if nobody had looked, with the application's own memory: of what a program has seen it makes a copy
/// each time, and refuses it where that is longer than what it shows to programs.
fn leave(ctx: &SockoptContext) {
    // SAFETY: the field is writable in this hook.
    unsafe { (&raw mut (*ctx.sockopt).optlen).write_volatile(0) };
}

/// `getsockopt` of a workload, after the kernel has answered.
pub(crate) fn get(ctx: &SockoptContext) -> Verdict {
    match option(ctx) {
        (SOL_TCP, TCP_NOTSENT_LOWAT) => {
            if let (Some(_), Some(value)) = (gated(ctx), value(ctx)) {
                let socket = read!((*ctx.sockopt).__bindgen_anon_1.sk);
                // SAFETY: `value` has checked that there are as many bytes.
                unsafe { value.write_unaligned(kept(socket)) };
                return Verdict::Pass;
            }
        }
        (SOL_SOCKET, SO_SNDBUF) => {
            if let Some((buffer, gate)) = buffer(ctx) {
                // SAFETY: the storage lives as long as the socket.
                let seen = unsafe { (*gate).buffer };
                if seen != 0 {
                    // SAFETY: `buffer` has checked that there are as many bytes.
                    unsafe { buffer.write_unaligned(seen) };
                    return Verdict::Pass;
                }
            }
        }
        _ => {}
    }
    leave(ctx);
    Verdict::Pass
}

/// The value and the gate of a direct socket.
fn buffer(ctx: &SockoptContext) -> Option<(*mut u32, *mut Gate)> {
    let gate = storage(read!((*ctx.sockopt).__bindgen_anon_1.sk), None)?;
    // SAFETY: the storage lives as long as the socket.
    if unsafe { (*gate).state } != GATE_OPEN {
        return None;
    }
    Some((value(ctx)?, gate))
}

/// The write gate that is usual in the socket's namespace, if that is gated.
fn gated(ctx: &SockoptContext) -> Option<u32> {
    // SAFETY: the context is the kernel's own; entries are written once.
    unsafe { NAMESPACES.get(bpf_get_netns_cookie(ctx.sockopt.cast())) }.copied()
}

/// Where the value is, if it is there as a whole.
pub(crate) fn value(ctx: &SockoptContext) -> Option<*mut u32> {
    let sockopt: *mut bpf_sockopt = ctx.sockopt;
    let start = read!((*sockopt).__bindgen_anon_2.optval) as *mut u8;
    let end = read!((*sockopt).__bindgen_anon_3.optval_end) as *mut u8;
    if start.is_null() || start.wrapping_add(OPTION) > end { None } else { Some(start.cast()) }
}
