//! What the application sees when it asks for the other end: the destination that it asked for, or the client that
//! really opened the connection. `accept` asks here too, so its address is the same.

use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::programs::SockAddrContext;
use enforcer_ebpf::{Endpoint, SourceKey};

use crate::context::{STREAM, SocketAddress, TCP, is_v4};
use crate::maps::{REDIRECTS, SOURCES};
use crate::store;

/// `getpeername` and `accept` of an IPv4 socket.
pub(crate) fn peer4(ctx: &SockAddrContext) {
    let address = SocketAddress::of(ctx);
    if let Some(other) = other_end(ctx, &address, address.endpoint4()) {
        // An IPv4 socket has no way to name anything else.
        if is_v4(&other.address) {
            address.set_endpoint4(&other);
        }
    }
}

/// `getpeername` and `accept` of an IPv6 socket, for v4-mapped addresses too.
pub(crate) fn peer6(ctx: &SockAddrContext) {
    let address = SocketAddress::of(ctx);
    if let Some(other) = other_end(ctx, &address, address.endpoint6()) {
        address.set_endpoint6(&other);
    }
}

fn other_end(ctx: &SockAddrContext, address: &SocketAddress, seen: Endpoint) -> Option<Endpoint> {
    if address.kind() != (STREAM, TCP) {
        return None;
    }
    if let Some(redirect) = store::of(&REDIRECTS, address.socket(), None) {
        // SAFETY: the storage lives as long as the socket.
        return Some(unsafe { (*redirect).destination });
    }
    // SAFETY: the context is the kernel's own.
    let netns = unsafe { bpf_get_netns_cookie(ctx.sock_addr.cast()) };
    // SAFETY: an entry lives from before the connection until after it.
    unsafe { SOURCES.get(SourceKey { netns, source: seen, reserved: 0 }) }.copied()
}
