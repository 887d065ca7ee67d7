//! The store of one host: a file (redb), held by one process.
//!
//! [`Embedded`] is what others see of it. `file` opens it, and touches nothing that is damaged; `table` keeps it open and
//! reads it; `writer` commits, one thread for all. Nothing here blocks a task: reads happen in tokio's blocking pool,
//! and a commit waits for the thread. What a commit costs is the disk's fsync, so transactions that come while one is
//! being written are written together.
//!
//! What it promises of the file: mode 0600; a transaction is there whole or not at all, whenever the process is killed;
//! damage is found when the file is opened, because all of it is read and compared with its checksums, and a damaged file
//! is left as it is. What it does not: checksums are no seal, so whoever can write the file can forge it; and one bit of
//! its header has no checksum, which says which of the last two commits counts where the process was killed.

mod file;
mod overlay;
mod table;
#[cfg(test)]
mod tests;
mod writer;

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use self::table::Table;
use self::writer::Writer;
use super::{Error, Outcome, Pending, Store, Transaction};

/// A file that is open for this process alone, until it is dropped.
///
/// Dropping it waits for the commits that are under way, so the next one can open the file at once.
#[derive(Debug)]
pub struct Embedded {
    table: Arc<Table>,
    writer: Writer,
    changes: watch::Sender<u64>,
}

impl Embedded {
    /// Opens the file, or makes it if there is none; its directory, too. Reads all of the file, so it takes as long as
    /// that: call it before serving.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`], when it is open elsewhere; [`Error::Damaged`], when it is not whole, also when it is empty;
    /// [`Error::Failed`], when the directory may be entered by others, or the system refuses.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let table = Arc::new(Table::open(path)?);
        let (changes, _) = watch::channel(0);
        let writer = Writer::start(Arc::clone(&table), changes.clone())?;
        Ok(Self { table, writer, changes })
    }

    /// Does it where blocking is allowed.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Table) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let table = Arc::clone(&self.table);
        let reading = tokio::task::spawn_blocking(move || read(&table)).await;
        reading.unwrap_or_else(|cause| Err(self.table.failed("read")(Box::new(cause))))
    }
}

impl Store for Embedded {
    fn get(&self, key: &str) -> Pending<'_, Option<Vec<u8>>> {
        let key = key.to_owned();
        Box::pin(async move {
            super::check_key(&key)?;
            self.read(move |table| table.get(&key)).await
        })
    }

    fn list(&self, prefix: &str) -> Pending<'_, Vec<(String, Vec<u8>)>> {
        let prefix = prefix.to_owned();
        Box::pin(async move {
            super::check_prefix(&prefix)?;
            self.read(move |table| table.list(&prefix)).await
        })
    }

    fn commit(&self, transaction: Transaction) -> Pending<'_, Outcome> {
        Box::pin(async move {
            transaction.check()?;
            self.writer.commit(transaction).await
        })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.writer.finish();
        self.table.close();
    }
}
