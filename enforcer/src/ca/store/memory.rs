//! A store for tests: in memory, honest about conditions and limits.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::{Condition, Error, LONGEST_KEY, LONGEST_VALUE, MOST_CHANGES, Outcome, Pending, Store, Transaction};

/// A table that ends with the process.
pub(crate) struct Memory {
    table: Mutex<BTreeMap<String, Vec<u8>>>,
    changes: watch::Sender<u64>,
}

impl Default for Memory {
    fn default() -> Self {
        Self { table: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

impl Memory {
    fn table(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, transaction: Transaction) -> Result<Outcome, Error> {
        check(&transaction)?;
        let mut table = self.table();
        let holds = |(key, condition): &(String, Condition)| match (condition, table.get(key)) {
            (Condition::Absent, found) => found.is_none(),
            (Condition::Is(value), found) => found == Some(value),
        };
        if !transaction.conditions.iter().all(holds) {
            return Ok(Outcome::Conflict);
        }
        for (key, value) in transaction.writes {
            let _before = match value {
                Some(value) => table.insert(key, value),
                None => table.remove(&key),
            };
        }
        drop(table);
        self.changes.send_modify(|count| *count += 1);
        Ok(Outcome::Committed)
    }
}

impl Store for Memory {
    fn get(&self, key: &str) -> Pending<'_, Option<Vec<u8>>> {
        let value = self.table().get(key).cloned();
        Box::pin(async { Ok(value) })
    }

    fn list(&self, prefix: &str) -> Pending<'_, Vec<(String, Vec<u8>)>> {
        let table = self.table();
        let found = table.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        let found = found.map(|(key, value)| (key.clone(), value.clone())).collect();
        Box::pin(async { Ok(found) })
    }

    fn commit(&self, transaction: Transaction) -> Pending<'_, Outcome> {
        Box::pin(async { self.change(transaction) })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

fn check(transaction: &Transaction) -> Result<(), Error> {
    let too_large = |what: &str| Err(Error::TooLarge { what: what.to_owned() });
    if transaction.conditions.len() > MOST_CHANGES || transaction.writes.len() > MOST_CHANGES {
        return too_large("a transaction");
    }
    let conditions = transaction.conditions.iter().map(|(key, _)| key);
    if conditions.chain(transaction.writes.iter().map(|(key, _)| key)).any(|key| key.len() > LONGEST_KEY) {
        return too_large("a key");
    }
    if transaction.writes.iter().flat_map(|(_, value)| value).any(|value| value.len() > LONGEST_VALUE) {
        return too_large("a value");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_of_a_transaction_or_nothing() {
        let store = Memory::default();
        let changes = store.changes();
        let both = || Transaction::new().create("a/1", "x").put("a/2", "y");
        assert_eq!(store.commit(both()).await.unwrap(), Outcome::Committed);
        assert_eq!(store.commit(both().put("b", "z")).await.unwrap(), Outcome::Conflict);
        assert_eq!(store.get("b").await.unwrap(), None);
        let replace = |old: &[u8]| Transaction::new().replace("a/1", Some(old.to_vec()), None);
        assert_eq!(store.commit(replace(b"y")).await.unwrap(), Outcome::Conflict);
        assert_eq!(store.commit(replace(b"x")).await.unwrap(), Outcome::Committed);
        assert_eq!(store.list("a/").await.unwrap(), [("a/2".to_owned(), b"y".to_vec())]);
        assert_eq!(*changes.borrow(), 2);
        let long = Transaction::new().put("k", vec![0; LONGEST_VALUE + 1]);
        assert!(matches!(store.commit(long).await, Err(Error::TooLarge { .. })));
    }
}
