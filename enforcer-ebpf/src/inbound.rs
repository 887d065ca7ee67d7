//! Connections that somebody opens to a workload: handed to the agent's listener, whatever the port, without
//! rewriting an address, or left to the application's own listener, where [`crate::gate`] holds them. One instance of
//! this program is attached to each namespace.

use aya_ebpf::Global;
use aya_ebpf::programs::SkLookupContext;
use enforcer_ebpf::{DIRECTION_INBOUND, ListenerKey, PORT_DIRECT, PORT_FREE, PortKey, Reason};

use crate::context::{INET, TCP, is_loopback, mapped, read, to_bytes};
use crate::gate::peer_is_direct;
use crate::maps::{LISTENERS, PORTS};
use crate::verdict::Verdict;

/// SO_NETNS_COOKIE of the namespace that this instance serves: the hook has no helper that tells it.
#[unsafe(no_mangle)]
static NETNS_COOKIE: Global<u64> = Global::new(0);

/// `LOOPBACK_IFINDEX`: every namespace has its loopback interface first.
const LOOPBACK_INDEX: u32 = 1;

/// Picks the listener for a connection request. What the namespace sends to itself goes its usual way: it is the
/// workload talking to itself, or the agent to the workload.
pub(crate) fn select(ctx: &SkLookupContext) -> Verdict {
    let (source, destination) = (source(ctx), destination(ctx));
    if read!((*ctx.lookup).protocol) != TCP || comes_from_here(ctx, &source, &destination) {
        return Verdict::Pass;
    }
    let (netns, port) = (NETNS_COOKIE.load(), read!((*ctx.lookup).local_port));
    match taken(netns, port) {
        Some(PORT_FREE) => return Verdict::Pass,
        None => return Verdict::Deny(Reason::PortUnknown),
        // What arrives at a loopback address is not held.
        Some(PORT_DIRECT) if peer_is_direct(&source) && !is_loopback(&destination) => return Verdict::Pass,
        Some(_) => {}
    }
    let version = if read!((*ctx.lookup).family) == INET { 4 } else { 6 };
    match LISTENERS.redirect_sk_lookup(ctx, ListenerKey { netns, version, direction: DIRECTION_INBOUND }, 0) {
        Ok(()) => Verdict::Pass,
        Err(_) => Verdict::Deny(Reason::AgentAway),
    }
}

/// True when both ends have the same address, or the other one is a loopback address. The interface does not tell:
/// for a packet to one of the namespace's own addresses the kernel names the interface that has the address, not
/// `lo` (6.18). A packet from outside with such a source gains nothing: the answer to it never leaves the namespace.
///
/// True too when this end is a loopback address: the application has bound its socket to another one before it connected
/// there, or was sent to the agent. Here the interface does tell, of what `route_localnet` lets in from outside.
fn comes_from_here(ctx: &SkLookupContext, source: &[u8; 16], destination: &[u8; 16]) -> bool {
    let is_inside = read!((*ctx.lookup).ingress_ifindex) == LOOPBACK_INDEX;
    source == destination || is_loopback(source) || (is_inside && is_loopback(destination))
}

fn source(ctx: &SkLookupContext) -> [u8; 16] {
    let v6 = [
        read!((*ctx.lookup).remote_ip6[0]),
        read!((*ctx.lookup).remote_ip6[1]),
        read!((*ctx.lookup).remote_ip6[2]),
        read!((*ctx.lookup).remote_ip6[3]),
    ];
    either(ctx, read!((*ctx.lookup).remote_ip4), v6)
}

fn destination(ctx: &SkLookupContext) -> [u8; 16] {
    let v6 = [
        read!((*ctx.lookup).local_ip6[0]),
        read!((*ctx.lookup).local_ip6[1]),
        read!((*ctx.lookup).local_ip6[2]),
        read!((*ctx.lookup).local_ip6[3]),
    ];
    either(ctx, read!((*ctx.lookup).local_ip4), v6)
}

/// Both were read first, as in `crate::context`.
fn either(ctx: &SkLookupContext, v4: u32, v6: [u32; 4]) -> [u8; 16] {
    if read!((*ctx.lookup).family) == INET { mapped(v4.to_ne_bytes()) } else { to_bytes(v6) }
}

/// How connections to this port are taken: as that port's are, or every port's. `None`: nobody has said.
pub(crate) fn taken(netns: u64, port: u32) -> Option<u32> {
    let (this, every) = (PortKey { netns, port, reserved: 0 }, PortKey { netns, port: 0, reserved: 0 });
    // SAFETY: copied at once; entries are written as a whole.
    unsafe { PORTS.get(this).or_else(|| PORTS.get(every)) }.copied()
}
