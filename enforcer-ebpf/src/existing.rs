//! Sockets that were there before their namespace was gated: each is opened once, with the value that was usual until
//! then, so that it goes on as it was. One walk through the sockets of each namespace.

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::{bpf_getsockopt, bpf_setsockopt, bpf_skc_to_tcp_sock};

use crate::gate::{SOL_TCP, TCP_NOTSENT_LOWAT, storage};

/// What `net.ipv4.tcp_notsent_lowat` of the namespace was before.
#[unsafe(no_mangle)]
static USUAL_LOWAT: Global<u32> = Global::new(u32::MAX);

/// `struct bpf_iter__tcp` of the kernel, as far as it is needed.
#[repr(C)]
pub(crate) struct Visited {
    meta: u64,
    socket: *mut u8,
}

/// One socket of the namespace.
pub(crate) fn visit(ctx: *const Visited) {
    // SAFETY: the kernel hands a valid context.
    let common = unsafe { (&raw const (*ctx).socket).read_volatile() };
    if common.is_null() {
        return;
    }
    // SAFETY: the helper gives null for what is no whole TCP socket.
    let socket = unsafe { bpf_skc_to_tcp_sock(common.cast()) };
    if socket.is_null() || storage(socket.cast(), None).is_some() {
        return;
    }
    let (mut current, mut usual) = (0_u32, USUAL_LOWAT.load());
    // SAFETY: the helpers read and write as many bytes as they are told.
    unsafe {
        let _ = bpf_getsockopt(socket.cast(), SOL_TCP, TCP_NOTSENT_LOWAT, (&raw mut current).cast(), 4);
        if current == 0 {
            let _ = bpf_setsockopt(socket.cast(), SOL_TCP, TCP_NOTSENT_LOWAT, (&raw mut usual).cast(), 4);
        }
    }
}
