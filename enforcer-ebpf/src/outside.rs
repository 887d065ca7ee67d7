//! What a workload sends that will not be mutual TLS: to destinations outside the mesh, and in protocols other than TCP.
//! It passes where the workload's terms say so, and is refused otherwise. What stays in the workload's own namespace
//! passes.

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_ktime_get_boot_ns};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::programs::{SockAddrContext, SockContext};
use enforcer_ebpf::{
    Departed, EGRESS_AUDIT, EGRESS_DENY, EGRESS_NOT_ALLOWED, EGRESS_PASS, EGRESS_PERMISSIVE, EGRESS_SET_BITS,
    EgressKey, Endpoint, KIND_TCP, KIND_UDP, KIND_UDP_TO_PEER, NotedKey, OwnAddress, PEER_KEY_BITS, PEER_PLAINTEXT,
    RANGES, Reason, Terms, WorkloadValue,
};

use crate::context::{DATAGRAM, STREAM, SocketAddress, TCP, UDP, is_local, read};
use crate::maps::{DEPARTED, EGRESS, NOTED, OWN_ADDRESSES, PEERS};
use crate::outbound::workload;
use crate::verdict::{Verdict, count};

/// A workload makes a socket. TCP and UDP are judged by where they go, everything else here: nothing else is told of it
/// later. Also the guard of cgroups whose workloads no agent has enrolled (yet): without terms there is no socket.
pub(crate) fn make(ctx: &SockContext) -> Verdict {
    let socket: *mut bpf_sock = ctx.sock;
    let Some((cgroup, workload)) = workload() else { return Verdict::Deny(Reason::WorkloadUnknown) };
    let (kind, protocol) = (read!((*socket).type_), read!((*socket).protocol));
    match (kind, protocol) {
        (STREAM, TCP) | (DATAGRAM, UDP) => Verdict::Pass,
        _ => conclude(
            workload.others as u8,
            &NotedKey { cgroup, address: [0; 16], port: 0, protocol, reason: 0, reserved: 0 },
        ),
    }
}

/// `sendmsg` to an IPv4 address, over UDP.
pub(crate) fn send4(ctx: &SockAddrContext) -> Verdict {
    let address = SocketAddress::of(ctx);
    datagram(ctx, &address.endpoint4())
}

/// `sendmsg` to an IPv6 address, over UDP.
pub(crate) fn send6(ctx: &SockAddrContext) -> Verdict {
    let address = SocketAddress::of(ctx);
    datagram(ctx, &address.endpoint6())
}

/// UDP towards a destination: a datagram, or `connect`.
#[inline(always)]
pub(crate) fn datagram(ctx: &SockAddrContext, destination: &Endpoint) -> Verdict {
    if is_local(&destination.address) {
        return Verdict::Pass;
    }
    let Some((cgroup, workload)) = workload() else { return Verdict::Deny(Reason::WorkloadUnknown) };
    let kind = match PEERS.get(Key::new(PEER_KEY_BITS, destination.address)) {
        None | Some(&PEER_PLAINTEXT) => KIND_UDP,
        Some(_) => KIND_UDP_TO_PEER,
    };
    judge(ctx, (cgroup, workload), (kind, UDP), destination)
}

/// TCP to a destination that no peer has.
#[inline(always)]
pub(crate) fn stream(ctx: &SockAddrContext, workload: (u64, &WorkloadValue), destination: &Endpoint) -> Verdict {
    judge(ctx, workload, (KIND_TCP, TCP), destination)
}

#[inline(always)]
fn judge(
    ctx: &SockAddrContext,
    (cgroup, workload): (u64, &WorkloadValue),
    (kind, protocol): (usize, u32),
    destination: &Endpoint,
) -> Verdict {
    let Endpoint { address, port } = *destination;
    let action = action(workload.egress, kind, destination);
    if stays(ctx, &address) {
        return Verdict::Pass;
    }
    conclude(action, &NotedKey { cgroup, address, port, protocol, reason: 0, reserved: 0 })
}

/// What the terms say; 0: there are none for it.
#[inline(always)]
fn action(set: u32, kind: usize, destination: &Endpoint) -> u8 {
    let mut key: EgressKey = [0; 20];
    key[..4].copy_from_slice(&set.to_be_bytes());
    key[4..].copy_from_slice(&destination.address);
    let Some(terms) = EGRESS.get(Key::new(EGRESS_SET_BITS + PEER_KEY_BITS, key)) else { return 0 };
    within(terms, kind, destination.port as u16)
}

#[inline(always)]
fn within(terms: &Terms, kind: usize, port: u16) -> u8 {
    for index in 0..RANGES {
        if index >= usize::from(terms.count) {
            break;
        }
        let range = &terms.ranges[index];
        if range.first <= port && port <= range.last && range.kinds & (1 << kind) != 0 {
            return range.action;
        }
    }
    terms.usual[kind]
}

/// Whether the destination is an address of the namespace that the socket is in.
#[inline(always)]
fn stays(ctx: &SockAddrContext, address: &[u8; 16]) -> bool {
    // SAFETY: the context is the kernel's own.
    let netns = unsafe { bpf_get_netns_cookie(ctx.sock_addr.cast()) };
    // SAFETY: the value is only looked for.
    unsafe { OWN_ADDRESSES.get(OwnAddress { netns, address: *address }) }.is_some()
}

/// What follows from an action. All of it is remembered, and what is more than a rule that lets pass is noted.
#[inline(always)]
fn conclude(action: u8, key: &NotedKey) -> Verdict {
    remember(key);
    let (passes, reason) = match action {
        EGRESS_PASS => return Verdict::Pass,
        EGRESS_AUDIT => (true, Reason::EgressAudited),
        EGRESS_PERMISSIVE => (true, Reason::PermissiveUnknownDestination),
        EGRESS_DENY => (false, Reason::PolicyDenied),
        EGRESS_NOT_ALLOWED => (false, Reason::PolicyNotAllowed),
        _ => (false, Reason::EgressRefused),
    };
    note(&NotedKey { reason: reason as u32, ..*key });
    if passes {
        count(reason);
        return Verdict::Pass;
    }
    Verdict::Deny(reason)
}

/// Other rules can be judged by it. What finds no room takes that of the longest unseen.
fn remember(key: &NotedKey) {
    // SAFETY: takes nothing.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    match DEPARTED.get_ptr_mut(key) {
        Some(seen) => {
            // SAFETY: as in `note`.
            unsafe { (*seen).count += 1 };
            // SAFETY: as in `note`.
            unsafe { (*seen).last = now };
        }
        None => drop(DEPARTED.insert(key, &Departed { count: 1, first: now, last: now }, 0)),
    }
}

/// What finds no room is only counted: the longest unseen is forgotten first.
fn note(key: &NotedKey) {
    match NOTED.get_ptr_mut(key) {
        // SAFETY: an entry is freed a grace period after it is removed; a count that is off by one does no harm.
        Some(seen) => unsafe { *seen += 1 },
        None => drop(NOTED.insert(key, &1, 0)),
    }
}
