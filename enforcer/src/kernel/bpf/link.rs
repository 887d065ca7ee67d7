//! Links of programs to cgroups: made, pinned, and given another program in one step (BPF_LINK_CREATE and
//! BPF_LINK_UPDATE, Linux 5.7). aya has no call for the latter, and lets nobody pin a link of a sockopt program.

use std::ffi::CString;
use std::fs;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya::programs::Program;

use super::Error;

/// Commands of bpf(2), from `enum bpf_cmd` in linux/bpf.h.
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;

/// The part of `union bpf_attr` that BPF_LINK_CREATE reads.
#[derive(Default)]
#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that BPF_OBJ_PIN and BPF_OBJ_GET read.
#[derive(Default)]
#[repr(C)]
struct Object {
    path: u64,
    descriptor: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that BPF_LINK_UPDATE reads.
#[derive(Default)]
#[repr(C)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// Puts the loaded program into the link that is pinned at `path`, in one step: there is no moment without a
/// program. False when there is no such link, or its cgroup or namespace is gone; the dead pin is removed then.
pub(super) fn replace(path: &Path, program: &Program) -> Result<bool, Error> {
    let failed = |operation, cause| Error::Link { operation, path: path.to_owned(), cause };
    let link = match open(path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(cause) => return Err(failed("open pinned", cause)),
    };
    let program = program.fd().map_err(|cause| failed("read program of", io::Error::other(cause)))?;
    match update(link.as_raw_fd(), program.as_fd().as_raw_fd()) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
            fs::remove_file(path).map_err(|cause| failed("remove dead", cause))?;
            Ok(false)
        }
        Err(cause) => Err(failed("update", cause)),
    }
}

/// Attaches the loaded program to a cgroup, one of the numbers of `enum bpf_attach_type`, and pins the link.
pub(super) fn create(
    path: &Path,
    program: &Program,
    (target, attach_type): (BorrowedFd<'_>, u32),
) -> Result<(), Error> {
    let failed = |operation, cause| Error::Link { operation, path: path.to_owned(), cause };
    let program = program.fd().map_err(|cause| failed("read program of", io::Error::other(cause)))?;
    let mut attributes = LinkCreate {
        program: program.as_fd().as_raw_fd().cast_unsigned(),
        target: target.as_raw_fd().cast_unsigned(),
        attach_type,
        flags: 0,
    };
    let link = bpf(BPF_LINK_CREATE, &mut attributes).map_err(|cause| failed("create", cause))?;
    // SAFETY: the kernel just made this descriptor for us.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    pin(&link, path).map_err(|cause| failed("pin", cause))
}

fn pin(link: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let descriptor = link.as_raw_fd().cast_unsigned();
    let mut attributes = Object { path: path.as_ptr() as u64, descriptor, flags: 0 };
    bpf(BPF_OBJ_PIN, &mut attributes).map(drop)
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = Object { path: path.as_ptr() as u64, ..Object::default() };
    let descriptor = bpf(BPF_OBJ_GET, &mut attributes)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn update(link: RawFd, program: RawFd) -> io::Result<()> {
    let mut attributes =
        LinkUpdate { link: link.cast_unsigned(), program: program.cast_unsigned(), ..LinkUpdate::default() };
    bpf(BPF_LINK_UPDATE, &mut attributes).map(drop)
}

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<RawFd> {
    // SAFETY: the attributes are a live `repr(C)` prefix of `union bpf_attr`, given with their size; the kernel
    // takes the rest as zero.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}
