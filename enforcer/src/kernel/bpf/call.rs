//! bpf(2), as far as aya has no call for it: links that are pinned whatever their kind and given another program in one
//! step (BPF_LINK_CREATE and BPF_LINK_UPDATE, Linux 5.7), and one program loaded many times (BPF_PROG_LOAD).

use std::ffi::{CStr, CString};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya_obj::generated::bpf_insn;

/// Commands, from `enum bpf_cmd` in linux/bpf.h.
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_MAP_FREEZE: libc::c_long = 22;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;

const BPF_MAP_TYPE_ARRAY: u32 = 2;
/// Programs cannot write to the map.
const BPF_F_RDONLY_PROG: u32 = 1 << 7;
/// Octets of what the verifier says of a program that it refuses; what is more is cut off.
const LOG: u32 = 1 << 16;

// The parts of `union bpf_attr` that these commands read.

#[derive(Default)]
#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

#[derive(Default)]
#[repr(C)]
struct MapElement {
    map: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[derive(Default)]
#[repr(C)]
struct ProgramLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

#[derive(Default)]
#[repr(C)]
struct Object {
    path: u64,
    descriptor: u32,
    flags: u32,
}

#[derive(Default)]
#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

#[derive(Default)]
#[repr(C)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// A program that is to be loaded.
pub(super) struct Source<'a> {
    /// Of `enum bpf_prog_type`.
    pub(super) kind: u32,
    /// Of `enum bpf_attach_type`.
    pub(super) attach_type: u32,
    /// Of which the kernel keeps 15 octets.
    pub(super) name: &'a str,
    pub(super) instructions: &'a [bpf_insn],
    pub(super) license: &'a CStr,
}

/// Loads a program.
///
/// # Errors
///
/// The kernel's, with what its verifier says.
pub(super) fn load(source: &Source<'_>) -> io::Result<OwnedFd> {
    let mut name = [0; 16];
    name.iter_mut().take(15).zip(source.name.bytes()).for_each(|(to, from)| *to = from);
    let mut attributes = ProgramLoad {
        kind: source.kind,
        instruction_count: u32::try_from(source.instructions.len()).map_err(io::Error::other)?,
        instructions: source.instructions.as_ptr() as u64,
        license: source.license.as_ptr() as u64,
        name,
        attach_type: source.attach_type,
        ..ProgramLoad::default()
    };
    bpf(BPF_PROG_LOAD, &mut attributes).or_else(|error| {
        let mut log = vec![0_u8; LOG as usize];
        (attributes.log_level, attributes.log_size, attributes.log) = (1, LOG, log.as_mut_ptr() as u64);
        bpf(BPF_PROG_LOAD, &mut attributes).map_err(|_same| {
            let said = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy();
            io::Error::other(format!("{error}; the verifier says: {}", said.trim_end()))
        })
    })
}

/// An array of one element, which nobody can change any more.
///
/// # Errors
///
/// The kernel's.
pub(super) fn constants(data: &[u8]) -> io::Result<OwnedFd> {
    let value_size = u32::try_from(data.len()).map_err(io::Error::other)?;
    let (kind, flags) = (BPF_MAP_TYPE_ARRAY, BPF_F_RDONLY_PROG);
    let map = bpf(BPF_MAP_CREATE, &mut MapCreate { kind, key_size: 4, value_size, max_entries: 1, flags })?;
    let key = 0_u32;
    let (descriptor, key) = (map.as_raw_fd().cast_unsigned(), std::ptr::from_ref(&key) as u64);
    let value = data.as_ptr() as u64;
    call(BPF_MAP_UPDATE_ELEM, &mut MapElement { map: descriptor, key, value, ..MapElement::default() })?;
    call(BPF_MAP_FREEZE, &mut MapElement { map: descriptor, ..MapElement::default() })?;
    Ok(map)
}

/// Attaches a loaded program to a cgroup or to a network namespace, as one of the numbers of `enum bpf_attach_type`.
///
/// # Errors
///
/// The kernel's.
pub(super) fn attach(program: &impl AsFd, target: &impl AsFd, attach_type: u32) -> io::Result<OwnedFd> {
    let (program, target) = (number(program), number(target));
    bpf(BPF_LINK_CREATE, &mut LinkCreate { program, target, attach_type, flags: 0 })
}

/// Gives a link another program.
///
/// # Errors
///
/// The kernel's: ENOLINK where what the link was attached to is gone.
pub(super) fn update(link: &impl AsFd, program: &impl AsFd) -> io::Result<()> {
    let (link, program) = (number(link), number(program));
    call(BPF_LINK_UPDATE, &mut LinkUpdate { link, program, ..LinkUpdate::default() }).map(drop)
}

/// Gives a link a name on a bpf file system.
///
/// # Errors
///
/// The kernel's.
pub(super) fn pin(link: &impl AsFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = Object { path: path.as_ptr() as u64, descriptor: number(link), flags: 0 };
    call(BPF_OBJ_PIN, &mut attributes).map(drop)
}

/// What has this name there.
///
/// # Errors
///
/// The kernel's.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    bpf(BPF_OBJ_GET, &mut Object { path: path.as_ptr() as u64, ..Object::default() })
}

fn number(object: &impl AsFd) -> u32 {
    object.as_fd().as_raw_fd().cast_unsigned()
}

/// A command that makes a descriptor.
fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<OwnedFd> {
    let descriptor = call(command, attributes)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn call<T>(command: libc::c_long, attributes: &mut T) -> io::Result<RawFd> {
    // SAFETY: the attributes are a live `repr(C)` prefix of `union bpf_attr`, given with their size, and what they point to
    // lives longer than the call; the kernel takes the rest as zero.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}
