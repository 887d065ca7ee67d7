//! What the agent is told, through one ring buffer. The hold table is the truth; an event only says where to look, so
//! a ring that is full (nobody reads while there is no agent) loses time and nothing else: the loss is counted, and the
//! agent then reads the whole table.

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::generated::{bpf_ringbuf_query, bpf_ringbuf_reserve, bpf_ringbuf_submit};
use enforcer_ebpf::{Event, Held, Reason, SEEN_CUT};

use crate::maps::{EVENTS, EVENTS_SIZE, LOOKING};
use crate::verdict::count;

/// Tells the agent, which wakes. Without an entry of the hold table, what the event has of one is zeros. Octets are those
/// of a connection that is over.
pub(crate) fn tell(kind: u32, cookie: u64, held: Option<&Held>, octets: (u64, u64)) {
    // Left to itself the kernel wakes a reader only when it has seen it at the end of the ring; one that is just about
    // to be there (its position is still in its processor's store buffer) would sleep on.
    put((kind, cookie, 0), held, octets, BPF_RB_FORCE_WAKEUP);
}

/// The same for what nobody waits for, with what the gate has seen: while the agent looks into the ring by itself, it is
/// left to find it. That data was lost it has to know at once, before more is.
pub(crate) fn tell_in_time(kind: u32, (cookie, seen): (u64, u32), octets: (u64, u64)) {
    let wakeup = if seen & SEEN_CUT == 0 && is_looked_after() { BPF_RB_NO_WAKEUP } else { BPF_RB_FORCE_WAKEUP };
    put((kind, cookie, seen), None, octets, wakeup);
}

/// Written right where the agent reads it: the stack of these programs is nearly full.
#[inline(always)]
fn put((kind, cookie, seen): (u32, u64, u32), held: Option<&Held>, octets: (u64, u64), wakeup: u32) {
    // SAFETY: the map is a ring buffer; what is reserved is given back below.
    let event = unsafe { bpf_ringbuf_reserve((&raw const EVENTS).cast_mut().cast(), size_of::<Event>() as u64, 0) };
    if event.is_null() {
        count(Reason::EventLost);
        return;
    }
    let event: *mut Event = event.cast();
    // SAFETY: as much memory as an event has, and nobody else's until it is submitted.
    unsafe {
        (&raw mut (*event).cookie).write_volatile(cookie);
        (&raw mut (*event).kind).write_volatile(kind);
        (&raw mut (*event).seen).write_volatile(seen);
        match held {
            Some(held) => (*event).held = *held,
            None => clear(&raw mut (*event).held),
        }
        (&raw mut (*event).sent).write_volatile(octets.0);
        (&raw mut (*event).received).write_volatile(octets.1);
        bpf_ringbuf_submit(event.cast(), u64::from(wakeup));
    }
}

/// In whole words: the `memset` of this target, which the compiler would call, takes six instructions for each octet.
#[inline(always)]
unsafe fn clear(held: *mut Held) {
    let words: *mut u64 = held.cast();
    for word in 0..size_of::<Held>() / size_of::<u64>() {
        // SAFETY: the caller's, and the type is as aligned as a word and has no other octets.
        unsafe { words.add(word).write_volatile(0) };
    }
}

/// Whether the agent looks into the ring soon, and there is room for much more until then.
fn is_looked_after() -> bool {
    let Some(looking) = LOOKING.get_ptr(0) else { return false };
    // SAFETY: the entry is always there. A value that is about to change does no harm: the agent looks once more after it
    // has said that it stops.
    if unsafe { looking.read_volatile() } == 0 {
        return false;
    }
    // SAFETY: the map is a ring buffer.
    let unread = unsafe { bpf_ringbuf_query((&raw const EVENTS).cast_mut().cast(), u64::from(BPF_RB_AVAIL_DATA)) };
    unread < u64::from(EVENTS_SIZE / 4)
}
