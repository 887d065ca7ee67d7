//! Making a thread that waits inside a system call leave the kernel and make the call again, unnoticed.
//!
//! Why: a thread that went to sleep in `recv` or `send` before kernel TLS was put under its socket would go on with
//! the functions of plain TCP. How: seize it as a debugger, interrupt it, let it go. Five system calls, whatever the
//! number of its siblings, and no look at /proc unless something is wrong.
//!
//! What happens to the call, in the words of the kernel (`arch_do_signal_or_restart`): a call that sleeps wakes up as
//! if for a signal and returns -ERESTARTSYS or its like. Our stop comes before any signal is taken from the queue, and
//! the return value is looked at after it. No signal: the call is made again. A signal with a handler: EINTR or not, as
//! the handler's SA_RESTART says. So nothing is to be done, except for calls that return -EINTR outright, as the ones
//! with a timeout do: there the value becomes -ERESTARTNOHAND, which is EINTR when a handler runs, whatever its
//! SA_RESTART, just as without us, and a restart when none does. A restarted timeout begins anew. A call that has moved
//! some bytes already returns how many, as it may at any signal.

mod call;
mod owed;

use std::io;
use std::ptr;
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, sigaction};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the registers of this processor are not known");

/// How long a thread may take to stop. It stops within microseconds, unless its sleep is uninterruptible.
const DEADLINE: Duration = Duration::from_secs(1);
/// Looks whether it has stopped that let others run in between, and no more: as a rule it has by then.
const QUICK_LOOKS: usize = 16;
/// The first pause between two further looks; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_micros(8);
/// The pause from which on this thread's other work is not to wait.
const LONG_PAUSE: Duration = Duration::from_millis(1);
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_millis(5);

/// The thread was not made to restart its call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A debugger has it. It may still be inside its call.
    #[error("restart the call of thread {tid}: it is traced by {tracer} already")]
    AlreadyTraced {
        /// The thread.
        tid: u32,
        /// The debugger.
        tracer: u32,
    },
    /// Tracing needs CAP_SYS_PTRACE, and a thread that is neither the kernel's nor the agent's.
    #[error("restart the call of thread {tid}: not permitted")]
    NotPermitted {
        /// The thread.
        tid: u32,
    },
    /// It sleeps and cannot be interrupted: in `vfork`, or for a disk. It may still be inside its call.
    #[error("restart the call of thread {tid}: it does not stop")]
    Timeout {
        /// The thread.
        tid: u32,
    },
    /// Anything else.
    #[error("{operation} thread {tid}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// The thread.
        tid: u32,
        /// The operating system's error.
        #[source]
        cause: io::Error,
    },
}

/// What became of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restarted {
    /// It is not inside the call any more that it was in. If it is stopped (SIGSTOP), it still is.
    Left,
    /// It has ended.
    Gone,
}

/// Makes a thread of another process restart the system call that it is in. Waits for it: some 40 microseconds as a rule
/// and one second at most, most of that without keeping a runtime's other tasks waiting. A thread that does not stop in
/// that time is let go when it does.
///
/// # Errors
///
/// [`Error`].
pub fn restart_call(tid: u32) -> Result<Restarted, Error> {
    static QUIET: Once = Once::new();
    QUIET.call_once(keep_quiet);
    let _turn = Turn::take(tid);
    if seize(tid)? == Restarted::Gone {
        return Ok(Restarted::Gone);
    }
    // Whatever happens from here on, the thread must not stay in a stop that nobody ends.
    restart_seized(tid).inspect_err(|_error| owed::let_go_later(Some(tid)))
}

/// The right to trace a thread. It may be inside calls on two sockets, and only one thread of ours can trace it.
struct Turn(u32);

static TRACED: Mutex<Vec<u32>> = Mutex::new(Vec::new());

impl Turn {
    fn take(tid: u32) -> Self {
        Self::try_take(tid, false).unwrap_or_else(|| aside(|| Self::wait(tid)))
    }

    fn wait(tid: u32) -> Self {
        let deadline = Instant::now() + DEADLINE;
        loop {
            sleep(FIRST_PAUSE);
            // Whoever waits in vain is told that it is traced.
            if let Some(turn) = Self::try_take(tid, Instant::now() > deadline) {
                return turn;
            }
        }
    }

    fn try_take(tid: u32, in_any_case: bool) -> Option<Self> {
        let mut traced = TRACED.lock().unwrap_or_else(PoisonError::into_inner);
        if traced.contains(&tid) && !in_any_case {
            return None;
        }
        traced.push(tid);
        Some(Self(tid))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut traced = TRACED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = traced.iter().position(|&tid| tid == self.0) {
            traced.swap_remove(place);
        }
    }
}

/// Each stop of a traced thread would interrupt a thread of ours that has nothing to do with it.
fn keep_quiet() {
    let quiet = SigAction::new(SigHandler::SigDfl, SaFlags::SA_NOCLDSTOP, SigSet::empty());
    // SAFETY: no handler is installed.
    let _set = unsafe { sigaction(nix::sys::signal::Signal::SIGCHLD, &quiet) };
}

fn seize(tid: u32) -> Result<Restarted, Error> {
    match ptrace(libc::PTRACE_SEIZE, tid, 0) {
        Ok(()) => Ok(Restarted::Left),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(Restarted::Gone),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => why_not_permitted(tid),
        Err(cause) => Err(Error::System { operation: "seize", tid, cause }),
    }
}

/// EPERM is the answer for a thread that has another tracer, for one that is dead, and for lack of rights.
fn why_not_permitted(tid: u32) -> Result<Restarted, Error> {
    // Gone since.
    let Ok(status) = std::fs::read_to_string(format!("/proc/{tid}/status")) else { return Ok(Restarted::Gone) };
    let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).map_or("", str::trim);
    match (field("State:"), field("TracerPid:").parse()) {
        (state, _) if state.starts_with(['Z', 'X']) => Ok(Restarted::Gone),
        (_, Ok(tracer @ 1..)) => Err(Error::AlreadyTraced { tid, tracer }),
        _ => Err(Error::NotPermitted { tid }),
    }
}

fn restart_seized(tid: u32) -> Result<Restarted, Error> {
    match ptrace(libc::PTRACE_INTERRUPT, tid, 0) {
        Err(cause) if cause.raw_os_error() != Some(libc::ESRCH) => {
            return Err(Error::System { operation: "interrupt", tid, cause });
        }
        // ESRCH: it is about to die, and that is what will be waited for.
        _ => {}
    }
    let deadline = Instant::now() + DEADLINE;
    loop {
        let code = match wait(tid, deadline)? {
            Change::Stopped { code } => code,
            Change::Ended => return Ok(Restarted::Gone),
            Change::Lost => {
                // The program that it has become stops a moment later.
                owed::let_go_later(None);
                return Ok(Restarted::Gone);
            }
        };
        match let_go(tid, Signal::of(code)) {
            Ok(()) => return Ok(Restarted::Left),
            // Killed while it was stopped: its end comes next, and must be fetched too.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(cause) => return Err(Error::System { operation: "let go of", tid, cause }),
        }
    }
}

/// What `wait4` told of a thread.
enum Change {
    /// A signal, and above it what ptrace(2) calls an event.
    Stopped { code: libc::c_int },
    /// And buried, as far as that is a tracer's part.
    Ended,
    /// It does not exist under this id any more: it has become another program, and the process's first thread.
    Lost,
}

/// Why a thread is stopped.
enum Signal {
    /// Because of our interrupt. Its signals are still in the queue.
    None,
    /// The process is stopped by SIGSTOP or its like.
    Group,
    /// It was about to get this signal, and now depends on us for it.
    Delivery(libc::c_int),
}

/// Waits for the next change of a traced thread.
///
/// `wait4` has no timeout, and only a signal handler could end it. So there are looks with pauses in between. First ones
/// that only let others run: where the thread runs on this processor it stops in the first of them, and elsewhere it
/// takes about as long as all of them.
fn wait(tid: u32, deadline: Instant) -> Result<Change, Error> {
    for _look in 0..QUICK_LOOKS {
        if let Some(change) = look(tid)? {
            return Ok(change);
        }
        std::thread::yield_now();
    }
    // The default of 50 us would double most pauses. It cannot fail, and 0 is the default.
    let _set = nix::sys::prctl::set_timerslack(1);
    let mut pause = FIRST_PAUSE;
    let mut change = None;
    while change.is_none() && pause < LONG_PAUSE {
        sleep(pause);
        change = look(tid)?;
        pause *= 2;
    }
    let _set = nix::sys::prctl::set_timerslack(0);
    change.map_or_else(|| aside(|| wait_long(tid, deadline)), Ok)
}

fn wait_long(tid: u32, deadline: Instant) -> Result<Change, Error> {
    while Instant::now() < deadline {
        sleep(LAST_PAUSE);
        if let Some(change) = look(tid)? {
            return Ok(change);
        }
    }
    Err(Error::Timeout { tid })
}

/// Gives this thread's other tasks to another thread before it waits.
fn aside<T>(wait: impl FnOnce() -> T) -> T {
    match Handle::try_current() {
        Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => block_in_place(wait),
        _ => wait(),
    }
}

/// Whether there is a change of a thread that some thread of ours traces.
fn look(tid: u32) -> Result<Option<Change>, Error> {
    let mut status = 0;
    let id = tid.cast_signed();
    // SAFETY: the kernel writes an int, which is alive.
    match unsafe { libc::waitpid(id, &raw mut status, libc::__WALL | libc::WNOHANG) } {
        0 => Ok(None),
        -1 => {
            let cause = io::Error::last_os_error();
            match cause.raw_os_error() {
                Some(libc::ECHILD) => Ok(Some(Change::Lost)),
                _ => Err(Error::System { operation: "wait for", tid, cause }),
            }
        }
        _ if libc::WIFSTOPPED(status) => Ok(Some(Change::Stopped { code: status >> 8 })),
        _ => Ok(Some(Change::Ended)),
    }
}

#[expect(clippy::disallowed_methods, reason = "the state that is waited for cannot be waited for with a bound")]
fn sleep(pause: Duration) {
    std::thread::sleep(pause);
}

impl Signal {
    fn of(code: libc::c_int) -> Self {
        match (code >> 8, code & 0xff) {
            (libc::PTRACE_EVENT_STOP, libc::SIGTRAP) => Self::None,
            (libc::PTRACE_EVENT_STOP, _) => Self::Group,
            (_, signal) => Self::Delivery(signal),
        }
    }
}

/// Ends the stop and the tracing.
fn let_go(tid: u32, signal: Signal) -> io::Result<()> {
    let signal = match signal {
        // What a real stop does to a call is not our affair.
        Signal::Group => 0,
        Signal::None => hide_interruption(tid).map(|()| 0)?,
        // While a thread is traced even signals that it ignores wake it, so the call's value matters here too.
        Signal::Delivery(signal) => hide_interruption(tid).map(|()| signal)?,
    };
    ptrace(libc::PTRACE_DETACH, tid, signal.into())
}

/// Turns the -EINTR of a call that can be made again into -ERESTARTNOHAND.
fn hide_interruption(tid: u32) -> io::Result<()> {
    /// Of include/linux/errno.h, not for user space.
    const ERESTARTNOHAND: libc::c_long = 514;
    if register(tid, libc::RAX)? != libc::c_long::from(-libc::EINTR) {
        return Ok(());
    }
    // -1 when the thread is not in a call, and the value is its own.
    if !call::can_be_made_again(register(tid, libc::ORIG_RAX)?) {
        return Ok(());
    }
    set_register(tid, libc::RAX, -ERESTARTNOHAND)
}

fn register(tid: u32, number: libc::c_int) -> io::Result<libc::c_long> {
    let mut value: libc::c_long = 0;
    // The raw call, because libc's returns the value in place of the error.
    // SAFETY: the kernel writes one register to a live one.
    let result = unsafe {
        libc::syscall(libc::SYS_ptrace, libc::PTRACE_PEEKUSER, tid, offset(number), ptr::from_mut(&mut value))
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

fn set_register(tid: u32, number: libc::c_int, value: libc::c_long) -> io::Result<()> {
    // SAFETY: takes numbers and no pointer; only the traced thread is changed.
    let result = unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_POKEUSER, tid, offset(number), value) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Of a register in the kernel's `struct user`.
fn offset(number: libc::c_int) -> libc::c_long {
    libc::c_long::from(number) * 8
}

/// A request without an address.
fn ptrace(request: libc::c_uint, tid: u32, data: libc::c_long) -> io::Result<()> {
    // SAFETY: seizing, interrupting and letting go take numbers and no pointer.
    let result = unsafe { libc::syscall(libc::SYS_ptrace, request, tid, 0, data) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests;
