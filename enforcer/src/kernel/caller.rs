//! Who is at the other end of a Unix socket: the process that connected, and where it is.
//!
//! A process id alone proves nothing. Whoever connects may hand the socket to somebody else and end, and its id is then
//! given to a new process, which may be another workload's. So a caller is a handle of the process (a pidfd), and what
//! is read by its id counts only if the process is still there afterwards: an id is not used again before its process
//! is gone.
//!
//! Since Linux 6.5 the socket itself gives the handle of the process that connected (SO_PEERPIDFD). Before, the handle
//! can only be made from the id (SO_PEERCRED), which may be another process's by then. There the process must be seen to
//! have the other end of this socket among its descriptors: nobody gets it there without its doing.
//!
//! Process ids are those of the agent's own PID namespace, which therefore must be the machine's.

mod diag;

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};

use super::cgroup;
use super::netns;
use super::process;

/// Descriptors that are looked through before Linux 6.5. A process with more is refused.
const MOST_DESCRIPTORS: usize = 65_536;

/// The process that connected.
#[derive(Debug)]
pub struct Caller {
    pid: u32,
    handle: OwnedFd,
}

/// Where a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The ids of its control group and of those around it, the innermost first.
    pub groups: Vec<u64>,
    /// Its network namespace.
    pub namespace: netns::Id,
}

impl Caller {
    /// Who has connected to this end of a Unix socket.
    ///
    /// # Errors
    ///
    /// When the process has ended or is outside of this PID namespace. Before Linux 6.5 also when it does not have the
    /// other end, has too many descriptors, or may not be looked at (CAP_SYS_PTRACE); and when the kernel does not tell of
    /// Unix sockets (CONFIG_UNIX_DIAG, which Debian's kernels have).
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        let pid = getsockopt(&socket.as_fd(), sockopt::PeerCredentials)?.pid();
        let pid = u32::try_from(pid).ok().filter(|&pid| pid != 0);
        let pid =
            pid.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "a process outside of this PID namespace"))?;
        match getsockopt(&socket.as_fd(), sockopt::PeerPidfd) {
            Ok(handle) => Ok(Self { pid, handle }),
            Err(Errno::ENOPROTOOPT) => Self::holding(socket, pid),
            Err(error) => Err(error.into()),
        }
    }

    /// The process with this id, if it has the other end of the socket.
    fn holding(socket: &impl AsFd, pid: u32) -> io::Result<Self> {
        let handle = process::open(pid).map_err(io::Error::other)?;
        let caller = Self { pid, handle };
        if !has_socket(pid, diag::peer(socket)?)? {
            let message = format!("process {pid} does not have the other end of the socket: it is not who connected");
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        caller.check_alive()?;
        Ok(caller)
    }

    /// Its process id. Means something only while the process lives.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where it is now.
    ///
    /// # Errors
    ///
    /// When the process has ended, or where it is cannot be read: see [`cgroup::ids_of`], [`netns::Id::of_process`].
    pub fn place(&self) -> io::Result<Place> {
        let place = Place { groups: cgroup::ids_of(self.pid)?, namespace: netns::Id::of_process(self.pid)? };
        // Only now it is known that all of it was read of this process.
        self.check_alive()?;
        Ok(place)
    }

    /// `pidfd_send_signal` with signal 0, which sends none.
    fn check_alive(&self) -> io::Result<()> {
        let handle = self.handle.as_raw_fd();
        let nothing = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: takes numbers and a null pointer, which it allows; the handle is open while it is borrowed.
        match unsafe { libc::syscall(libc::SYS_pidfd_send_signal, handle, 0, nothing, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Whether the socket with this inode is among the descriptors of a process.
fn has_socket(pid: u32, inode: u32) -> io::Result<bool> {
    let wanted = format!("socket:[{inode}]");
    let mut entries = fs::read_dir(format!("/proc/{pid}/fd"))?.map_while(Result::ok);
    for entry in entries.by_ref().take(MOST_DESCRIPTORS) {
        if fs::read_link(entry.path()).is_ok_and(|target| target == Path::new(&wanted)) {
            return Ok(true);
        }
    }
    if entries.next().is_some() {
        return Err(io::Error::other(format!("process {pid} has more than {MOST_DESCRIPTORS} descriptors")));
    }
    Ok(false)
}

/// Any octets as an answer about a Unix socket.
#[cfg(fuzzing)]
pub(super) fn fuzz_diag(answer: &[u8]) {
    let _inode = diag::read(answer);
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::Command;

    use super::*;
    use crate::kernel::netns::Namespace;
    use crate::kernel::netns::tests::new_namespace;

    /// Both ends are this process's.
    fn pair() -> (UnixStream, UnixStream) {
        UnixStream::pair().unwrap()
    }

    #[test]
    fn the_process_that_connected_is_found_on_every_kernel() {
        let (own, _other) = pair();
        let here = Place {
            groups: cgroup::ids_of(std::process::id()).unwrap(),
            namespace: netns::Id::of_process(std::process::id()).unwrap(),
        };
        for caller in [Caller::of(&own), Caller::holding(&own, std::process::id())] {
            let caller = caller.unwrap();
            assert_eq!(caller.pid(), std::process::id());
            assert_eq!(caller.place().unwrap(), here);
        }
    }

    #[test]
    fn a_caller_may_be_in_another_network_namespace() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let there = new_namespace();
        let _client = there.enter(|| UnixStream::connect(&path)).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(Namespace::of_socket(&accepted).unwrap().id().unwrap(), there.id().unwrap());
        assert_eq!(Caller::holding(&accepted, std::process::id()).unwrap().pid(), std::process::id());
    }

    #[test]
    fn a_process_that_has_ended_is_nowhere() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let caller = Caller { pid: child.id(), handle: process::open(child.id()).unwrap() };
        caller.place().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(caller.place().is_err());
        assert_eq!(caller.check_alive().unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn an_id_is_not_believed_where_the_other_end_is_not() {
        let (own, other) = pair();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let error = Caller::holding(&own, child.id()).unwrap_err();
        assert!(error.to_string().contains("not who connected"), "{error}");
        child.kill().unwrap();
        child.wait().unwrap();
        drop(other);
        assert!(Caller::holding(&own, std::process::id()).is_err(), "there is no other end");
    }
}
