//! Connections that somebody opens to a workload: handed to the agent's listener, whatever the port, without
//! rewriting an address. One instance of this program is attached to each namespace.

use aya_ebpf::Global;
use aya_ebpf::programs::SkLookupContext;
use enforcer_ebpf::{DIRECTION_INBOUND, ListenerKey, PortKey, Reason};

use crate::context::{TCP, read};
use crate::maps::{LISTENERS, PORTS};
use crate::verdict::Verdict;

/// SO_NETNS_COOKIE of the namespace that this instance serves: the hook has no helper that tells it.
#[unsafe(no_mangle)]
static NETNS_COOKIE: Global<u64> = Global::new(0);

/// `AF_INET`.
const INET: u32 = 2;
/// Every namespace's `lo` has this index.
const LOOPBACK_INDEX: u32 = 1;

/// Picks the listener for a connection request. What comes over the loopback is the workload talking to itself, or
/// the agent to the workload, and goes its usual way.
pub(crate) fn select(ctx: &SkLookupContext) -> Verdict {
    if read!((*ctx.lookup).protocol) != TCP || read!((*ctx.lookup).ingress_ifindex) == LOOPBACK_INDEX {
        return Verdict::Pass;
    }
    let (netns, port) = (NETNS_COOKIE.load(), read!((*ctx.lookup).local_port));
    if !is_taken(netns, 0) && !is_taken(netns, port) {
        return Verdict::Pass;
    }
    let version = if read!((*ctx.lookup).family) == INET { 4 } else { 6 };
    match LISTENERS.redirect_sk_lookup(ctx, ListenerKey { netns, version, direction: DIRECTION_INBOUND }, 0) {
        Ok(()) => Verdict::Pass,
        Err(_) => Verdict::Deny(Reason::AgentAway),
    }
}

fn is_taken(netns: u64, port: u32) -> bool {
    // SAFETY: only the presence of the entry counts.
    unsafe { PORTS.get(PortKey { netns, port, reserved: 0 }) }.is_some()
}
