//! Loading the agent's configuration file.
//!
//! [`load`] is what the agent calls; [`parse`] is the part of it that needs no file system, for tests and fuzzing.
//! Both take any bytes, never panic, and use memory in proportion to the size of the file, which is bounded.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::host;
use super::index;
use super::object::{Objects, objects};
use super::problem::{Position, Problem, Problems};
use super::snapshot::Snapshot;

/// Bytes that a file may have.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Why a file gives no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It could not be read.
    #[error("read configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// It says something that cannot be done; one line a problem.
    #[error("{}", Lines(file, problems))]
    Refused {
        /// The file, as it was named.
        file: String,
        /// All that is wrong with it, in the order of the file; never empty.
        problems: Vec<Problem>,
    },
}

/// Each problem as `FILE:LINE:COLUMN: what; why; what to do`, on a line of its own.
struct Lines<'a>(&'a str, &'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(file, problems) = self;
        for (index, Problem { at, message }) in problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{file}:{at}: {message}")?;
        }
        Ok(())
    }
}

/// Reads and checks the file at `path`, also against this host.
///
/// # Errors
/// The file cannot be read, or there is anything wrong in it: the error then has every problem.
pub fn load(path: &Path) -> Result<Snapshot, LoadError> {
    let bytes = read_text(path)?;
    snapshot(&bytes, &path.display().to_string(), host::check)
}

/// Reads and checks the file at `path` without looking for its workloads: they may be another host's. Where the file names
/// no resolvers, they are those of this one.
///
/// # Errors
/// As for [`load`].
pub fn parse_file(path: &Path) -> Result<Snapshot, LoadError> {
    snapshot(&read_text(path)?, &path.display().to_string(), |objects, _| host::find_resolvers(objects))
}

/// Checks the text of a file that is called `name` in messages, as far as that needs no file system.
///
/// # Errors
/// Every problem of the text.
pub fn parse(text: impl AsRef<[u8]>, name: &str) -> Result<Snapshot, LoadError> {
    snapshot(text.as_ref(), name, |_, _| {})
}

/// The bytes of a file.
pub(super) fn read_text(path: &Path) -> Result<Vec<u8>, LoadError> {
    read(path).map_err(|cause| LoadError::Read { path: path.to_owned(), cause })
}

/// The refusal of a file, with all that is wrong in it.
pub(super) fn refused(path: &Path, problems: Problems) -> LoadError {
    LoadError::Refused { file: path.display().to_string(), problems: problems.into_sorted() }
}

/// At most one byte more than is allowed, so that an endless file is refused and not read.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(MAX_BYTES + 1).unwrap_or(u64::MAX);
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn snapshot(bytes: &[u8], file: &str, look: fn(&mut Objects, &mut Problems)) -> Result<Snapshot, LoadError> {
    let mut problems = Problems::default();
    let snapshot = text(bytes, &mut problems).and_then(|text| {
        let mut objects = objects(text, &mut problems);
        look(&mut objects, &mut problems);
        index::build(objects, &mut problems)
    });
    match snapshot {
        Some(snapshot) if problems.is_empty() => Ok(snapshot),
        _ => Err(LoadError::Refused { file: file.to_owned(), problems: problems.into_sorted() }),
    }
}

pub(super) fn text<'a>(bytes: &'a [u8], problems: &mut Problems) -> Option<&'a str> {
    if bytes.len() > MAX_BYTES {
        problems.add(Position::START, "larger than 4 MiB; that is not a configuration; check the path, or split it");
        return None;
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(cause) => {
            let before = String::from_utf8_lossy(&bytes[..cause.valid_up_to()]);
            let line = before.split('\n').count();
            let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
            problems.add(Position { line, column }, "not UTF-8; YAML is nothing else; save the file as UTF-8");
            None
        }
    }
}
