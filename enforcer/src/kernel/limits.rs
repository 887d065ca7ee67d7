//! Limits of this process.

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
