//! Limits of this process.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the number of descriptors to the hard limit and returns it: each relayed connection needs two.
///
/// # Errors
///
/// The operating system's.
pub fn raise_descriptors() -> nix::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// Makes room for descriptors below this number. To be called while the process has one thread: a table that is full is
/// enlarged at once then, and waits for a grace period of RCU each time it is where there are more (`expand_files` in Linux).
///
/// # Errors
///
/// The operating system's: EINVAL where the limit does not allow so many.
pub fn make_room_for_descriptors(count: i32) -> io::Result<()> {
    let any = File::open(Path::new("/"))?;
    let last = fcntl(&any, FcntlArg::F_DUPFD_CLOEXEC(count.saturating_sub(1)))?;
    // SAFETY: the kernel just made this descriptor for us.
    drop(unsafe { OwnedFd::from_raw_fd(last) });
    Ok(())
}
