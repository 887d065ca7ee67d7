//! What an authority must not forget: a small table of keys and values that changes in transactions.
//!
//! [`Store`] is all that the rest of the authority knows of it: several replicas of control may share one, so nothing is
//! remembered beside it, and whoever writes says what must hold for the write to count. `embedded` is one file on this
//! host; `etcd` is shared by replicas. What was committed is on disk before [`Store::commit`] returns, and a process
//! that is killed at any moment leaves each transaction whole or not at all.
//!
//! An error from a commit is no answer. With [`Error::Unanswered`] the transaction may have been made, or may be made a
//! little later; with all others it is not. So whatever is written needs a condition on itself: then it is safe to try
//! again, which meets [`Outcome::Conflict`] if the first one was made, and keeps it from being made later.

pub mod embedded;
pub mod etcd;
#[cfg(test)]
pub(crate) mod memory;

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;

use tokio::sync::watch;

/// An answer that a store is asked for.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// The longest key, in octets. Keys are printable ASCII, `journal/4f02...`.
pub const LONGEST_KEY: usize = 512;
/// The longest value, in octets.
pub const LONGEST_VALUE: usize = 512 * 1024;
/// The most conditions and the most writes of one transaction.
pub const MOST_CHANGES: usize = 100;
/// The most octets of all keys and values in one transaction, conditions included. The longest value can be replaced by
/// another; etcd refuses requests of more than 1.5 MiB.
pub const LARGEST_TRANSACTION: usize = 2 * LONGEST_VALUE + 256 * 1024;

/// A table of keys and values.
pub trait Store: Send + Sync {
    /// The value of a key.
    fn get(&self, key: &str) -> Pending<'_, Option<Vec<u8>>>;

    /// All keys that begin with `prefix`, in order, with their values.
    fn list(&self, prefix: &str) -> Pending<'_, Vec<(String, Vec<u8>)>>;

    /// Makes all changes of a transaction if all its conditions hold, and none otherwise.
    fn commit(&self, transaction: Transaction) -> Pending<'_, Outcome>;

    /// Counts up after each change, whoever made it: this process within milliseconds, another replica within a second.
    /// A count may stand for several changes, and may come without one.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// Changes that belong together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// What must hold.
    pub conditions: Vec<(String, Condition)>,
    /// What is written; `None` removes the key. No key occurs twice.
    pub writes: Vec<(String, Option<Vec<u8>>)>,
}

/// What must hold of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It is not there.
    Absent,
    /// It has exactly this value.
    Is(Vec<u8>),
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Its changes are made.
    Committed,
    /// A condition did not hold; nothing was changed.
    Conflict,
}

/// A store cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has it open.
    #[error("open {store}: another process has it open; stop it first")]
    InUse {
        /// Which.
        store: String,
    },
    /// It is damaged, or no store at all.
    #[error("{store} is damaged or no store: {why}; restore it from a copy, or move it away to begin anew")]
    Damaged {
        /// Which.
        store: String,
        /// What is wrong.
        why: String,
    },
    /// What was to be written exceeds a limit.
    #[error("{what} exceeds a limit of the store")]
    TooLarge {
        /// What does.
        what: String,
    },
    /// A key cannot be one, or occurs twice among what a transaction writes.
    #[error("key {key:?} {why}")]
    Key {
        /// The key.
        key: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Nobody knows whether the transaction was made, or will be: the answer was lost, or the request is on its way.
    #[error("commit to {store}: no answer, it may have been made or not")]
    Unanswered {
        /// Which.
        store: String,
        /// Why there is no answer.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The operation failed.
    #[error("{operation} {store}")]
    Failed {
        /// What was tried.
        operation: &'static str,
        /// With which.
        store: String,
        /// Why.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Transaction {
    /// No conditions and no changes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the key's absence a condition, and writes it.
    #[must_use]
    pub fn create(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        let key = key.into();
        self.conditions.push((key.clone(), Condition::Absent));
        self.writes.push((key, Some(value.into())));
        self
    }

    /// Makes the key's value a condition, and writes another.
    #[must_use]
    pub fn replace(mut self, key: impl Into<String>, old: Option<Vec<u8>>, new: Option<Vec<u8>>) -> Self {
        let key = key.into();
        self.conditions.push((key.clone(), old.map_or(Condition::Absent, Condition::Is)));
        self.writes.push((key, new));
        self
    }

    /// Writes a key, whatever it was.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.writes.push((key.into(), Some(value.into())));
        self
    }

    /// Removes a key, whatever it was.
    #[must_use]
    pub fn remove(mut self, key: impl Into<String>) -> Self {
        self.writes.push((key.into(), None));
        self
    }

    /// Whether the limits are kept, which are the same for every store.
    fn check(&self) -> Result<(), Error> {
        let Self { conditions, writes } = self;
        if conditions.len() > MOST_CHANGES || writes.len() > MOST_CHANGES {
            let (conditions, writes) = (conditions.len(), writes.len());
            return Err(Error::TooLarge {
                what: format!("a transaction of {conditions} conditions and {writes} writes"),
            });
        }
        let expected = conditions.iter().map(|(key, condition)| match condition {
            Condition::Absent => (key, 0),
            Condition::Is(value) => (key, value.len()),
        });
        let written = writes.iter().map(|(key, value)| (key, value.as_ref().map_or(0, Vec::len)));
        let mut octets = 0;
        for (key, length) in expected.chain(written) {
            check_key(key)?;
            if length > LONGEST_VALUE {
                return Err(Error::TooLarge { what: format!("the value of {key} with {length} octets") });
            }
            octets += key.len() + length;
        }
        if octets > LARGEST_TRANSACTION {
            return Err(Error::TooLarge { what: format!("a transaction of {octets} octets") });
        }
        let mut keys = HashSet::new();
        match writes.iter().find(|(key, _)| !keys.insert(key)) {
            Some((key, _)) => Err(Error::Key { key: key.clone(), why: "is written twice in one transaction" }),
            None => Ok(()),
        }
    }
}

fn check_key(key: &str) -> Result<(), Error> {
    if key.is_empty() {
        return Err(Error::Key { key: String::new(), why: "is empty" });
    }
    check_prefix(key)
}

/// The empty one is that of all keys.
fn check_prefix(prefix: &str) -> Result<(), Error> {
    if prefix.len() > LONGEST_KEY {
        return Err(Error::TooLarge { what: format!("a key of {} octets", prefix.len()) });
    }
    if !prefix.bytes().all(|octet| octet.is_ascii_graphic()) {
        return Err(Error::Key { key: prefix.to_owned(), why: "is not printable ASCII" });
    }
    Ok(())
}
