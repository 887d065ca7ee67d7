//! Threads that did not stop in time. Only who traces a thread can let it go, and only once it has stopped; by then
//! that thread of ours does something else. So another one looks for the stop, and a signal makes the tracer let go.

use std::io;
use std::mem;
use std::os::raw::c_void;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SaFlags, SigSet};

use super::{Signal, let_go, look, sleep};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// Of the thread that looks. There is none as long as there is nothing to look for.
const STACK: usize = 64 * 1024;

static OWED: Mutex<Vec<Owed>> = Mutex::new(Vec::new());

/// The thread of ours that traced nothing when it was last asked.
static CLEAR: AtomicU32 = AtomicU32::new(0);

#[derive(Clone, Copy, PartialEq)]
struct Owed {
    /// A thread of ours.
    tracer: u32,
    /// Whom it traces; `None`: somebody whose id has changed.
    traced: Option<u32>,
}

/// Has the calling thread let go of one that it traces, when that stops.
pub(super) fn let_go_later(traced: Option<u32>) {
    let owed = Owed { tracer: this_thread(), traced };
    let mut all = OWED.lock().unwrap_or_else(PoisonError::into_inner);
    if all.contains(&owed) {
        return;
    }
    is_clear(owed.tracer);
    all.push(owed);
    if all.len() == 1 {
        // Without it those threads stay as they are until this one ends, or the agent.
        let _watching = thread::Builder::new().name("tracer".to_owned()).stack_size(STACK).spawn(watch);
    }
}

fn watch() {
    loop {
        sleep(PAUSE);
        let mut all = OWED.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(is_owed);
        if all.is_empty() {
            return;
        }
    }
}

fn is_owed(owed: &Owed) -> bool {
    let Some(traced) = owed.traced else {
        // Nobody can tell from here whom it traces.
        return !is_clear(owed.tracer) && remind(owed.tracer, 0);
    };
    match change((libc::P_PID, traced), libc::WEXITED | libc::WNOWAIT) {
        Ok(Some(Change { id, code: libc::CLD_STOPPED | libc::CLD_TRAPPED, status })) => {
            remind(owed.tracer, u64::from(id) << 32 | u64::from(status.cast_unsigned()))
        }
        // It has ended, and any thread of ours may bury it.
        Ok(Some(_)) => look(traced).is_err(),
        Ok(None) => true,
        // Nobody traces it.
        Err(_) => false,
    }
}

/// Whether this thread of ours has said since the last time that it traces nothing.
fn is_clear(tracer: u32) -> bool {
    CLEAR.compare_exchange(tracer, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

/// Of a traced thread, as `waitid` tells it.
struct Change {
    id: u32,
    code: libc::c_int,
    status: libc::c_int,
}

/// An error when there is no such thread.
fn change((kind, id): (libc::idtype_t, u32), flags: libc::c_int) -> io::Result<Option<Change>> {
    // SAFETY: zeros are a valid value of it.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    let flags = libc::WSTOPPED | libc::__WALL | libc::WNOHANG | flags;
    // SAFETY: the kernel writes one such structure, which is alive.
    if unsafe { libc::waitid(kind, id, &raw mut info, flags) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `waitid` has set it, or left it 0.
    let id = unsafe { info.si_pid() };
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    Ok((id != 0).then_some(Change { id: id.cast_unsigned(), code: info.si_code, status }))
}

/// Sends a thread of ours the signal. False when it has ended, and whom it traced is free.
fn remind(tracer: u32, whom: u64) -> bool {
    static HANDLED: Once = Once::new();
    HANDLED.call_once(handle);
    let info = Info { signal: signal(), error: 0, code: libc::SI_QUEUE, sender: [0; 3], whom, rest: [0; 12] };
    // SAFETY: the structure is as large as the kernel's, and lives until the call returns.
    let sent = unsafe {
        libc::syscall(libc::SYS_rt_tgsigqueueinfo, std::process::id(), tracer, signal(), ptr::from_ref(&info))
    };
    sent == 0
}

/// `siginfo_t` of a signal with a value.
#[repr(C)]
struct Info {
    signal: libc::c_int,
    error: libc::c_int,
    code: libc::c_int,
    /// Padding, process and user.
    sender: [libc::c_int; 3],
    whom: u64,
    rest: [u64; 12],
}

const _: () = assert!(size_of::<Info>() == size_of::<libc::siginfo_t>());

fn signal() -> libc::c_int {
    libc::SIGRTMIN()
}

fn handle() {
    // SAFETY: zeros are a valid value of it.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = reminded as extern "C" fn(_, _, _) as usize;
    action.sa_flags = (SaFlags::SA_SIGINFO | SaFlags::SA_RESTART).bits();
    action.sa_mask = *SigSet::empty().as_ref();
    // SAFETY: the handler makes system calls, and neither takes locks nor memory.
    let _set = unsafe { libc::sigaction(signal(), &raw const action, ptr::null_mut()) };
}

/// On the thread that traces.
extern "C" fn reminded(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel hands a valid structure, and what we send has this layout.
    let whom = unsafe { (*info.cast::<Info>()).whom };
    // SAFETY: the address of the calling thread's own.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: it is always there.
    let before = unsafe { *errno };
    if whom == 0 {
        match change((libc::P_ALL, 0), libc::__WNOTHREAD) {
            Ok(Some(Change { id, status, .. })) => drop(let_go(id, Signal::of(status))),
            Ok(None) => {}
            Err(_nobody) => CLEAR.store(this_thread(), Ordering::Release),
        }
    } else {
        let (traced, status) = ((whom >> 32) as u32, (whom & 0xffff_ffff) as u32);
        // Killed meanwhile: then its end comes next.
        drop(let_go(traced, Signal::of(status.cast_signed())));
    }
    // SAFETY: as above.
    unsafe { *errno = before };
}

fn this_thread() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    let tid = unsafe { libc::gettid() };
    tid.cast_unsigned()
}
