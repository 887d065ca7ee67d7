//! The state directory: which files, with which modes, written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::Error;

/// The roots to trust. Written last: with it the authority is complete.
pub(super) const BUNDLE: &str = "bundle.pem";
/// The issuer of workloads on this host.
pub(super) const INTERMEDIATE: &str = "intermediate.pem";
/// Its key.
pub(super) const INTERMEDIATE_KEY: &str = "intermediate.key";
/// The root, where it was made.
pub(super) const ROOT: &str = "root.pem";
/// Its key, where it was made.
pub(super) const ROOT_KEY: &str = "root.key";

/// What every authority has.
const NEEDED: [&str; 3] = [INTERMEDIATE_KEY, INTERMEDIATE, BUNDLE];

/// How much of an authority a directory holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Holds {
    Nothing,
    Authority,
}

/// Makes the directory if it is not there, for its owner alone.
///
/// # Errors
///
/// [`Error::Open`], when others may enter it; [`Error::File`].
pub fn prepare(path: &Path) -> Result<(), Error> {
    let failed = |operation| move |cause| Error::File { operation, path: path.to_owned(), cause };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("create directory"))?;
    let mode = fs::metadata(path).map_err(failed("read"))?.mode() & 0o777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(Error::Open { path: path.to_owned(), mode }) }
}

/// Holds the directory against others who would make or change the authority, as long as the result lives.
///
/// # Errors
///
/// [`Error::File`].
pub(super) fn lock(directory: &Path) -> Result<File, Error> {
    let path = directory.join("ca.lock");
    let failed = |operation| {
        let path = path.clone();
        move |cause| Error::File { operation, path, cause }
    };
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.map_err(failed("open"))?;
    file.lock().map_err(failed("lock"))?;
    Ok(file)
}

/// Looks what is there.
///
/// # Errors
///
/// [`Error::Incomplete`], when a start was interrupted or a file was taken away.
pub(super) fn inspect(directory: &Path) -> Result<Holds, Error> {
    let missing: Vec<&str> = NEEDED.into_iter().filter(|name| !directory.join(name).exists()).collect();
    let roots = [ROOT_KEY, ROOT].map(|name| directory.join(name).exists());
    match (missing.as_slice(), roots) {
        ([], [false, false] | [_, true]) => Ok(Holds::Authority),
        ([], [true, false]) => Err(incomplete(directory, ROOT)),
        (missing, [false, false]) if missing.len() == NEEDED.len() => Ok(Holds::Nothing),
        (missing, _) => Err(incomplete(directory, &missing.join(", "))),
    }
}

fn incomplete(directory: &Path, missing: &str) -> Error {
    Error::Incomplete { path: directory.to_owned(), missing: missing.to_owned() }
}

/// Writes a file that only its owner can read: under another name first, so that it is never there in part.
///
/// # Errors
///
/// [`Error::File`].
pub fn write(directory: &Path, name: &str, content: &str) -> Result<(), Error> {
    let path = directory.join(name);
    let unfinished = directory.join(format!("{name}.new"));
    let result = write_synced(&unfinished, content)
        .and_then(|()| fs::rename(&unfinished, &path))
        .and_then(|()| File::open(directory)?.sync_all());
    result.map_err(|cause| Error::File { operation: "write", path, cause })
}

fn write_synced(path: &Path, content: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()
}

/// Reads a file. `None`: it is not there.
///
/// # Errors
///
/// [`Error::File`].
pub(super) fn read(directory: &Path, name: &str) -> Result<Option<String>, Error> {
    let path: PathBuf = directory.join(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(Error::File { operation: "read", path, cause }),
    }
}
