//! Keys in the authority's store, encrypted under a passphrase: each a value under `key/LABEL`.
//!
//! `blob` is what such a value looks like and how it is encrypted; `pair` is a key that has been decrypted. Whoever has
//! the store and not the passphrase can do nothing but try passphrases, at 64 MiB and three passes of argon2id each.
//! Whoever can write the store can remove keys, but neither exchange them nor move one under another label.
//!
//! A key that has been opened is in this process's memory until its last [`Key`] is dropped, and is wiped then.

mod blob;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod pair;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::{Algorithm, Error as KeysError, Key, Keys, Passphrase, Pending, check_label, on_thread};
use crate::ca::store::{Outcome, Store, Transaction};
use blob::Cost;
use pair::Pair;

/// Where messages say that keys are.
const PLACE: &str = "the authority's store";

/// A sealed key cannot be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The two cannot be told apart.
    #[error(
        "decrypt key {label}: wrong passphrase, or the key is damaged; give the passphrase that it was made with, or \
             restore {PLACE} from a copy"
    )]
    Passphrase {
        /// Which.
        label: String,
    },
    /// What is stored is no sealed key.
    #[error("sealed key {label} is damaged: {why}; restore {PLACE} from a copy")]
    Damaged {
        /// Which.
        label: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The cryptographic library refuses, for want of memory or of random numbers.
    #[error("{operation} for key {label}: not enough memory, or no random numbers")]
    Crypto {
        /// What was tried.
        operation: &'static str,
        /// Which.
        label: String,
    },
}

/// The sealed keys of a store.
pub struct Sealed {
    store: Arc<dyn Store>,
    passphrase: Arc<Passphrase>,
    cost: Cost,
    /// Deriving a key takes much memory: only one is derived at a time.
    turn: Arc<Semaphore>,
}

impl Sealed {
    /// Keys that are encrypted under a passphrase. It is tried when a key is opened.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, passphrase: Passphrase) -> Self {
        Self { store, passphrase: Arc::new(passphrase), cost: Cost::DEFAULT, turn: Arc::new(Semaphore::new(1)) }
    }

    async fn make(&self, label: &str, algorithm: Algorithm) -> Result<Key, KeysError> {
        check_label(label)?;
        let exists = || KeysError::Exists { label: label.to_owned(), place: PLACE.to_owned() };
        if self.store.get(&name(label)).await?.is_some() {
            return Err(exists());
        }
        let cost = self.cost;
        let (pair, blob) = self
            .in_turn(label, move |label, passphrase| {
                let (pair, plain) = Pair::generate(label, algorithm)?;
                let blob = blob::seal(label, algorithm, plain, passphrase, cost)?;
                Ok((pair, blob))
            })
            .await?;
        match self.store.commit(Transaction::new().create(name(label), blob)).await? {
            Outcome::Committed => Ok(Key::new(pair)),
            Outcome::Conflict => Err(exists()),
        }
    }

    async fn find(&self, label: &str) -> Result<Key, KeysError> {
        check_label(label)?;
        let Some(blob) = self.store.get(&name(label)).await? else {
            return Err(KeysError::Missing { label: label.to_owned(), place: PLACE.to_owned() });
        };
        self.in_turn(label, move |label, passphrase| {
            let (algorithm, plain) = blob::open(label, blob, passphrase)?;
            Ok(Key::new(Pair::read(label, algorithm, &plain)?))
        })
        .await
    }

    async fn remove(&self, label: &str) -> Result<(), KeysError> {
        check_label(label)?;
        // Without a condition there is no conflict.
        let _committed = self.store.commit(Transaction::new().remove(name(label))).await?;
        Ok(())
    }

    /// Work that derives a key.
    async fn in_turn<T: Send + 'static>(
        &self,
        label: &str,
        work: impl FnOnce(&str, &Passphrase) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, KeysError> {
        // It is never closed, so there is always a permit; the work keeps it, even if nobody waits for its end.
        let permit = Arc::clone(&self.turn).acquire_owned().await.ok();
        let (owned, passphrase) = (label.to_owned(), Arc::clone(&self.passphrase));
        on_thread(format!("key {label}"), move || {
            let _permit = permit;
            Ok(work(&owned, &passphrase)?)
        })
        .await
    }
}

impl Keys for Sealed {
    fn generate(&self, label: &str, algorithm: Algorithm) -> Pending<'_, Key> {
        let label = label.to_owned();
        Box::pin(async move { self.make(&label, algorithm).await })
    }

    fn open(&self, label: &str) -> Pending<'_, Key> {
        let label = label.to_owned();
        Box::pin(async move { self.find(&label).await })
    }

    fn destroy(&self, label: &str) -> Pending<'_, ()> {
        let label = label.to_owned();
        Box::pin(async move { self.remove(&label).await })
    }
}

/// The key of the store's table.
fn name(label: &str) -> String {
    format!("key/{label}")
}
