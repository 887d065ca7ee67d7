//! The eBPF programs. Entry points only; each calls one step in its own file and turns the step's verdict into what
//! the hook wants. Every early return on an enforced path denies.
//!
//! `connect4`/`connect6` send connections to peers to the agent, or hold them; with `make_socket` and `sendmsg4`/`sendmsg6`
//! they refuse what would be neither mutual TLS nor let pass by policy; `follow` tells the agent which connection
//! is which, and shuts and opens the gates; `inbound` hands arriving connections to the agent, unless they are held
//! instead; `getpeername4`/`getpeername6` show the application the true other end of a relayed connection.
//! `egress`/`ingress` are the lock on held sockets; `set_option`/`get_option` keep the gate out of the application's
//! sight and reach, and count what a direct connection does not do; `follow` also keeps a full send buffer out of kernel
//! TLS's way. `ioctl_returns` corrects what an application is told of kernel TLS; `existing` opens what was there before.
//! The others take notes of who holds a held socket.

#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "the only way to a compare-and-exchange on this target")]
#![expect(unsafe_code, reason = "helpers and context fields are raw pointers")]

mod outbound;

mod outside;

mod inbound;

mod names;

mod gate;
mod lock;
mod missing;
mod option;
mod room;

mod cut;
mod existing;
mod owner;
mod unread;

mod context;
mod event;
mod maps;
mod store;
mod verdict;

use core::convert::identity;

use aya_ebpf::bindings::BPF_SOCK_OPS_HDR_OPT_LEN_CB;
use aya_ebpf::macros::{cgroup_skb, cgroup_sock, cgroup_sock_addr, cgroup_sockopt, fentry, fexit, sk_lookup, sock_ops};
use aya_ebpf::programs::{
    FEntryContext, FExitContext, SkBuffContext, SkLookupContext, SockAddrContext, SockContext, SockOpsContext,
    SockoptContext,
};

#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    outbound::connect4(&ctx).into()
}

#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    outbound::connect6(&ctx).into()
}

#[cgroup_sock(sock_create)]
fn make_socket(ctx: SockContext) -> i32 {
    outside::make(&ctx).into()
}

#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    outside::send4(&ctx).into()
}

#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    outside::send6(&ctx).into()
}

#[sock_ops]
fn follow(ctx: SockOpsContext) -> u32 {
    if context::read!((*ctx.ops).op) == BPF_SOCK_OPS_HDR_OPT_LEN_CB {
        room::asked(&ctx);
    } else {
        follow_life(&ctx);
    }
    1
}

/// Apart from what is asked for each packet, which is short and shall save no registers for this.
#[inline(never)]
fn follow_life(ctx: &SockOpsContext) {
    outbound::follow(ctx);
    gate::follow(ctx);
}

#[cgroup_skb(egress)]
fn egress(ctx: SkBuffContext) -> i32 {
    lock::outgoing(&ctx)
}

#[cgroup_skb(ingress)]
fn ingress(ctx: SkBuffContext) -> i32 {
    lock::incoming(&ctx)
}

#[cgroup_sockopt(setsockopt)]
fn set_option(ctx: SockoptContext) -> i32 {
    option::set(&ctx).into()
}

#[cgroup_sockopt(getsockopt)]
fn get_option(ctx: SockoptContext) -> i32 {
    option::get(&ctx).into()
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

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
fn existing(ctx: *const existing::Visited) -> i32 {
    existing::visit(ctx);
    0
}

#[fentry]
fn connect_begins(ctx: FEntryContext) -> i32 {
    owner::connect(&ctx);
    0
}

#[fentry]
fn grafted(ctx: FEntryContext) -> i32 {
    owner::grafted(ctx.arg(0));
    0
}

#[fentry]
fn installed(ctx: FEntryContext) -> i32 {
    owner::installed(ctx.arg(0));
    0
}

#[fexit]
fn io_accept_returns(_ctx: FExitContext) -> i32 {
    owner::installed(-1);
    0
}

#[fentry]
fn released(ctx: FEntryContext) -> i32 {
    cut::released(owner::sock(ctx.arg(0)));
    0
}

/// A program at the entry and one at the exit of a kernel function, what that does, and how its first argument leads to the socket.
macro_rules! calls {
    ($($enters:ident, $leaves:ident: $call:ident, $socket:expr;)*) => {
        $(
            #[fentry]
            fn $enters(ctx: FEntryContext) -> i32 {
                owner::enters($socket(ctx.arg(0)), owner::Call::$call);
                0
            }

            #[fexit]
            fn $leaves(ctx: FExitContext) -> i32 {
                owner::leaves($socket(ctx.arg(0)), &ctx);
                0
            }
        )*
    };
}

calls! {
    send_enters, send_leaves: Send, identity;
    page_enters, page_leaves: Send, identity;
    receive_enters, receive_leaves: Receive, identity;
    splice_enters, splice_leaves: Receive, owner::sock;
}

#[fentry]
fn receive_waits(ctx: FEntryContext) -> i32 {
    owner::waits(ctx.arg(0));
    0
}

#[fentry]
fn send_waits(ctx: FEntryContext) -> i32 {
    owner::waits(ctx.arg(0));
    0
}

#[fexit]
fn ioctl_returns(ctx: FExitContext) -> i32 {
    unread::answered(&ctx);
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
