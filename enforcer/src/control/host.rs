//! What only this host knows: whether cgroups and network namespaces exist, and which spellings are the same one.
//!
//! Looks at the file system and changes nothing. What it finds holds for the moment of loading; whoever opens a
//! namespace or attaches to a cgroup later must still handle its absence.

use std::fs::{canonicalize, metadata, read_to_string};
use std::io;
use std::net::IpAddr;
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
    find_resolvers(objects);
}

/// Fills in the system's resolvers, where a node names none.
pub(super) fn find_resolvers(objects: &mut Objects) {
    for node in objects.nodes.iter_mut().filter(|node| !node.own_resolvers) {
        node.resolvers = resolvers(&read_to_string(RESOLVERS).unwrap_or_default());
    }
}

/// Where the system's resolvers stand (resolv.conf(5)); without it there are none.
const RESOLVERS: &str = "/etc/resolv.conf";

/// Those that are not on the loopback, which is never refused.
fn resolvers(text: &str) -> Vec<IpAddr> {
    let words = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let addresses = words.filter_map(|rest| rest.split_whitespace().next()?.split('%').next()?.parse::<IpAddr>().ok());
    addresses.filter(|address| !address.is_loopback() && !address.is_unspecified()).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_found_among_what_else_stands_there() {
        let text = "# nameserver 192.0.2.1\nsearch example.org\nnameserver 127.0.0.53\n nameserver\t10.0.0.53 # ours\n\
                    nameserver fe80::1%eth0\nnameserver fd00::53\nnameserver\nnameservers 10.0.0.1\n";
        let found: Vec<String> = resolvers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.53", "fe80::1", "fd00::53"]);
    }
}
