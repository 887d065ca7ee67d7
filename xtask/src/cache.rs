//! The cache: things that take long to make and are the same for every checkout, under `$XDG_CACHE_HOME/enforcer`
//! (`~/.cache/enforcer`).
//!
//! Promises: an entry is either whole or absent, also when its making was interrupted (made beside, then renamed); two
//! processes never make the same entry at once (lock). Nothing is evicted: deleting the folder is always safe.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

/// The cache folder, made when absent.
pub(crate) fn folder() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(base) if !base.is_empty() => PathBuf::from(base),
        _ => PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?).join(".cache"),
    };
    let folder = base.join("enforcer");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder)
}

/// The path of entry `name` for `inputs`; when absent, `make` makes it at the path that it is given (file or folder).
///
/// `inputs` is all that decides what the entry holds: other inputs are another entry.
pub(crate) fn entry(name: &str, inputs: &[&str], make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let folder = folder()?;
    let file_name = format!("{name}-{:016x}", fingerprint(inputs));
    let path = folder.join(&file_name);
    if path.exists() {
        return Ok(path);
    }
    let _lock = lock(&folder.join(format!("{name}.lock")))?;
    if path.exists() {
        return Ok(path); // Another process made it while we waited for the lock.
    }
    eprintln!("making {} (once)", path.display());
    let unfinished = folder.join(format!("{file_name}.unfinished"));
    remove(&unfinished)?;
    make(&unfinished).with_context(|| format!("make {}", path.display()))?;
    fs::rename(&unfinished, &path).with_context(|| format!("rename {}", unfinished.display()))?;
    Ok(path)
}

/// Waits for the lock file at `path`; it is free again when the returned file is dropped or the process ends.
pub(crate) fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => eprintln!("waiting for another xtask that holds {}", path.display()),
        Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("lock {}", path.display())),
    }
    file.lock().with_context(|| format!("lock {}", path.display()))?;
    Ok(file)
}

/// Removes a file or a folder with all that is in it; absent is fine.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(error),
        Ok(entry) if entry.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    removed.with_context(|| format!("remove {}", path.display()))
}

/// A folder of one run, removed when dropped; those of processes that were killed are removed by the next run.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes a folder that nobody else uses.
    pub(crate) fn new() -> Result<Self> {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let runs = folder()?.join("runs");
        fs::create_dir_all(&runs).with_context(|| format!("create {}", runs.display()))?;
        sweep(&runs)?;
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let path = runs.join(format!("{}-{run}", std::process::id()));
        remove(&path)?;
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where the folder is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            eprintln!("{error:#}");
        }
    }
}

/// Removes the folders of processes that are gone; their names begin with process ids.
fn sweep(runs: &Path) -> Result<()> {
    for run in fs::read_dir(runs).with_context(|| format!("read {}", runs.display()))? {
        let run = run?;
        let name = run.file_name().to_string_lossy().into_owned();
        let process = name.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(process).exists() {
            remove(&run.path())?;
        }
    }
    Ok(())
}

/// FNV-1a, 64 bits: unlike std's hasher it is the same in every Rust release.
fn fingerprint(inputs: &[&str]) -> u64 {
    let bytes = inputs.iter().flat_map(|input| input.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_is_fnv_1a_and_keeps_inputs_apart() {
        assert_eq!(fingerprint(&[]), 0xcbf2_9ce4_8422_2325);
        assert_ne!(fingerprint(&["ab", "c"]), fingerprint(&["a", "bc"]));
    }
}
