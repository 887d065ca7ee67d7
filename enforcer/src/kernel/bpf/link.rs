//! Links of programs to cgroups and namespaces: made, pinned, and given another program in one step.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use super::{Error, call};

/// Puts the loaded program into the link that is pinned at `path`, in one step: there is no moment without a
/// program. False when there is no such link, or its cgroup or namespace is gone; the dead pin is removed then.
pub(super) fn replace(path: &Path, program: &impl AsFd) -> Result<bool, Error> {
    let failed = |operation, cause| Error::Link { operation, path: path.to_owned(), cause };
    let link = match call::open(path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(cause) => return Err(failed("open pinned", cause)),
    };
    match call::update(&link, program) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
            fs::remove_file(path).map_err(|cause| failed("remove dead", cause))?;
            Ok(false)
        }
        Err(cause) => Err(failed("update", cause)),
    }
}

/// Attaches the loaded program to a cgroup or namespace, as one of the numbers of `enum bpf_attach_type`, and pins the link.
pub(super) fn create(path: &Path, program: &impl AsFd, (target, attach_type): (&impl AsFd, u32)) -> Result<(), Error> {
    let failed = |operation, cause| Error::Link { operation, path: path.to_owned(), cause };
    let link = call::attach(program, target, attach_type).map_err(|cause| failed("create", cause))?;
    call::pin(&link, path).map_err(|cause| failed("pin", cause))
}
