//! What the agent is told, through one ring buffer. The hold table is the truth; an event only says where to look, so
//! a ring that is full (nobody reads while there is no agent) loses time and nothing else: the loss is counted, and the
//! agent then reads the whole table.

use aya_ebpf::bindings::BPF_RB_FORCE_WAKEUP;
use aya_ebpf::helpers::generated::bpf_ringbuf_output;
use enforcer_ebpf::{Event, Held, Reason};

use crate::maps::EVENTS;
use crate::verdict::count;

/// Tells the agent. Octets are those of a connection that is over.
pub(crate) fn tell(kind: u32, cookie: u64, held: &Held, octets: (u64, u64)) {
    tell_with(kind, (cookie, 0), held, octets);
}

/// The same, with what the gate has seen.
pub(crate) fn tell_with(kind: u32, (cookie, seen): (u64, u32), held: &Held, octets: (u64, u64)) {
    let mut event = Event { cookie, kind, seen, held: *held, sent: octets.0, received: octets.1 };
    // Left to itself the kernel wakes a reader only when it has seen it at the end of the ring; one that is just about
    // to be there (its position is still in its processor's store buffer) would sleep on.
    let (size, flags) = (size_of::<Event>() as u64, u64::from(BPF_RB_FORCE_WAKEUP));
    // SAFETY: the map is a ring buffer, and the event lives until the helper returns.
    let told =
        unsafe { bpf_ringbuf_output((&raw const EVENTS).cast_mut().cast(), (&raw mut event).cast(), size, flags) };
    if told != 0 {
        count(Reason::EventLost);
    }
}
