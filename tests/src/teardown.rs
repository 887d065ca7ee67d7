//! Leaving nothing behind.
//!
//! Everything a world makes carries its name, `enforcer-PID-N`: a cgroup that holds every process, a directory,
//! namespaces and a directory of pins. So a world can be taken down by its name alone: by whoever made it, by a
//! thread that a signal has woken, or by the next run after the one that made it was killed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::{self, ThreadId};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use tokio::signal::unix::{SignalKind, signal};

use crate::agent;
use crate::cgroup::Cgroup;
use crate::netns::Namespace;

const PREFIX: &str = "enforcer-";
const BPF: &str = "/sys/fs/bpf";

/// The name of this process's world number `number`.
pub(crate) fn name(number: u32) -> String {
    format!("{PREFIX}{}-{number}", process::id())
}

/// Where the world of this name keeps its files.
pub(crate) fn directory(name: &str) -> PathBuf {
    env::temp_dir().join(name)
}

/// Below which its agents pin their programs.
pub(crate) fn pins(name: &str) -> PathBuf {
    Path::new(BPF).join(name)
}

/// Mounts the BPF file system where nobody has, as systemd does at boot.
pub(crate) fn mount_bpf() -> Result<()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mounts = fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
    if mounts.lines().any(|line| line.split(' ').nth(1) == Some(BPF)) {
        return Ok(());
    }
    mount(Some("bpf"), BPF, Some("bpf"), MsFlags::empty(), None::<&str>).context("mount the BPF file system")
}

/// Takes down what killed runs have left. From now on SIGINT and SIGTERM take down every world of this process and
/// end it.
///
/// A handler and not a blocked mask: children would inherit the mask, and could not be asked to end.
pub fn begin() -> Result<()> {
    sweep();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().context("start a runtime")?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        let listen = |kind| signal(kind).context("listen to signals");
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?)
    };
    thread::spawn(move || {
        let status = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            }
        });
        eprintln!("\ninterrupted: taking everything down");
        let _others_wait = close();
        sweep();
        process::exit(status);
    });
    Ok(())
}

/// Whoever makes something that must be taken down, or waits for it, holds this for as long as the making takes.
///
/// Once an interrupt has begun to take everything down, this stops its caller for good: it must make nothing new,
/// and need not complain that what it waits for is gone.
pub(crate) fn open() -> Option<RwLockReadGuard<'static, ()>> {
    let closing = CLOSED_BY.get().is_some_and(|closer| *closer == thread::current().id());
    (!closing).then(|| STAGE.read().unwrap_or_else(PoisonError::into_inner))
}

/// Waits until nobody makes anything any more, and keeps it so.
fn close() -> RwLockWriteGuard<'static, ()> {
    CLOSED_BY.get_or_init(|| thread::current().id());
    STAGE.write().unwrap_or_else(PoisonError::into_inner)
}

static STAGE: RwLock<()> = RwLock::new(());
static CLOSED_BY: OnceLock<ThreadId> = OnceLock::new();

/// Takes down every world of this process, and those of processes that died before they could.
pub fn sweep() {
    for world in names_in(&env::temp_dir()).unwrap_or_default() {
        let Some(owner) = owner(&world) else { continue };
        if owner == process::id() || !Path::new("/proc").join(owner.to_string()).exists() {
            take_down(&world);
        }
    }
}

/// Removes everything that carries the name of a world. Goes on after a failure, which it prints; the directory goes
/// last and only if nothing else is left, so that the next run finds what to try again.
pub(crate) fn take_down(name: &str) {
    let steps = [
        Cgroup::named(name).and_then(|cgroup| cgroup.kill()),
        uninstall_all(&directory(name)),
        remove_namespaces(name),
        Cgroup::named(name).and_then(|cgroup| cgroup.remove()),
        remove_directory(&pins(name)),
    ];
    let left: Vec<_> = steps.into_iter().filter_map(Result::err).collect();
    for error in &left {
        eprintln!("taking down {name}: {error:#}");
    }
    if left.is_empty()
        && let Err(error) = remove_directory(&directory(name))
    {
        eprintln!("taking down {name}: {error:#}");
    }
}

fn uninstall_all(directory: &Path) -> Result<()> {
    for file in names_in(directory)?.iter().filter(|file| file.ends_with(".yaml")) {
        agent::uninstall(&directory.join(file))?;
    }
    Ok(())
}

fn remove_namespaces(world: &str) -> Result<()> {
    Namespace::with_prefix(&format!("{world}-"))?.into_iter().try_for_each(Namespace::remove)
}

fn remove_directory(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    fs::remove_dir_all(path).with_context(|| format!("remove {}", path.display()))
}

/// The process that made the world of this name.
fn owner(world: &str) -> Option<u32> {
    let (owner, _number) = world.strip_prefix(PREFIX)?.split_once('-')?;
    owner.parse().ok()
}

fn names_in(directory: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_own_names() {
        assert_eq!(owner(&name(3)), Some(process::id()));
    }

    #[test]
    fn leaves_alone_what_others_made() {
        assert_eq!(owner("enforcer-notes-1"), None);
        assert_eq!(owner("enforcer-12"), None);
        assert_eq!(owner("systemd-private-12-3"), None);
    }
}
