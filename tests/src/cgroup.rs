//! Control groups of version 2: what a workload is recognised by, and what ends everything started in it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::teardown;
use crate::wait;

/// A directory below the cgroup2 mount.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The group of this name directly below the mount, whether it exists or not.
    pub fn named(name: &str) -> Result<Cgroup> {
        Ok(Cgroup { path: mount()?.join(name) })
    }

    /// Makes it.
    pub fn create(self) -> Result<Cgroup> {
        let _open = teardown::open();
        fs::create_dir_all(&self.path).with_context(|| format!("create cgroup {}", self.path.display()))?;
        Ok(self)
    }

    /// Makes a group inside this one.
    pub fn child(&self, name: &str) -> Result<Cgroup> {
        Cgroup { path: self.path.join(name) }.create()
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Kills every process in it and below it, and waits until they are gone.
    pub fn kill(&self) -> Result<()> {
        if !self.path.is_dir() {
            return Ok(());
        }
        fs::write(self.path.join("cgroup.kill"), "1").with_context(|| format!("kill {}", self.path.display()))?;
        let events = self.path.join("cgroup.events");
        wait::until("a killed cgroup to be empty", wait::patience(), || {
            let state = fs::read_to_string(&events).with_context(|| format!("read {}", events.display()))?;
            Ok(state.lines().any(|line| line == "populated 0").then_some(()))
        })
    }

    /// Removes it and every group below it, if it is there; no process may be left inside.
    pub fn remove(&self) -> Result<()> {
        if self.path.is_dir() { remove_tree(&self.path) } else { Ok(()) }
    }
}

/// The kernel removes groups one by one, from the innermost; their files go with them.
fn remove_tree(group: &Path) -> Result<()> {
    for entry in fs::read_dir(group).with_context(|| format!("list cgroup {}", group.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            remove_tree(&path)?;
        }
    }
    fs::remove_dir(group).with_context(|| format!("remove cgroup {}", group.display()))
}

/// Where cgroup2 is mounted: `/sys/fs/cgroup`, or beside the old hierarchies.
fn mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
    find_mount(&mounts).context("no cgroup2 file system is mounted: `mount -t cgroup2 none /sys/fs/cgroup`")
}

fn find_mount(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let target = fields.next()?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(target))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_unified_mount_beside_the_old_ones() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(find_mount(mounts), Some(PathBuf::from("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn knows_when_there_is_none() {
        assert_eq!(find_mount("proc /proc proc rw 0 0\n"), None);
    }
}
