//! The eBPF programs of the relay path. Entry points only; each calls one step in its own file and turns the
//! step's verdict into what the hook wants. Every early return on an enforced path denies.
//!
//! `connect4`/`connect6` send connections to peers to the agent; `follow` tells the agent which connection is
//! which; `inbound` hands arriving connections to the agent; `getpeername4`/`getpeername6` show the application the
//! true other end.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "helpers and context fields are raw pointers")]

mod context;
mod inbound;
mod maps;
mod names;
mod outbound;
mod verdict;

use aya_ebpf::macros::{cgroup_sock_addr, sk_lookup, sock_ops};
use aya_ebpf::programs::{SkLookupContext, SockAddrContext, SockOpsContext};

#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    outbound::connect4(&ctx).into()
}

#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    outbound::connect6(&ctx).into()
}

#[sock_ops]
fn follow(ctx: SockOpsContext) -> u32 {
    outbound::follow(&ctx);
    1
}

#[sk_lookup]
fn inbound(ctx: SkLookupContext) -> u32 {
    inbound::select(&ctx).into()
}

// The kernel accepts no other result than 1 from these two hooks.

#[cgroup_sock_addr(getpeername4)]
fn getpeername4(ctx: SockAddrContext) -> i32 {
    names::peer4(&ctx);
    1
}

#[cgroup_sock_addr(getpeername6)]
fn getpeername6(ctx: SockAddrContext) -> i32 {
    names::peer6(&ctx);
    1
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
