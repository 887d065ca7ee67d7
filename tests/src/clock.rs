//! A clock that a suite sets, for the processes that are started with it: libfaketime moves their time of day, and theirs
//! alone. What counts how long something takes (CLOCK_MONOTONIC) goes on as it does, so that to them it is as if somebody
//! had set the machine's clock, or as if the machine had slept.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

/// Where Debian has libraries, in a directory for each architecture.
const LIBRARIES: &str = "/usr/lib";
/// The one for programs with threads.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// The clock. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Clock {
    /// Says how far ahead it is.
    file: PathBuf,
    library: PathBuf,
}

impl Clock {
    /// A clock that is right until it is moved; its file goes to `directory`.
    pub fn create(directory: &Path) -> Result<Clock> {
        let entries = fs::read_dir(LIBRARIES).with_context(|| format!("list {LIBRARIES}"))?;
        let libraries = entries.map(|entry| Ok(entry?.path().join(LIBRARY))).collect::<Result<Vec<_>>>()?;
        let library = libraries.into_iter().find(|library| library.is_file());
        let library = library.context("this machine has no libfaketime: run `cargo xtask setup`")?;
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        let clock = Clock { file: directory.join("clock"), library };
        clock.ahead(Duration::ZERO)?;
        Ok(clock)
    }

    /// From now on it is so far ahead of the machine's.
    pub fn ahead(&self, by: Duration) -> Result<()> {
        // Whole or not at all: it may be read at any moment.
        let next = self.file.with_extension("next");
        fs::write(&next, format!("+{}\n", by.as_secs())).context("write the next time")?;
        fs::rename(&next, &self.file).context("set the clock")
    }

    /// What a process needs that goes by it.
    pub fn environment(&self) -> Vec<(String, String)> {
        let variables = [
            ("LD_PRELOAD", self.library.to_string_lossy()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.to_string_lossy()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            // The times of files are those of the machine.
            ("NO_FAKE_STAT", "1".into()),
        ];
        variables.map(|(name, value)| (name.to_owned(), value.into_owned())).into()
    }
}
