//! A file of redb's that is read, and never written: what is written stays in memory and is forgotten.
//!
//! Locks are those of the file, so nobody changes it meanwhile. Memory: the blocks that are written, which are few when
//! redb checks a file.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

const BLOCK: usize = 4096;

#[derive(Debug)]
pub(super) struct Overlay {
    /// Read here.
    file: File,
    /// Locked here.
    locks: FileBackend,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    /// What the file would be long, in octets.
    length: u64,
    /// How much of the file still counts: less than its length once it was made shorter.
    kept: u64,
    /// Blocks by number, whole.
    blocks: HashMap<u64, Box<[u8; BLOCK]>>,
}

impl Overlay {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let locks = FileBackend::new(file.try_clone()?).map_err(io::Error::other)?;
        let length = file.metadata()?.len();
        let written = Mutex::new(Written { length, kept: length, blocks: HashMap::new() });
        Ok(Self { file, locks, written })
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block as it is in the file; zeros beyond its end.
    fn original(&self, number: u64, kept: u64) -> io::Result<Box<[u8; BLOCK]>> {
        let mut block = Box::new([0; BLOCK]);
        let begin = number * BLOCK as u64;
        let there = usize::try_from(kept.saturating_sub(begin)).unwrap_or(BLOCK).min(BLOCK);
        self.file.read_exact_at(&mut block[..there], begin)?;
        Ok(block)
    }
}

/// The parts of a range of octets that lie in one block each: its number, and where the part begins in it and in the
/// range.
fn parts(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        // Less than a block, so it fits.
        let within = usize::try_from(at % BLOCK as u64).unwrap_or(0);
        let part = done..length.min(done + BLOCK - within);
        done = part.end;
        (!part.is_empty()).then_some((at / BLOCK as u64, within, part))
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > written.length) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends too early"));
        }
        for (number, within, part) in parts(offset, out.len()) {
            let octets = within..within + part.len();
            match written.blocks.get(&number) {
                Some(block) => out[part].copy_from_slice(&block[octets]),
                None => out[part].copy_from_slice(&self.original(number, written.kept)?[octets]),
            }
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut written = self.written();
        written.length = length;
        written.kept = written.kept.min(length);
        written.blocks.retain(|number, _| number * (BLOCK as u64) < length);
        // What lies beyond the end is zero when the file grows again.
        for (number, within, _) in parts(length, BLOCK).take(1) {
            if let Some(block) = written.blocks.get_mut(&number) {
                block[within..].fill(0);
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written();
        for (number, within, part) in parts(offset, data.len()) {
            let mut block = match written.blocks.remove(&number) {
                Some(block) => block,
                None => self.original(number, written.kept)?,
            };
            block[within..within + part.len()].copy_from_slice(&data[part]);
            written.blocks.insert(number, block);
        }
        written.length = written.length.max(offset + data.len() as u64);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.locks.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.locks.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.locks.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.locks.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.locks.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.locks.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.locks.query_lock_range(start, end)
    }
}
