//! What only this host knows: whether cgroups and network namespaces exist, and which spellings are the same one.
//!
//! Looks at the file system and changes nothing. What it finds holds for the moment of loading; whoever opens a
//! namespace or attaches to a cgroup later must still handle its absence.

use std::fs::{canonicalize, metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, NSFS_MAGIC, statfs};

use super::object::{Objects, RawWorkload};
use super::problem::{Problems, shown};

/// Checks each workload's cgroup and namespace, resolves links in the one and finds the inode of the other.
pub(super) fn check(objects: &mut Objects, problems: &mut Problems) {
    let own = namespace_inode(Path::new("/proc/self/ns/net")).ok().flatten();
    for workload in &mut objects.workloads {
        check_cgroup(workload, problems);
        check_network(workload, own, problems);
    }
}

fn check_cgroup(workload: &mut RawWorkload, problems: &mut Problems) {
    let Some(cgroup) = &mut workload.cgroup else { return };
    let subject = format!("cgroup {}", shown(&cgroup.value.to_string_lossy()));
    match cgroup2_directory(&cgroup.value) {
        Ok(Some(directory)) => cgroup.value = directory,
        Ok(None) => problems.add(
            cgroup.at,
            format!("{subject} is no cgroup2 directory; programs attach to nothing else; see `mount -t cgroup2`"),
        ),
        Err(cause) => problems.add(
            cgroup.at,
            format!("{subject} cannot be opened; {cause}; create it before the agent starts, or mend the path"),
        ),
    }
}

/// `path` without links; `None` if it is something else.
fn cgroup2_directory(path: &Path) -> io::Result<Option<PathBuf>> {
    let path = canonicalize(path)?;
    let found = metadata(&path)?.is_dir() && statfs(&path)?.filesystem_type() == CGROUP2_SUPER_MAGIC;
    Ok(found.then_some(path))
}

/// Device and inode of a network namespace.
pub(super) type Inode = (u64, u64);

/// `own` is the namespace of the agent.
fn check_network(workload: &mut RawWorkload, own: Option<Inode>, problems: &mut Problems) {
    let Some(network) = &workload.network else { return };
    let path = network.value.path();
    let subject = format!("network namespace {}", shown(&path.to_string_lossy()));
    match namespace_inode(&path) {
        Ok(Some(inode)) => workload.inode = Some(inode),
        Ok(None) => problems.add(
            network.at,
            format!("{subject} is no namespace; `ip netns` leaves such a file when it was deleted; create it anew"),
        ),
        Err(cause) => problems.add(
            network.at,
            format!("{subject} cannot be opened; {cause}; create it before the agent starts, or mend the path"),
        ),
    }
    if own.is_some() && own == workload.inode && workload.ports.is_none() {
        let message = format!("{subject} is the agent's own; without ports it would take the host's; add `ports:`");
        problems.add(network.at, message);
    }
}

/// The namespace that `path` holds; `None` if it is something else.
fn namespace_inode(path: &Path) -> io::Result<Option<Inode>> {
    if statfs(path)?.filesystem_type() != NSFS_MAGIC {
        return Ok(None);
    }
    let file = metadata(path)?;
    Ok(Some((file.dev(), file.ino())))
}
