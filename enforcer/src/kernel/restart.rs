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
mod thread;

use std::io;
use std::marker::PhantomData;
use std::ptr;
use std::time::{Duration, Instant};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, sigaction};

pub use thread::restart_call;

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the registers of this processor are not known");

/// How long a thread may take to stop. It stops within microseconds, unless its sleep is uninterruptible.
const DEADLINE: Duration = Duration::from_secs(1);
/// The first pause between two looks whether it has stopped; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_micros(8);
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

/// The thread of the agent that traces. The kernel takes all of a tracer's calls from the same thread, so this cannot
/// be sent to another one; and a thread that does not stop can be let go only by the end of its tracer. Whoever has a
/// thread for such things anyway uses this; others use [`restart_call`], which costs half as much again (19 and 30
/// thousand instructions on Linux 6.12, the traced thread's and the idle processor's included).
#[derive(Debug)]
pub struct Tracer {
    is_spent: bool,
    of_this_thread: PhantomData<*const ()>,
}

impl Tracer {
    /// On the thread that is to trace. Sets its timer slack to a minimum, and the process's SIGCHLD to its default and
    /// to SA_NOCLDSTOP.
    #[must_use]
    pub fn new() -> Self {
        // The default of 50 us would double most pauses. It cannot fail.
        let _set = nix::sys::prctl::set_timerslack(1);
        // Each stop of a traced thread would wake a thread of ours that has nothing to do with it.
        let quiet = SigAction::new(SigHandler::SigDfl, SaFlags::SA_NOCLDSTOP, SigSet::empty());
        // SAFETY: no handler is installed.
        let _set = unsafe { sigaction(nix::sys::signal::Signal::SIGCHLD, &quiet) };
        Self { is_spent: false, of_this_thread: PhantomData }
    }

    /// True when this thread must end soon, because it still traces a thread that it cannot let go.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.is_spent
    }

    /// Makes a thread restart the system call that it is in.
    ///
    /// # Errors
    ///
    /// [`Error`]. See [`Self::is_spent`] afterwards.
    pub fn restart_call(&mut self, tid: u32) -> Result<Restarted, Error> {
        if seize(tid)? == Restarted::Gone {
            return Ok(Restarted::Gone);
        }
        // Whatever happens from here on, the thread must not stay in a stop that nobody ends.
        self.is_spent = true;
        let restarted = restart_seized(tid)?;
        self.is_spent = restarted.still_traced;
        Ok(restarted.outcome)
    }
}

impl Default for Tracer {
    fn default() -> Self {
        Self::new()
    }
}

struct Outcome {
    outcome: Restarted,
    still_traced: bool,
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

fn restart_seized(tid: u32) -> Result<Outcome, Error> {
    match ptrace(libc::PTRACE_INTERRUPT, tid, 0) {
        Err(cause) if cause.raw_os_error() != Some(libc::ESRCH) => {
            return Err(Error::System { operation: "interrupt", tid, cause });
        }
        // ESRCH: it is about to die, and that is what will be waited for.
        _ => {}
    }
    let deadline = Instant::now() + DEADLINE;
    loop {
        let signal = match wait(tid, deadline)? {
            Change::Stopped { signal } => signal,
            Change::Ended => return Ok(Outcome { outcome: Restarted::Gone, still_traced: false }),
            Change::Lost => return Ok(Outcome { outcome: Restarted::Gone, still_traced: true }),
        };
        match let_go(tid, signal) {
            Ok(()) => return Ok(Outcome { outcome: Restarted::Left, still_traced: false }),
            // Killed while it was stopped: its end comes next, and must be fetched too.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(cause) => return Err(Error::System { operation: "let go of", tid, cause }),
        }
    }
}

/// What `wait4` told of a thread.
enum Change {
    Stopped {
        signal: Signal,
    },
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
/// `wait4` has no timeout, and only a signal handler could end it. So there are looks with pauses in between: the first
/// pause is about as long as it takes to stop, and costs about as many instructions as being woken would.
fn wait(tid: u32, deadline: Instant) -> Result<Change, Error> {
    let mut pause = FIRST_PAUSE;
    loop {
        sleep(pause);
        let mut status = 0;
        let id = tid.cast_signed();
        // SAFETY: the kernel writes an int, which is alive.
        match unsafe { libc::waitpid(id, &raw mut status, libc::__WALL | libc::WNOHANG) } {
            0 if Instant::now() > deadline => return Err(Error::Timeout { tid }),
            0 => pause = LAST_PAUSE.min(pause * 2),
            -1 => {
                let cause = io::Error::last_os_error();
                return match cause.raw_os_error() {
                    Some(libc::ECHILD) => Ok(Change::Lost),
                    _ => Err(Error::System { operation: "wait for", tid, cause }),
                };
            }
            _ if libc::WIFSTOPPED(status) => return Ok(Change::Stopped { signal: Signal::of(status) }),
            _ => return Ok(Change::Ended),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the state that is waited for cannot be waited for with a bound")]
fn sleep(pause: Duration) {
    std::thread::sleep(pause);
}

impl Signal {
    fn of(status: libc::c_int) -> Self {
        match (status >> 16, libc::WSTOPSIG(status)) {
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
