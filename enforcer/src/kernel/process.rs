//! Reaching an application's own socket: from a process id and a number of a descriptor there, or, when these do not
//! lead to it any more, by looking through processes.
//!
//! Every socket that is handed out has the cookie that was asked for, so it does not matter that process ids and
//! descriptor numbers are used again, nor what an application does meanwhile. What is handed out is a second
//! descriptor of the application's socket: while it is open the application's own close ends nothing, and closing it
//! may then take as long as the application's SO_LINGER says. So: use it, drop it, and not on a thread that others
//! wait for.
//!
//! Process ids are those of the agent's own PID namespace, which therefore must be the machine's.

mod search;

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::socket;

/// Processes that are remembered, a power of two; each costs one descriptor. One more takes the place of another.
const REMEMBERED: usize = 256;

/// The socket was not reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process has ended.
    #[error("reach a socket of process {pid}: the process has ended")]
    ProcessGone {
        /// The process.
        pid: u32,
    },
    /// The number is closed, or leads to something else by now.
    #[error("reach a socket of process {pid}: descriptor {fd} is not the one with cookie {cookie:#x}")]
    NoSuchSocket {
        /// The process.
        pid: u32,
        /// The number of the descriptor.
        fd: i32,
        /// The socket's cookie.
        cookie: u64,
    },
    /// `pidfd_getfd` needs the rights of a debugger: CAP_SYS_PTRACE, and no `kernel.yama.ptrace_scope` of 3.
    #[error("reach a socket of process {pid}: not permitted")]
    NotPermitted {
        /// The process.
        pid: u32,
    },
    /// A search that found nothing was given up before its end: see [`Processes::find_among`].
    #[error("search for socket with cookie {cookie:#x}: too many {what}")]
    TooMany {
        /// The socket's cookie.
        cookie: u64,
        /// Of what there are too many.
        what: &'static str,
    },
    /// Anything else, such as no descriptors left.
    #[error("{operation} {subject}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// On what: a process id or a path.
        subject: String,
        /// The operating system's error.
        #[source]
        cause: io::Error,
    },
}

impl Error {
    fn system(operation: &'static str, subject: impl ToString) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::System { operation, subject: subject.to_string(), cause }
    }
}

/// Open handles of the processes that had connections last.
#[derive(Debug)]
pub struct Processes {
    /// By the low bits of the process id.
    slots: Mutex<Box<[Option<Known>]>>,
}

#[derive(Clone, Debug)]
struct Known {
    pid: u32,
    handle: Arc<OwnedFd>,
}

impl Default for Processes {
    fn default() -> Self {
        Self { slots: Mutex::new(vec![None; REMEMBERED].into()) }
    }
}

impl Processes {
    /// The socket behind a process's descriptor; it must be the one with this cookie.
    ///
    /// The id may also be that of a thread with descriptors of its own (Linux 6.9).
    ///
    /// # Errors
    ///
    /// [`Error`]; after `NoSuchSocket` and `ProcessGone` the socket may still be found elsewhere, by
    /// [`Self::find_among`] or [`Self::find_in_cgroup`].
    pub fn socket_of(&self, pid: u32, fd: i32, cookie: u64) -> Result<OwnedFd, Error> {
        let (handle, remembered) = self.handle(pid)?;
        match fetch(&handle, fd) {
            // The remembered process has ended, and its id may be that of another one by now.
            Err(error) if remembered && error.raw_os_error() == Some(libc::ESRCH) => {
                self.forget(pid);
                let (handle, _fresh) = self.handle(pid)?;
                fetch(&handle, fd)
            }
            result => result,
        }
        .map_err(|cause| match cause.raw_os_error() {
            Some(libc::ESRCH) => {
                self.forget(pid);
                Error::ProcessGone { pid }
            }
            Some(libc::EBADF) => Error::NoSuchSocket { pid, fd, cookie },
            Some(libc::EPERM) => Error::NotPermitted { pid },
            _ => Error::system("take a descriptor of process", pid)(cause),
        })
        .and_then(|found| match socket::cookie(&found) {
            Ok(number) if number == cookie => Ok(found),
            Ok(_another) => Err(Error::NoSuchSocket { pid, fd, cookie }),
            Err(_no_socket) => {
                close_elsewhere(found);
                Err(Error::NoSuchSocket { pid, fd, cookie })
            }
        })
    }

    /// A handle, and whether it was remembered.
    fn handle(&self, pid: u32) -> Result<(Arc<OwnedFd>, bool), Error> {
        if let Some(known) = self.with_slot(pid, |slot| slot.clone()).filter(|known| known.pid == pid) {
            return Ok((known.handle, true));
        }
        let handle = Arc::new(open(pid)?);
        let known = Known { pid, handle: Arc::clone(&handle) };
        // What was there is dropped after the lock is released.
        let _replaced = self.with_slot(pid, |slot| slot.replace(known));
        Ok((handle, false))
    }

    fn forget(&self, pid: u32) {
        let _forgotten = self.with_slot(pid, |slot| slot.take_if(|known| known.pid == pid));
    }

    fn with_slot<T>(&self, pid: u32, work: impl FnOnce(&mut Option<Known>) -> T) -> T {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut slots[pid as usize % REMEMBERED])
    }
}

/// `pidfd_open`.
pub(super) fn open(pid: u32) -> Result<OwnedFd, Error> {
    /// The handle is of this one thread (Linux 6.9): the value of O_EXCL.
    const PIDFD_THREAD: u32 = libc::O_EXCL.cast_unsigned();
    let try_open = |flags: u32| {
        // SAFETY: takes two numbers and no pointer.
        owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) })
    };
    let result = match try_open(0) {
        // What there is with this id is not a process but a thread: ENOENT since Linux 6.15, EINVAL before.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => try_open(PIDFD_THREAD),
        result => result,
    };
    result.map_err(|cause| match cause.raw_os_error() {
        Some(libc::ESRCH) => Error::ProcessGone { pid },
        // A kernel without PIDFD_THREAD, or the id is nobody's by now.
        Some(libc::EINVAL | libc::ENOENT) => Error::ProcessGone { pid },
        _ => Error::system("open process", pid)(cause),
    })
}

/// `pidfd_getfd`. The copy is closed on exec.
fn fetch(process: &impl AsFd, fd: i32) -> io::Result<OwnedFd> {
    let process = process.as_fd().as_raw_fd();
    // SAFETY: takes three numbers and no pointer; the process's handle is open while it is borrowed.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process, fd, 0) })
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(result) {
        // SAFETY: the call has just made this descriptor for us.
        Ok(fd @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Closes what turned out to be no socket. An application can make it a file whose close takes for ever (FUSE), so it
/// happens on a thread of its own, which is rare: a number must have changed its meaning within microseconds.
fn close_elsewhere(descriptor: OwnedFd) {
    // If there can be no thread, dropping the closure closes it here.
    let _closing = thread::Builder::new().name("close".to_owned()).stack_size(16 * 1024).spawn(|| drop(descriptor));
}

#[cfg(test)]
mod tests;
