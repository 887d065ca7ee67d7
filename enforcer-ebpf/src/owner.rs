//! Who holds a held socket: which process, under which descriptor, and which of its threads wait inside a call on it.
//!
//! Programs at the entry and exit of kernel functions. They only take notes: nothing here can refuse or let pass
//! anything. Without them the agent would have to search /proc for every connection.

use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_sk_storage_get};
use aya_ebpf::programs::{FEntryContext, FExitContext};
use enforcer_ebpf::{EVENT_ACCEPTED, GATE_HELD, GATE_KEYED, STAGE_ACCEPTED, WAITERS, Waiters};

use crate::event::tell;
use crate::gate::storage;
use crate::maps::{ACCEPTING, CALLS, HELD};

/// Where `struct pt_regs` of x86-64 has the first argument of a system call.
const FIRST_ARGUMENT: usize = 112;

/// `connect(2)` begins: its first argument is the descriptor.
pub(crate) fn connect(ctx: &FEntryContext) {
    let registers: *const u8 = ctx.arg(0);
    // SAFETY: a pointer that the verifier knows as `struct pt_regs`; it checks the offset.
    let descriptor = unsafe { registers.add(FIRST_ARGUMENT).cast::<u64>().read_volatile() };
    let _ = CALLS.insert(&bpf_get_current_pid_tgid(), &(descriptor as i32), 0);
}

/// The kernel has taken a connection out of an accept queue; its descriptor is not known yet.
pub(crate) fn dequeued(socket: *mut bpf_sock) {
    // SAFETY: the storage lives as long as the socket, which the kernel keeps for the caller.
    if !storage(socket, None).is_some_and(|gate| unsafe { (*gate).state } == GATE_HELD) {
        return;
    }
    let caller = bpf_get_current_pid_tgid();
    // One `accept` of io_uring may take several, and tells no descriptor.
    accepted_by(caller, -1);
    // SAFETY: the kernel checks the socket pointer.
    let cookie = unsafe { bpf_get_socket_cookie(socket.cast()) };
    let _ = ACCEPTING.insert(&caller, &cookie, 0);
}

/// `accept` returns to the workload. -1: without telling the descriptor.
pub(crate) fn accepted(result: i64) {
    let caller = bpf_get_current_pid_tgid();
    accepted_by(caller, if result >= 0 { result as i32 } else { -1 });
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
    tell(EVENT_ACCEPTED, cookie, &held, (0, 0));
}

/// A thread begins to wait inside a call on a socket: for data, for room to send, or for the socket's lock, which the
/// agent has while it hands over keys. Whoever waits for the lock chose its function before, so it must start again too.
///
/// Once both ends are open no call of a direct connection waits for data here; those that wait for room do so rightly.
pub(crate) fn waits(ctx: &FEntryContext, place: &SkStorage<Waiters>) {
    let socket: *mut bpf_sock = ctx.arg(0);
    // SAFETY: as in `dequeued`.
    let is_held = storage(socket, None).is_some_and(|gate| matches!(unsafe { (*gate).state }, GATE_HELD | GATE_KEYED));
    if !is_held {
        return;
    }
    let Some(waiters) = waiting(socket, place, u64::from(BPF_SK_STORAGE_GET_F_CREATE)) else { return };
    let thread = bpf_get_current_pid_tgid() as u32;
    // SAFETY: the storage lives as long as the socket. The kernel calls here with a lock: the socket's own, or, when
    // that is what the thread waits for, the one below it. Each has a place of its own, so nobody else writes it.
    unsafe {
        for slot in 0..WAITERS {
            if (*waiters).threads[slot] == 0 {
                (*waiters).threads[slot] = thread;
                return;
            }
        }
        (*waiters).overflow += 1;
    }
}

/// A thread has waited enough, and the lock is held again.
pub(crate) fn waited(ctx: &FExitContext, place: &SkStorage<Waiters>) {
    let Some(waiters) = waiting(ctx.arg(0), place, 0) else { return };
    let thread = bpf_get_current_pid_tgid() as u32;
    // SAFETY: as above.
    unsafe {
        for slot in 0..WAITERS {
            if (*waiters).threads[slot] == thread {
                (*waiters).threads[slot] = 0;
                return;
            }
        }
    }
}

fn waiting(socket: *mut bpf_sock, place: &SkStorage<Waiters>, flags: u64) -> Option<*mut Waiters> {
    // SAFETY: the map is a socket storage of `Waiters`; the kernel checks the socket pointer.
    let stored = unsafe {
        bpf_sk_storage_get(
            core::ptr::from_ref(place).cast_mut().cast(),
            socket.cast(),
            core::ptr::null_mut(),
            flags,
        )
    };
    if stored.is_null() { None } else { Some(stored.cast()) }
}
