//! Opening the file: which one is ours, and that a bad one stays as it is.
//!
//! redb repairs a file while it opens it, and writes to it before it has seen all of it. So an existing file is first
//! opened behind an `overlay` that keeps all writes in memory, with every page compared with its checksum and every entry
//! read; only what passes is opened for good. Where redb panics on a damaged file, that is damage, too.

use std::any::Any;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::overlay::Overlay;
use crate::ca::directory;
use crate::ca::store::Error;

/// All that the file holds. The name says which format: another one is no store of ours.
pub(super) const ENTRIES: TableDefinition<&str, &[u8]> = TableDefinition::new("enforcer-store-1");

/// What redb may keep of the file in memory, in octets.
const CACHE: usize = 16 * 1024 * 1024;

/// Opens the file, or makes it if there is none.
///
/// # Errors
///
/// As [`super::Embedded::open`].
pub(super) fn open_or_create(path: &Path) -> Result<Database, Error> {
    let failed = |operation| failed(operation, path);
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    directory::prepare(parent).map_err(|cause| failed("prepare the directory of")(cause.into()))?;
    if !path.try_exists().map_err(|cause| failed("look for")(cause.into()))? {
        // Whoever comes second finds the file of whoever came first.
        let _lock = directory::lock(parent).map_err(|cause| failed("lock the directory of")(cause.into()))?;
        if !path.exists() {
            create(path, parent).map_err(|cause| failed("create")(cause))?;
        }
    }
    open(path)
}

/// Under another name first, so that it is never there in part: an empty file may be what is left of a full one.
fn create(path: &Path, parent: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = Path::new(&unfinished);
    match fs::remove_file(unfinished) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => return Err(cause.into()),
        _ => {}
    }
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(unfinished)?;
    let database = Database::builder().set_cache_size(CACHE).create_with_backend(FileBackend::new(file)?)?;
    let mut write = database.begin_write()?;
    write.set_two_phase_commit(true);
    drop(write.open_table(ENTRIES)?);
    write.commit()?;
    drop(database);
    File::open(unfinished)?.sync_all()?;
    fs::rename(unfinished, path)?;
    Ok(File::open(parent)?.sync_all()?)
}

/// Opens a file that is there.
pub(super) fn open(path: &Path) -> Result<Database, Error> {
    let open = || OpenOptions::new().read(true).write(true).open(path);
    let failed = |cause: io::Error| failed("open", path)(cause.into());
    let file = open().map_err(failed)?;
    // redb would make a new store of it.
    if file.metadata().map_err(failed)?.len() == 0 {
        return Err(damaged(path, "it is empty"));
    }
    guarded(path, || try_out(Overlay::new(file)?))?;
    guarded(path, || Ok(Database::builder().set_cache_size(CACHE).create_with_backend(FileBackend::new(open()?)?)?))
}

/// Reads everything once.
fn try_out(file: Overlay) -> Result<(), redb::Error> {
    let mut builder = Database::builder();
    let database = builder.set_cache_size(CACHE).set_check_integrity_on_open(true).create_with_backend(file)?;
    let entries = database.begin_read()?.open_table(ENTRIES)?;
    for entry in entries.iter()? {
        entry?;
    }
    Ok(())
}

/// Tells what a failure of redb means for the file, and lets no panic through.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, Error> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|cause| judged(path, cause)),
        Err(panic) => Err(damaged(path, &said(&*panic))),
    }
}

fn judged(path: &Path, cause: redb::Error) -> Error {
    match cause {
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Error::InUse { store: name(path) },
        // What redb says of a file that is too short, or not its own.
        redb::Error::Io(cause) if [ErrorKind::UnexpectedEof, ErrorKind::InvalidData].contains(&cause.kind()) => {
            damaged(path, &cause.to_string())
        }
        redb::Error::Io(cause) => failed("open", path)(cause.into()),
        other => damaged(path, &other.to_string()),
    }
}

/// What a panic said.
pub(super) fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "redb panicked".to_owned())
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::Damaged { store: name(path), why: why.to_owned() }
}

/// An error of the system, or of redb without damage.
pub(super) fn failed(
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> Error {
    move |cause| Error::Failed { operation, store: name(path), cause }
}
