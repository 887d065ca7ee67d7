//! The slow way to a socket: looking through all descriptors of some processes.
//!
//! Needed when a descriptor was passed on, moved or made before the programs were loaded. All reads of /proc are
//! here. Work is bounded whatever applications do; processes and descriptors that vanish meanwhile are skipped.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Error, Processes};

/// Processes that one search looks at.
const MAX_PROCESSES: usize = 4096;
/// Descriptors that one search looks at, in all processes together.
const MAX_DESCRIPTORS: usize = 65_536;
/// Control groups that one search looks at.
const MAX_GROUPS: usize = 1024;

impl Processes {
    /// Looks for a socket in these processes, in this order. Says in which process it was.
    ///
    /// Looks at 4,096 processes and 65,536 descriptors at most. Threads with descriptors of their own are not searched.
    ///
    /// # Errors
    ///
    /// `TooMany` when nothing was found within these bounds, `NotPermitted`, or when /proc cannot be read.
    pub fn find_among(&self, pids: &[u32], cookie: u64) -> Result<Option<(u32, OwnedFd)>, Error> {
        let mut left = MAX_DESCRIPTORS;
        for &pid in pids.iter().take(MAX_PROCESSES) {
            if let Some(found) = self.find_in(pid, cookie, &mut left)? {
                return Ok(Some((pid, found)));
            }
        }
        if pids.len() > MAX_PROCESSES {
            return Err(Error::TooMany { cookie, what: "processes" });
        }
        Ok(None)
    }

    /// Looks for a socket in the processes of a control group and of all groups below it, 1,024 groups at most.
    ///
    /// # Errors
    ///
    /// Those of [`Self::find_among`], or when the group's own directory cannot be read.
    pub fn find_in_cgroup(&self, directory: &Path, cookie: u64) -> Result<Option<(u32, OwnedFd)>, Error> {
        let mut pids = Vec::new();
        let mut groups = vec![directory.to_owned()];
        let mut seen = 0;
        while let Some(group) = groups.pop() {
            if seen == MAX_GROUPS {
                return Err(Error::TooMany { cookie, what: "control groups" });
            }
            if let Err(cause) = look_into(&group, &mut pids, &mut groups) {
                // Groups below may be removed at any time.
                if seen == 0 {
                    return Err(Error::system("read control group", group.display())(cause));
                }
            }
            seen += 1;
        }
        self.find_among(&pids, cookie)
    }

    fn find_in(&self, pid: u32, cookie: u64, left: &mut usize) -> Result<Option<OwnedFd>, Error> {
        let directory = format!("/proc/{pid}/fd");
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(Error::NotPermitted { pid }),
            Err(cause) => return Err(Error::system("read", directory)(cause)),
        };
        // An error in the middle is that of a process that ends.
        for entry in entries.map_while(Result::ok) {
            *left = left.checked_sub(1).ok_or(Error::TooMany { cookie, what: "descriptors" })?;
            let Some(fd) = number(&entry.file_name()).filter(|_fd| is_socket(&entry.path())) else { continue };
            match self.socket_of(pid, fd, cookie) {
                Ok(found) => return Ok(Some(found)),
                Err(Error::NoSuchSocket { .. }) => {}
                Err(Error::ProcessGone { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// Adds the processes of a group and the groups right below it.
fn look_into(group: &Path, pids: &mut Vec<u32>, groups: &mut Vec<PathBuf>) -> io::Result<()> {
    let entries = fs::read_dir(group)?;
    match fs::read_to_string(group.join("cgroup.procs")) {
        // 0 is a process outside of our PID namespace.
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|&pid| pid != 0)),
        // A group of threads: the group above lists their processes.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(error) => return Err(error),
    }
    let entries = entries.map_while(Result::ok);
    let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    groups.extend(below.take(MAX_GROUPS).map(|entry| entry.path()));
    Ok(())
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

fn number(name: &OsStr) -> Option<i32> {
    name.to_str()?.parse().ok()
}

/// Whether the link leads to a socket. Nothing else is fetched: closing it again could have consequences.
fn is_socket(link: &Path) -> bool {
    fs::read_link(link).is_ok_and(|target| target.as_os_str().as_bytes().starts_with(b"socket:"))
}
