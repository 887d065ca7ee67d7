//! What a process that holds keys asks the kernel for: nobody looks into its memory, and its memory is on no disk.
//!
//! Keys are on the ordinary heap, where rustls and aws-lc have them, so it is the whole process that is protected. Root
//! with CAP_SYS_PTRACE still sees everything, and hibernation writes all memory.

use std::io;

use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

/// Both, for a process that is about to have keys. That memory cannot be locked is logged and no error: nearly all hosts
/// of containers have no swap.
///
/// # Errors
///
/// The operating system's, from [`forbid_inspection`].
pub fn protect() -> io::Result<()> {
    forbid_inspection()?;
    match lock_memory() {
        Ok(()) => tracing::info!("memory is locked: keys are not swapped out"),
        Err(error) => tracing::warn!(
            %error,
            "memory is not locked, so keys may be swapped out: grant CAP_IPC_LOCK, or an unlimited RLIMIT_MEMLOCK \
             (LimitMEMLOCK=infinity), or use encrypted swap or none"
        ),
    }
    Ok(())
}

/// No core dump, and no ptrace, `/proc/PID/mem` or `process_vm_readv` from a process without CAP_SYS_PTRACE, even of the
/// same user (PR_SET_DUMPABLE(2const), ptrace(2)). It is for this process; programs that it starts are as usual, but dump
/// no core either.
///
/// The limit alone would not do, because a program that core dumps are piped to gets them whatever the limit is (core(5)).
///
/// # Errors
///
/// The operating system's; none is known.
pub fn forbid_inspection() -> io::Result<()> {
    prctl::set_dumpable(false)?;
    Ok(setrlimit(Resource::RLIMIT_CORE, 0, 0)?)
}

/// Keeps all memory of this process, present and future, out of swap. Pages count when they are first touched and not
/// before (Linux 4.4), so that it takes no more memory, but for two things: pages of the program's file cannot be dropped
/// once they were used, and what the allocator would give back by MADV_DONTNEED stays.
///
/// It must keep the right that it was done with: CAP_IPC_LOCK, or an unlimited RLIMIT_MEMLOCK.
///
/// # Errors
///
/// The operating system's: EPERM without the right. A limited RLIMIT_MEMLOCK is not made use of, because memory could
/// not be had any more when the limit is reached.
pub fn lock_memory() -> io::Result<()> {
    let (before, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    // With a limit of zero only CAP_IPC_LOCK lets it happen: the kernel's own answer, in a user namespace too.
    let limit = if hard == RLIM_INFINITY { RLIM_INFINITY } else { 0 };
    setrlimit(Resource::RLIMIT_MEMLOCK, limit, hard)?;
    let result = lock_all();
    if limit == 0 {
        setrlimit(Resource::RLIMIT_MEMLOCK, before, hard)?;
    }
    result
}

fn lock_all() -> io::Result<()> {
    // SAFETY: takes a number and no pointer, and changes no memory's content.
    match unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests;
