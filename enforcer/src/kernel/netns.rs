//! Network namespaces: which one a workload has, and doing something inside it.
//!
//! A thread enters a namespace, makes a socket there and comes back before it does anything else; the socket stays
//! in that namespace for life. Nothing here awaits: a task that is moved between threads must never be in between.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};

use super::socket;

/// What is below /proc/sys/net is that of the namespace of the thread that opens it.
const NOTSENT_LOWAT: &str = "/proc/sys/net/ipv4/tcp_notsent_lowat";

/// An open network namespace.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    cookie: u64,
    is_own: bool,
}

impl Namespace {
    /// Opens a namespace by its file: `/run/netns/NAME` or `/proc/PID/ns/net`.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened, is no network namespace, or may not be entered (CAP_SYS_ADMIN).
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::new(File::open(path)?)
    }

    /// The namespace that a socket is in (SIOCGSKNS). An accepted Unix socket is in that of the socket that connected.
    ///
    /// # Errors
    ///
    /// As for [`Self::open`], and without CAP_NET_ADMIN there.
    pub fn of_socket(socket: &impl AsFd) -> io::Result<Self> {
        // SAFETY: takes a number and no pointer; the descriptor is open while it is borrowed.
        let descriptor = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCGSKNS) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for the caller, and nobody else knows it.
        Self::new(unsafe { File::from_raw_fd(descriptor) })
    }

    fn new(file: File) -> io::Result<Self> {
        let own = socket::netns_cookie(&any_socket()?)?;
        let mut namespace = Self { file, cookie: 0, is_own: false };
        namespace.cookie = namespace.enter(|| socket::netns_cookie(&any_socket()?))?;
        namespace.is_own = namespace.cookie == own;
        Ok(namespace)
    }

    /// SO_NETNS_COOKIE (Linux 5.14): unique until the machine restarts.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// What tells it from others, as long as this handle of it is open.
    ///
    /// # Errors
    ///
    /// The operating system's, which has no reason for any.
    pub fn id(&self) -> io::Result<Id> {
        self.file.metadata().map(|metadata| Id::of(&metadata))
    }

    /// True for the namespace that the agent itself runs in.
    pub fn is_own(&self) -> bool {
        self.is_own
    }

    /// Another handle of the same namespace.
    ///
    /// # Errors
    ///
    /// When there are no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, ..*self })
    }

    /// The `TCP_NOTSENT_LOWAT` of all TCP sockets of the namespace whose own is 0: with 0 here their write gate is
    /// shut, from birth on.
    ///
    /// # Errors
    ///
    /// When /proc/sys cannot be read, or holds no number.
    pub fn notsent_lowat(&self) -> io::Result<u32> {
        let text = self.enter(|| fs::read_to_string(NOTSENT_LOWAT))?;
        text.trim().parse().map_err(io::Error::other)
    }

    /// Sets what [`Self::notsent_lowat`] tells. It is at once in force for all these sockets, but those that wait to
    /// write are not woken. [`u32::MAX`] is the kernel's own default.
    ///
    /// # Errors
    ///
    /// When /proc/sys cannot be written: in a container it is often mounted read-only.
    pub fn set_notsent_lowat(&self, lowat: u32) -> io::Result<()> {
        self.enter(|| fs::write(NOTSENT_LOWAT, lowat.to_string()))
    }

    /// Runs `work` with this thread inside the namespace.
    ///
    /// # Errors
    ///
    /// What `work` returns, or the error of entering.
    pub fn enter<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.is_own {
            return work();
        }
        let home = home()?;
        setns(&self.file, CloneFlags::CLONE_NEWNET)?;
        let _return = Return(home);
        work()
    }
}

/// A network namespace by its file: device and inode. The inode of one that is gone may be another's later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    device: u64,
    inode: u64,
}

impl Id {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }

    /// The namespace that a file holds.
    ///
    /// # Errors
    ///
    /// When there is no such file.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::of(&metadata))
    }

    /// The namespace that a process is in.
    ///
    /// # Errors
    ///
    /// When the process has ended, or may not be looked at (CAP_SYS_PTRACE).
    pub fn of_process(pid: u32) -> io::Result<Self> {
        fs::metadata(format!("/proc/{pid}/ns/net")).map(|metadata| Self::of(&metadata))
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Brings the thread home, also when the work panics.
struct Return(&'static File);

impl Drop for Return {
    fn drop(&mut self) {
        if let Err(error) = setns(self.0, CloneFlags::CLONE_NEWNET) {
            // From here on this thread would open sockets in a workload's namespace: better no agent than that.
            tracing::error!(%error, "cannot leave a network namespace");
            std::process::abort();
        }
    }
}

/// The namespace that the agent was started in.
fn home() -> io::Result<&'static File> {
    static HOME: OnceLock<File> = OnceLock::new();
    if let Some(home) = HOME.get() {
        return Ok(home);
    }
    let file = File::open("/proc/thread-self/ns/net")?;
    Ok(HOME.get_or_init(|| file))
}

fn any_socket() -> io::Result<Socket> {
    Socket::new(Domain::UNIX, Type::DGRAM, None)
}

#[cfg(test)]
pub(crate) mod tests;
