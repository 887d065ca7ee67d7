//! A workload's control group: the directory in the cgroup2 hierarchy, and the id by which programs know it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// An open cgroup2 directory.
#[derive(Debug)]
pub struct Cgroup {
    directory: File,
    path: PathBuf,
    id: u64,
}

impl Cgroup {
    /// Opens the directory.
    ///
    /// # Errors
    ///
    /// The operating system's error when the directory cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let directory = File::open(path)?;
        // The id that bpf_get_current_cgroup_id returns is the inode number of the directory.
        let id = directory.metadata()?.ino();
        Ok(Self { directory, path: path.to_owned(), id })
    }

    /// What `bpf_get_current_cgroup_id` returns in this group. Never used again for another group.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// True when this process belongs to the group or to one below it.
    ///
    /// # Errors
    ///
    /// When `/proc/self/cgroup` or `/proc/self/mountinfo` cannot be read.
    pub fn contains_this_process(&self) -> io::Result<bool> {
        let groups = std::fs::read_to_string("/proc/self/cgroup")?;
        let own = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        let path = self.path.canonicalize()?;
        let relative = mounts.lines().filter_map(cgroup2_mount_point).find_map(|mount| path.strip_prefix(mount).ok());
        Ok(relative.is_some_and(|group| Path::new(own).starts_with(Path::new("/").join(group))))
    }
}

/// The mount point, if this line of mountinfo (proc(5)) is about a cgroup2 file system.
fn cgroup2_mount_point(line: &str) -> Option<&Path> {
    let (before, after) = line.split_once(" - ")?;
    if !after.starts_with("cgroup2 ") {
        return None;
    }
    before.split(' ').nth(4).map(Path::new)
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_from_mountinfo() {
        let line = "36 25 0:30 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(cgroup2_mount_point(line), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(cgroup2_mount_point("36 25 0:30 / /proc rw - proc proc rw"), None);
        assert_eq!(cgroup2_mount_point("nonsense"), None);
    }
}
