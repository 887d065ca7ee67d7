//! A workload's control group: the directory in the cgroup2 hierarchy, and the id by which programs know it. And the
//! groups that a process is in.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

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

    /// True when the process that is there belongs to the group or to one below it.
    ///
    /// # Errors
    ///
    /// When the path of the group cannot be followed.
    pub fn contains(&self, whereabouts: &Whereabouts) -> io::Result<bool> {
        let path = self.path.canonicalize()?;
        let relative = whereabouts.mounts.iter().find_map(|point| path.strip_prefix(point).ok());
        Ok(relative.is_some_and(|group| whereabouts.group.starts_with(Path::new("/").join(group))))
    }
}

/// Where a process is among the control groups. Read once for many groups: a machine with many pods has many mounts.
#[derive(Debug)]
pub struct Whereabouts {
    /// Its own group, from the root that it sees.
    group: PathBuf,
    /// Where cgroup2 file systems are mounted.
    mounts: Vec<PathBuf>,
}

impl Whereabouts {
    /// Of this process.
    ///
    /// # Errors
    ///
    /// When `/proc/self/cgroup` or `/proc/self/mountinfo` cannot be read.
    pub fn of_this_process() -> io::Result<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup")?;
        let group = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").into();
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mounts = mounts.lines().filter_map(cgroup2_mount).map(|(_, point)| point.to_owned()).collect();
        Ok(Self { group, mounts })
    }
}

/// The ids of the group that a process is in and of all groups around it, the innermost first.
///
/// # Errors
///
/// When the process is gone or has no group of version 2, or when its group is not below a mount of this process: an
/// agent in a cgroup namespace of its own sees only what is in there.
pub fn ids_of(pid: u32) -> io::Result<Vec<u64>> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::")).ok_or(io::ErrorKind::NotFound)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let (point, directory) =
        mounts.lines().filter_map(cgroup2_mount).find_map(|mount| place(own, mount)).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("no mount of cgroup2 that is seen here holds {own}"))
        })?;
    let around = directory.ancestors().take_while(|group| group.starts_with(point));
    around.map(|group| Ok(fs::metadata(group)?.ino())).collect()
}

/// The ids of a group and of all groups below it. What is gone meanwhile is not there.
#[must_use]
pub fn ids_below(path: &Path) -> HashSet<u64> {
    let (mut ids, mut unread) = (HashSet::new(), vec![path.to_owned()]);
    while let Some(group) = unread.pop() {
        ids.extend(fs::metadata(&group).ok().map(|group| group.ino()));
        let entries = fs::read_dir(&group).into_iter().flatten().filter_map(Result::ok);
        let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        unread.extend(below.map(|entry| entry.path()));
    }
    ids
}

/// A group's directory, if this mount holds it, with the mount point.
fn place<'a>(group: &str, (root, point): (&Path, &'a Path)) -> Option<(&'a Path, PathBuf)> {
    let group = Path::new(group);
    let is_above = group.components().any(|part| part == Component::ParentDir);
    let relative = group.strip_prefix(root).ok().filter(|_| !is_above)?;
    // Joining nothing would add a slash.
    let directory = if relative.as_os_str().is_empty() { point.to_owned() } else { point.join(relative) };
    Some((point, directory))
}

/// What is mounted and where, if this line of mountinfo (proc(5)) is about a cgroup2 file system.
fn cgroup2_mount(line: &str) -> Option<(&Path, &Path)> {
    let (before, after) = line.split_once(" - ")?;
    if !after.starts_with("cgroup2 ") {
        return None;
    }
    let mut fields = before.split(' ').skip(3);
    Some((Path::new(fields.next()?), Path::new(fields.next()?)))
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
    fn mounts_are_read_from_mountinfo() {
        let line = "36 25 0:30 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(cgroup2_mount(line), Some((Path::new("/"), Path::new("/sys/fs/cgroup/unified"))));
        assert_eq!(cgroup2_mount("36 25 0:30 / /proc rw - proc proc rw"), None);
        assert_eq!(cgroup2_mount("nonsense"), None);
    }

    #[test]
    fn a_group_is_looked_for_below_what_is_mounted() {
        let whole = (Path::new("/"), Path::new("/cg"));
        let part = (Path::new("/pods"), Path::new("/cg"));
        for (group, mount, expected) in [
            ("/", whole, Some("/cg")),
            ("/a/b", whole, Some("/cg/a/b")),
            ("/pods/a", part, Some("/cg/a")),
            ("/podsy/a", part, None),
            ("/..", whole, None),
            ("/../a", whole, None),
        ] {
            assert_eq!(place(group, mount), expected.map(|path| (Path::new("/cg"), path.into())), "{group}");
        }
    }

    #[test]
    fn a_process_is_in_its_group_and_in_those_around_it() {
        let ids = ids_of(std::process::id()).unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let (_, point) = mounts.lines().find_map(cgroup2_mount).unwrap();
        assert_eq!(ids.last(), Some(&Cgroup::open(point).unwrap().id()));
        let here = Whereabouts::of_this_process().unwrap();
        assert!(Cgroup::open(point).unwrap().contains(&here).unwrap());
        assert!(ids_below(point).is_superset(&ids.into_iter().collect()));
    }
}
