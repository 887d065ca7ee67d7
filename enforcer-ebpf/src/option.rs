//! TCP_NOTSENT_LOWAT as the application sees it: its own value, whatever the gate has made of it.
//!
//! What an application sets on a held socket is kept and must not open it; the agent gives it back with the keys. What
//! it sets on any other socket takes effect, except 0, which would mean "as the namespace has it", and that is shut.

use aya_ebpf::bindings::bpf_sockopt;
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::programs::SockoptContext;
use enforcer_ebpf::{GATE_OPEN, Reason};

use crate::context::read;
use crate::gate::{SOL_TCP, TCP_NOTSENT_LOWAT, storage, wanted};
use crate::maps::NAMESPACES;
use crate::verdict::Verdict;

/// Longest value that the kernel copies for a program; a longer one must be waved through.
const LONGEST: i32 = 4096;
/// Of the value that matters.
const OPTION: usize = 4;

/// `setsockopt` of a workload, and of the agent on its sockets.
pub(crate) fn set(ctx: &SockoptContext) -> Verdict {
    let Some(netns) = gated(ctx) else { return Verdict::Pass };
    let Some(value) = value(ctx) else { return Verdict::Pass };
    let socket = read!((*ctx.sockopt).__bindgen_anon_1.sk);
    // SAFETY: `value` has checked that the kernel holds as many bytes.
    let chosen = unsafe { value.read_unaligned() };
    // SAFETY: the storage lives as long as the socket.
    let held = storage(socket, None).is_some_and(|gate| unsafe { (*gate).state } != GATE_OPEN);
    let mut kept = if chosen == netns { 0 } else { chosen };
    let Some(stored) = wanted(socket, Some(&mut kept)) else { return Verdict::Deny(Reason::MapFull) };
    // SAFETY: as above.
    unsafe { *stored = kept };
    if held {
        // Done: the kernel is not to do it too.
        // SAFETY: the field is writable in this hook.
        unsafe { (&raw mut (*ctx.sockopt).optlen).write_volatile(-1) };
    } else if chosen == 0 {
        // SAFETY: as above.
        unsafe { value.write_unaligned(netns) };
    }
    Verdict::Pass
}

/// `getsockopt` of a workload, after the kernel has answered.
pub(crate) fn get(ctx: &SockoptContext) -> Verdict {
    if gated(ctx).is_none() {
        return Verdict::Pass;
    }
    let Some(value) = value(ctx) else { return Verdict::Pass };
    let socket = read!((*ctx.sockopt).__bindgen_anon_1.sk);
    // SAFETY: the storage lives as long as the socket.
    let chosen = wanted(socket, None).map_or(0, |wanted| unsafe { *wanted });
    // SAFETY: `value` has checked that there are as many bytes.
    unsafe { value.write_unaligned(chosen) };
    Verdict::Pass
}

/// The write gate that is usual in the socket's namespace, if the call is about the write gate at all.
fn gated(ctx: &SockoptContext) -> Option<u32> {
    if read!((*ctx.sockopt).optlen) > LONGEST {
        // SAFETY: the field is writable; 0 leaves the call to the kernel as it was.
        unsafe { (&raw mut (*ctx.sockopt).optlen).write_volatile(0) };
        return None;
    }
    if read!((*ctx.sockopt).level) != SOL_TCP || read!((*ctx.sockopt).optname) != TCP_NOTSENT_LOWAT {
        return None;
    }
    // SAFETY: the context is the kernel's own; entries are written once.
    unsafe { NAMESPACES.get(bpf_get_netns_cookie(ctx.sockopt.cast())) }.copied()
}

/// Where the value is, if it is there as a whole.
fn value(ctx: &SockoptContext) -> Option<*mut u32> {
    let sockopt: *mut bpf_sockopt = ctx.sockopt;
    let start = read!((*sockopt).__bindgen_anon_2.optval) as *mut u8;
    let end = read!((*sockopt).__bindgen_anon_3.optval_end) as *mut u8;
    if start.is_null() || start.wrapping_add(OPTION) > end { None } else { Some(start.cast()) }
}
