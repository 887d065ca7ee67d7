//! Who holds a held socket: which process, under which descriptor, and which threads are inside a call on it.
//!
//! Programs at the entry and exit of kernel functions. They take notes, without which the agent would have to search
//! /proc for every connection, and let nothing pass: where a note cannot be taken the connection is refused.

use core::intrinsics::{AtomicOrdering, atomic_cxchg};

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{bpf_get_func_ret, bpf_get_socket_cookie};
use aya_ebpf::programs::{FEntryContext, FExitContext};
use enforcer_ebpf::{
    CALLERS as SLOTS, Callers, EVENT_ACCEPTED, EVENT_LATE, GATE_HELD, GATE_KEYED, GATE_OPEN, Gate, STAGE_ACCEPTED,
};

use crate::event::tell;
use crate::gate::storage;
use crate::lock::refuse;
use crate::maps::{ACCEPTING, CALLERS, CALLS, HELD};
use crate::store;

/// Where `struct pt_regs` of x86-64 has the first argument of a system call.
const FIRST_ARGUMENT: usize = 112;
/// Where `struct socket` has its `struct sock`.
const SOCK: usize = 24;

/// `connect(2)` begins: its first argument is the descriptor.
pub(crate) fn connect(ctx: &FEntryContext) {
    let registers: *const u8 = ctx.arg(0);
    // SAFETY: a pointer that the verifier knows as `struct pt_regs`; it checks the offset.
    let descriptor = unsafe { registers.add(FIRST_ARGUMENT).cast::<u64>().read_volatile() };
    let _ = CALLS.insert(&bpf_get_current_pid_tgid(), &(descriptor as i32), 0);
}

/// `accept` has taken a connection and gives it the `struct socket` that the workload will know it by; its descriptor
/// comes a moment later. The connection's lock is held, which sockops has until it is done, so what is to be held is.
///
/// Not at the exit of `accept`: it waits for connections, and while it does, anybody who attaches a program to the same
/// function (another agent, a tracing tool) makes the kernel leave out all programs at its exit.
pub(crate) fn grafted(socket: *mut bpf_sock) {
    // SAFETY: the storage lives as long as the socket, which the kernel keeps for the caller.
    if !storage(socket, None).is_some_and(|gate| unsafe { (*gate).state } == GATE_HELD) {
        return;
    }
    let caller = bpf_get_current_pid_tgid();
    // One `accept` of io_uring may take several, and may tell no descriptor.
    accepted_by(caller, -1);
    // SAFETY: the kernel checks the socket pointer.
    let cookie = unsafe { bpf_get_socket_cookie(socket.cast()) };
    let _ = ACCEPTING.insert(&caller, &cookie, 0);
}

/// A thread gets a descriptor: if it has just accepted a connection, this is the one. -1: it gets none.
pub(crate) fn installed(descriptor: i32) {
    accepted_by(bpf_get_current_pid_tgid(), descriptor);
}

fn accepted_by(caller: u64, descriptor: i32) {
    // SAFETY: copied before it is removed; only this thread writes it.
    let Some(cookie) = unsafe { ACCEPTING.get(caller) }.copied() else { return };
    let _ = ACCEPTING.remove(caller);
    let Some(held) = HELD.get_ptr_mut(&cookie) else { return };
    // SAFETY: the entry is freed a grace period after it is removed; a connection is accepted once.
    let held = unsafe {
        (*held).process = (caller >> 32) as u32;
        (*held).descriptor = descriptor;
        (*held).stage = STAGE_ACCEPTED;
        *held
    };
    tell(EVENT_ACCEPTED, cookie, Some(&held), (0, 0));
}

/// What a function of plain TCP does.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Call {
    /// It sends.
    Send,
    /// It receives.
    Receive,
}

/// A thread enters a function of plain TCP that sends or receives. While the socket is held, that is what every call
/// chooses, so the thread is noted: it must start its call again once the keys are in. The agent looks for notes after
/// it has put the keys in, and once more before it opens the gate.
///
/// Behind an open gate only a thread can come here that chose before the keys came and has not moved since, through two
/// messages between the agents; or it was this program that did not move, which a kernel that preempts lets happen. See
/// [`late`].
pub(crate) fn enters(socket: *mut bpf_sock, call: Call) {
    let Some(gate) = storage(socket, None) else { return };
    // SAFETY: the storage lives as long as the socket, which the kernel keeps for the caller.
    if matches!(unsafe { (*gate).state }, GATE_HELD | GATE_KEYED) {
        note(socket, gate);
    }
    // The agent overwrites it.
    let Some(gate) = storage(socket, None) else { return };
    // SAFETY: as above.
    if unsafe { (*gate).state } == GATE_OPEN {
        late(socket, gate, call);
    }
}

/// A thread is inside a function of plain TCP behind an open gate. One that would send is refused before it can. One
/// that would receive does no harm until there is something: the agent makes it start its call again.
fn late(socket: *mut bpf_sock, gate: *mut Gate, call: Call) {
    // SAFETY: the kernel checks the socket pointer.
    let cookie = unsafe { bpf_get_socket_cookie(socket.cast()) };
    match call {
        Call::Send => refuse(gate, cookie),
        Call::Receive => tell(EVENT_LATE, cookie, None, (this_thread(), 0)),
    }
}

/// A thread inside such a function goes to sleep on a socket. That it entered may not have been seen: where the kernel
/// may preempt a program, it leaves out the same program for others meanwhile. This is another program, so that a
/// thread would have to be missed twice.
pub(crate) fn waits(socket: *mut bpf_sock) {
    let Some(gate) = storage(socket, None) else { return };
    // SAFETY: as in `enters`.
    if matches!(unsafe { (*gate).state }, GATE_HELD | GATE_KEYED) {
        note(socket, gate);
    }
}

/// The notes in the socket's storage; made where there are none.
pub(crate) fn callers(socket: *mut bpf_sock) -> Option<*mut Callers> {
    store::of_zeros(&CALLERS, socket)
}

fn note(socket: *mut bpf_sock, gate: *mut Gate) {
    let Some(callers) = callers(socket) else {
        // Without memory nobody would know that this thread has to start again.
        // SAFETY: as above.
        return refuse(gate, unsafe { bpf_get_socket_cookie(socket.cast()) });
    };
    let thread = this_thread();
    for slot in 0..SLOTS {
        // SAFETY: the storage lives as long as the socket, and every access to a slot is a whole one.
        let (before, claimed) = unsafe { claim(&raw mut (*callers).threads[slot], 0, thread) };
        if claimed || before == thread {
            return;
        }
    }
    // SAFETY: as above; whoever else writes it writes the same.
    unsafe { (&raw mut (*callers).overflow).write_volatile(1) };
}

/// It leaves that function. Behind an open gate it was late; then what it has moved, if it has, was not what the
/// application and its peer have said.
pub(crate) fn leaves(socket: *mut bpf_sock, ctx: &FExitContext) {
    let Some(gate) = storage(socket, None) else { return };
    // SAFETY: as in `enters`.
    match unsafe { (*gate).state } {
        GATE_HELD | GATE_KEYED => forget(socket),
        // SAFETY: as above.
        GATE_OPEN if result(ctx) > 0 => refuse(gate, unsafe { bpf_get_socket_cookie(socket.cast()) }),
        _ => {}
    }
}

/// What a kernel function returned, however many arguments it has.
fn result(ctx: &FExitContext) -> i64 {
    let mut value = 0_u64;
    // SAFETY: the context is the kernel's own, and the helper writes eight octets.
    unsafe { bpf_get_func_ret(ctx.as_ptr(), &raw mut value) };
    // Those here return an int.
    i64::from(value as i32)
}

fn forget(socket: *mut bpf_sock) {
    let Some(callers) = store::of(&CALLERS, socket, None) else { return };
    let thread = this_thread();
    for slot in 0..SLOTS {
        // SAFETY: the storage lives as long as the socket; a slot with this thread's id is written by this thread alone.
        unsafe {
            let slot = &raw mut (*callers).threads[slot];
            if slot.read_volatile() == thread {
                slot.write_volatile(0);
                return;
            }
        }
    }
}

/// The `struct sock` of a `struct socket`.
pub(crate) fn sock(socket: *const u8) -> *mut bpf_sock {
    // SAFETY: a pointer that the verifier knows as `struct socket`, and what lies at the offset must be a
    // `struct sock *`: it checks both.
    unsafe { socket.add(SOCK).cast::<*mut bpf_sock>().read_volatile() }
}

/// Compare and exchange, with a full barrier. The target has none in `core::sync::atomic`, but the machine has it.
unsafe fn claim(slot: *mut u64, free: u64, thread: u64) -> (u64, bool) {
    const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;
    // SAFETY: the caller's.
    unsafe { atomic_cxchg::<u64, ORDER, ORDER>(slot, free, thread) }
}

fn this_thread() -> u64 {
    u64::from(bpf_get_current_pid_tgid() as u32)
}
