//! Starting a program as if it were one of a workload: in its cgroup and its network namespace, from its first instruction
//! on.
//!
//! The child joins both between fork and exec. A cgroup that has only groups below it takes no process (the rule of
//! cgroup2 against inner processes): there the child gets a group of its own for as long as it lives, which programs that
//! are attached to the workload's group see like any other below it.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::sched::{CloneFlags, setns};
use nix::unistd::write;

use super::netns::Namespace;

/// A program inside a workload. Dropping it kills it.
#[derive(Debug)]
pub struct Inside {
    child: Child,
    /// The group that was made for it.
    group: Option<PathBuf>,
}

impl Inside {
    /// Starts a program, which `command` makes as often as it is asked.
    ///
    /// # Errors
    ///
    /// The operating system's: of joining the cgroup (`EACCES`) or the namespace (`EPERM`), or of starting.
    pub fn start(command: impl Fn() -> Command, cgroup: &Path, namespace: &Namespace) -> io::Result<Self> {
        match start_in(cgroup, command(), namespace) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                let group = cgroup.join(format!("enforcer-{}", std::process::id()));
                fs::create_dir(&group)?;
                match start_in(&group, command(), namespace) {
                    Ok(child) => Ok(Self { child, group: Some(group) }),
                    Err(error) => fs::remove_dir(&group).and(Err(error)),
                }
            }
            started => Ok(Self { child: started?, group: None }),
        }
    }

    /// The program, as the standard library has it.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait()).map(drop);
        let removed = self.group.as_ref().map_or(Ok(()), fs::remove_dir);
        if let Err(error) = ended.and(removed) {
            tracing::warn!(%error, group = ?self.group, "program inside a workload not cleaned up");
        }
    }
}

fn start_in(group: &Path, mut command: Command, namespace: &Namespace) -> io::Result<Child> {
    let processes: OwnedFd = OpenOptions::new().write(true).open(group.join("cgroup.procs"))?.into();
    let network = if namespace.is_own() { None } else { Some(namespace.as_fd().try_clone_to_owned()?) };
    let join = move || {
        // Whoever writes 0 means itself.
        write(&processes, b"0")?;
        if let Some(network) = &network {
            setns(network, CloneFlags::CLONE_NEWNET)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes two system calls with descriptors that it owns, and allocates nothing.
    unsafe { command.pre_exec(join) };
    command.spawn()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::MetadataExt;
    use std::process::Stdio;

    use super::*;
    use crate::kernel::cgroup;
    use crate::kernel::netns::{self, tests::new_namespace};

    /// A group with another one in it; removed again.
    struct Groups(PathBuf);

    impl Groups {
        fn new(name: &str) -> Self {
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
            let mount = mounts.lines().find(|line| line.contains(" cgroup2 ")).expect("cgroup2 is mounted");
            let group = Path::new(mount.split(' ').nth(1).unwrap()).join(format!("{name}-{}", std::process::id()));
            fs::create_dir(&group).unwrap();
            fs::create_dir(group.join("below")).unwrap();
            Self(group)
        }
    }

    impl Drop for Groups {
        fn drop(&mut self) {
            fs::remove_dir(self.0.join("below")).unwrap();
            fs::remove_dir(&self.0).unwrap();
        }
    }

    fn cat() -> Command {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }

    #[test]
    fn a_program_is_in_the_group_and_in_the_namespace() {
        let (groups, namespace) = (Groups::new("inside"), new_namespace());
        let id = fs::metadata(&groups.0).unwrap().ino();
        let mut inside = Inside::start(cat, &groups.0, &namespace).unwrap();
        let pid = inside.child().id();
        assert_eq!(cgroup::ids_of(pid).unwrap().first(), Some(&id));
        assert_eq!(netns::Id::of_process(pid).unwrap(), namespace.id().unwrap());
        drop(inside.child().stdin.take());
        let mut said = String::new();
        inside.child().stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(inside.child().wait().unwrap().success());
        drop(inside);
        assert!(cgroup::ids_of(pid).is_err());
    }

    #[test]
    fn a_group_without_processes_of_its_own_gets_one_below_it_for_the_time() {
        let (groups, namespace) = (Groups::new("inner"), new_namespace());
        // From here on the group may have no process.
        let controllers = fs::read_to_string(groups.0.join("cgroup.controllers")).unwrap();
        let Some(controller) = controllers.split_whitespace().next() else { return };
        fs::write(groups.0.join("cgroup.subtree_control"), format!("+{controller}")).unwrap();
        let mut inside = Inside::start(cat, &groups.0, &namespace).unwrap();
        let around = cgroup::ids_of(inside.child().id()).unwrap();
        assert_eq!(around.get(1), Some(&fs::metadata(&groups.0).unwrap().ino()));
        drop(inside);
    }

    #[test]
    fn a_group_that_is_not_there_takes_nobody() {
        let error = Inside::start(cat, Path::new("/nowhere"), &new_namespace()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
