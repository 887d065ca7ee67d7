//! The open file: reads from it, transactions into it, and what happens after a failure.
//!
//! redb works no more after the first failure of the system (a full disk, say) until its file is opened again. So a
//! failure closes the file, and whoever comes next opens it; what was committed is there, and everything is checked
//! again. No transaction of redb outlives a call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use redb::{Database, ReadableDatabase, ReadableTable, Table as Entries};

use super::file::{self, ENTRIES};
use crate::ca::store::{Condition, Error, Outcome, Transaction};

#[derive(Debug)]
pub(super) struct Table {
    path: PathBuf,
    state: RwLock<State>,
}

#[derive(Debug)]
enum State {
    Open(Database),
    /// After a failure.
    Shut,
    /// For good.
    Closed,
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Redb(#[from] redb::Error),
    #[error("redb panicked: {0}")]
    Panic(String),
    #[error("it is closed")]
    Closed,
}

impl Table {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let database = file::open_or_create(path)?;
        Ok(Self { path: path.to_owned(), state: RwLock::new(State::Open(database)) })
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        self.with("read", |database| {
            let entries = database.begin_read()?.open_table(ENTRIES)?;
            Ok(entries.get(key)?.map(|value| value.value().to_vec()))
        })
    }

    pub(super) fn list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, Error> {
        self.with("read", |database| {
            let entries = database.begin_read()?.open_table(ENTRIES)?;
            let mut found = Vec::new();
            for entry in entries.range(prefix..)? {
                let (key, value) = entry?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                found.push((key.value().to_owned(), value.value().to_vec()));
            }
            Ok(found)
        })
    }

    /// Makes each transaction whose conditions hold after those before it; on disk are all of them or none.
    pub(super) fn commit(&self, transactions: &[Transaction]) -> Result<Vec<Outcome>, Error> {
        self.with("commit to", |database| commit(database, transactions))
    }

    /// Waits for those that use the file, and lets others have it.
    pub(super) fn close(&self) {
        self.leave(State::Closed);
    }

    /// As errors call it.
    pub(super) fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// An error that says what was tried.
    pub(super) fn failed(
        &self,
        operation: &'static str,
    ) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> Error {
        file::failed(operation, &self.path)
    }

    /// Works with the open file; opens it first after a failure, and closes it on one.
    pub(super) fn with<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, Error> {
        self.reopen()?;
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let result = match &*state {
            State::Open(database) => match catch_unwind(AssertUnwindSafe(|| work(database))) {
                Ok(result) => result.map_err(Failure::from),
                Err(panic) => Err(Failure::Panic(file::said(&*panic))),
            },
            State::Shut | State::Closed => Err(Failure::Closed),
        };
        drop(state);
        result.map_err(|cause| {
            if !matches!(cause, Failure::Closed) {
                self.leave(State::Shut);
            }
            self.failed(operation)(cause.into())
        })
    }

    fn reopen(&self) -> Result<(), Error> {
        if !matches!(*self.state.read().unwrap_or_else(PoisonError::into_inner), State::Shut) {
            return Ok(());
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have been here meanwhile.
        if matches!(*state, State::Shut) {
            *state = State::Open(file::open(&self.path)?);
        }
        Ok(())
    }

    fn leave(&self, next: State) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let State::Closed = *state {
            return;
        }
        let last = std::mem::replace(&mut *state, next);
        // redb writes while it closes. What it then fails to write it finds out when it opens the file.
        let _closed = catch_unwind(AssertUnwindSafe(|| drop(last)));
    }
}

/// In two phases, so that redb never takes the last commit for one that was interrupted, and goes back to the one before:
/// it would forget what was answered when a page of it is damaged.
fn commit(database: &Database, transactions: &[Transaction]) -> Result<Vec<Outcome>, redb::Error> {
    let mut write = database.begin_write()?;
    write.set_two_phase_commit(true);
    let mut entries = write.open_table(ENTRIES)?;
    let outcomes = transactions.iter().map(|transaction| make(&mut entries, transaction));
    let outcomes = outcomes.collect::<Result<Vec<_>, _>>()?;
    drop(entries);
    if changed(transactions, &outcomes) {
        write.commit()?
    } else {
        write.abort()?
    }
    Ok(outcomes)
}

/// Whether anything was written.
pub(super) fn changed(transactions: &[Transaction], outcomes: &[Outcome]) -> bool {
    let mut both = transactions.iter().zip(outcomes);
    both.any(|(transaction, outcome)| *outcome == Outcome::Committed && !transaction.writes.is_empty())
}

fn make(entries: &mut Entries<'_, &str, &[u8]>, transaction: &Transaction) -> Result<Outcome, redb::Error> {
    for (key, condition) in &transaction.conditions {
        let value = entries.get(key.as_str())?;
        let holds = match condition {
            Condition::Absent => value.is_none(),
            Condition::Is(expected) => value.is_some_and(|value| value.value() == expected),
        };
        if !holds {
            return Ok(Outcome::Conflict);
        }
    }
    for (key, value) in &transaction.writes {
        match value {
            Some(value) => drop(entries.insert(key.as_str(), value.as_slice())?),
            None => drop(entries.remove(key.as_str())?),
        }
    }
    Ok(Outcome::Committed)
}
