//! When a file may have changed: inotify(7) on the directory that it is in, so that a file that is replaced by another one
//! is noticed as well as one that is written to, and a symbolic link that leads elsewhere (as Kubernetes does it).

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{io, iter};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::unistd::read;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Octets of events that are read at once; none has more than 272.
const EVENTS: usize = 4096;
/// Octets of an event before the name: the watch, what happened, a cookie and the length of the name, four each.
const HEAD: usize = 16;

/// Tells of changes.
#[derive(Debug)]
pub struct Changes {
    inotify: AsyncFd<OwnedFd>,
    /// The only one that matters.
    file: Option<PathBuf>,
}

impl Changes {
    /// Of a file. Where its name is a symbolic link, also of all others in its directory: they may be on the way to it.
    ///
    /// # Errors
    ///
    /// The operating system's: the directory is not there, or the user has too many watches
    /// (`fs.inotify.max_user_watches`).
    pub fn of(file: &Path) -> io::Result<Self> {
        let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self { file: Some(file.to_owned()), ..Self::inside([directory])? })
    }

    /// Of what is in these directories: files, cgroups, or namespaces that have a name there.
    ///
    /// # Errors
    ///
    /// As for [`Self::of`].
    pub fn inside<'a>(directories: impl IntoIterator<Item = &'a Path>) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        // Not while somebody is writing: a file that is closed is whole.
        let events = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE;
        for directory in directories {
            inotify.add_watch(directory, events)?;
        }
        // SAFETY: it owns the descriptor, which stays the same and open until it is dropped.
        let inotify = unsafe { AsyncFd::register_with_interest(OwnedFd::from(inotify), Interest::READABLE) };
        Ok(Self { inotify: inotify?, file: None })
    }

    /// Returns when there was a change since this was last called.
    ///
    /// # Errors
    ///
    /// The operating system's, which has no reason for any.
    pub async fn next(&self) -> io::Result<()> {
        let mut events = [0; EVENTS];
        loop {
            let mut ready = self.inotify.readable().await?;
            let Ok(read) = ready.try_io(|inotify| Ok(read(inotify, &mut events)?)) else { continue };
            if self.matters(&events[..read?]) {
                return Ok(());
            }
        }
    }

    /// Changes up to now are not told of any more: for who is about to look.
    ///
    /// # Errors
    ///
    /// As for [`Self::next`].
    pub fn forget(&self) -> io::Result<()> {
        let mut events = [0; EVENTS];
        loop {
            match read(self.inotify.get_ref(), &mut events) {
                Ok(_) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether these events are about what is looked after.
    fn matters(&self, events: &[u8]) -> bool {
        let Some(file) = &self.file else { return true };
        file.is_symlink() || names(events).any(|name| name.is_none_or(|name| file.file_name() == Some(name)))
    }
}

/// The names in events (inotify(7)). `None`: some were lost, and it may be any.
fn names(mut events: &[u8]) -> impl Iterator<Item = Option<&OsStr>> {
    iter::from_fn(move || {
        let (head, rest) = events.split_first_chunk::<HEAD>()?;
        let &[.., a, b, c, d] = head;
        let (name, rest) = rest.split_at_checked(u32::from_ne_bytes([a, b, c, d]) as usize)?;
        events = rest;
        // It is filled up with zeros.
        let name = name.split(|octet| *octet == 0).next().filter(|name| !name.is_empty());
        Some(name.map(OsStr::from_bytes))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn writing_replacing_and_leading_elsewhere_are_changes() {
        const SOON: Duration = Duration::from_secs(10);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.yaml");
        let changes = Changes::of(&file).unwrap();
        fs::write(&file, "one").unwrap();
        timeout(SOON, changes.next()).await.unwrap().unwrap();
        fs::write(folder.path().join("next"), "two").unwrap();
        fs::rename(folder.path().join("next"), &file).unwrap();
        timeout(SOON, changes.next()).await.unwrap().unwrap();
        fs::write(folder.path().join("beside"), "nobody's").unwrap();
        assert!(timeout(Duration::ZERO, changes.next()).await.is_err());
        fs::remove_file(&file).unwrap();
        symlink("elsewhere", &file).unwrap();
        timeout(SOON, changes.next()).await.unwrap().unwrap();
        fs::write(folder.path().join("elsewhere"), "three").unwrap();
        timeout(SOON, changes.next()).await.unwrap().unwrap();
        assert!(Changes::of(&folder.path().join("absent/agent.yaml")).is_err());
    }

    #[tokio::test]
    async fn what_is_forgotten_is_not_told_and_what_comes_after_is() {
        let folder = tempfile::tempdir().unwrap();
        let changes = Changes::inside([folder.path()]).unwrap();
        for name in ["one", "two"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        changes.forget().unwrap();
        changes.forget().unwrap();
        assert!(timeout(Duration::ZERO, changes.next()).await.is_err());
        fs::write(folder.path().join("three"), "three").unwrap();
        changes.next().await.unwrap();
    }
}
