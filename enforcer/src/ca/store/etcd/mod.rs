//! The store that replicas of control share: a range of keys in etcd (v3 API, version 3.4 or newer).
//!
//! [`Etcd`] is what others see of it. `config` says where it is and reaches it; `call` gives every request a deadline and
//! knows which ones may be repeated; `changes` follows the watch. Everything is read and written through etcd's
//! consensus, so replicas never see an older state than one that was answered before.
//!
//! What it promises: no call takes longer than [`ANSWERED_WITHIN`] ([`LISTED_WITHIN`] for a list), whatever becomes of
//! etcd; when etcd is there again everything works again. A commit whose answer was lost is [`Error::Unanswered`].
//! What it does not: etcd's own history is etcd's to compact (`--auto-compaction-retention`).

mod call;
mod changes;
mod config;

use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, GetOptions, GetResponse, Txn, TxnOp};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use self::call::{Calls, Failure};
pub use self::config::{Config, LONGEST_PREFIX, Tls, User};
use super::{Condition, Error, LONGEST_KEY, LONGEST_VALUE, Outcome, Pending, Store, Transaction};

/// How long a request may take.
pub const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
/// How long a list may take, which is as many requests as it has pages.
pub const LISTED_WITHIN: Duration = Duration::from_secs(30);

/// Keys in one answer to a list.
const PAGE: usize = 100;
/// The longest answer, in octets: a page of the longest values, and what the encoding adds to each.
const LARGEST_ANSWER: usize = PAGE * (LONGEST_VALUE + LONGEST_KEY + LONGEST_PREFIX + 64);

/// A range of keys in etcd.
///
/// It must be made and used within a tokio runtime. Dropping it ends its watch.
#[derive(Debug)]
pub struct Etcd {
    calls: Calls,
    /// What etcd's keys begin with; ours follow.
    prefix: String,
    changes: watch::Sender<u64>,
    _following: AbortOnDropHandle<()>,
}

impl Etcd {
    /// Reaches etcd, and reads from it once.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`], when the configuration cannot be right, a file cannot be read, or etcd does not answer.
    pub async fn connect(config: Config) -> Result<Self, Error> {
        let name = config.name();
        let failed = |operation, cause| Error::Failed { operation, store: name.clone(), cause };
        let prefix = config.prefix().map_err(|cause| failed("configure", cause.into()))?;
        let options = config.options().map_err(|cause| failed("configure", cause.into()))?;
        let connecting = Client::connect(&config.endpoints, Some(options));
        let client = match timeout_at(Instant::now() + ANSWERED_WITHIN, connecting).await {
            Ok(client) => client.map_err(|cause| failed("connect to", call::cause(cause)))?,
            Err(_elapsed) => return Err(failed("connect to", call::late(ANSWERED_WITHIN))),
        };
        let calls = Calls::new(name.clone(), client.kv_client().max_decoding_message_size(LARGEST_ANSWER));
        let one = GetOptions::new().with_prefix().with_limit(1).with_keys_only();
        let looking = calls.read(|mut client| {
            let (prefix, one) = (prefix.clone(), one.clone());
            async move { client.get(prefix, Some(one)).await }
        });
        looking.await.map_err(|failure| calls.error("connect to", failure))?;
        let (changes, _) = watch::channel(0);
        let following = changes::follow(name, client, prefix.clone(), changes.clone());
        let following = AbortOnDropHandle::new(tokio::spawn(following));
        Ok(Self { calls, prefix, changes, _following: following })
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// One page of a list: from a key of etcd's on, as it was at a revision (0: now).
    async fn page(&self, from: &[u8], end: &[u8], revision: i64) -> Result<GetResponse, Failure> {
        let options = GetOptions::new().with_range(end).with_limit(PAGE as i64).with_revision(revision);
        let reading = self.calls.read(|mut client| {
            let (from, options) = (from.to_vec(), options.clone());
            async move { client.get(from, Some(options)).await }
        });
        reading.await
    }

    /// All pages, as of one revision.
    async fn pages(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, Failure> {
        let mut from = self.key(prefix).into_bytes();
        let end = after(&from);
        let mut revision = 0;
        let mut found = Vec::new();
        loop {
            let mut page = self.page(&from, &end, revision).await?;
            // Without the header the next page would be of another revision.
            let header = page.header().map(etcd_client::ResponseHeader::revision);
            let more = page.more();
            for entry in page.take_kvs() {
                let (key, value) = entry.into_key_value();
                from = key;
                let text = str::from_utf8(&from).ok().and_then(|key| key.strip_prefix(&self.prefix));
                let text = text.ok_or_else(|| Failure::Refused("it has a key that is not text".into()))?;
                found.push((text.to_owned(), value));
            }
            if !more {
                return Ok(found);
            }
            if revision == 0 {
                revision = header.ok_or_else(|| Failure::Refused("an answer without a revision".into()))?;
            }
            from.push(0);
        }
    }

    /// Begins again when etcd has meanwhile compacted the revision in which the list began.
    async fn listed(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, Failure> {
        loop {
            match self.pages(prefix).await {
                Err(failure) if failure.is_compacted() => {}
                result => return result,
            }
        }
    }

    fn encoded(&self, transaction: Transaction) -> Txn {
        let conditions = transaction.conditions.into_iter().map(|(key, condition)| match condition {
            Condition::Absent => Compare::version(self.key(&key), CompareOp::Equal, 0),
            Condition::Is(value) => Compare::value(self.key(&key), CompareOp::Equal, value),
        });
        let writes = transaction.writes.into_iter().map(|(key, value)| match value {
            Some(value) => TxnOp::put(self.key(&key), value, None),
            None => TxnOp::delete(self.key(&key), None),
        });
        Txn::new().when(conditions.collect::<Vec<_>>()).and_then(writes.collect::<Vec<_>>())
    }
}

impl Store for Etcd {
    fn get(&self, key: &str) -> Pending<'_, Option<Vec<u8>>> {
        let checked = super::check_key(key);
        let key = self.key(key);
        Box::pin(async move {
            checked?;
            let reading = self.calls.read(|mut client| {
                let key = key.clone();
                async move { client.get(key, None).await }
            });
            let mut answer = reading.await.map_err(|failure| self.calls.error("read", failure))?;
            Ok(answer.take_kvs().pop().map(|entry| entry.into_key_value().1))
        })
    }

    fn list(&self, prefix: &str) -> Pending<'_, Vec<(String, Vec<u8>)>> {
        let prefix = prefix.to_owned();
        Box::pin(async move {
            super::check_prefix(&prefix)?;
            let listing = timeout_at(Instant::now() + LISTED_WITHIN, self.listed(&prefix)).await;
            let listed = listing.unwrap_or_else(|_elapsed| Err(Failure::Lost(call::late(LISTED_WITHIN))));
            listed.map_err(|failure| self.calls.error("list", failure))
        })
    }

    fn commit(&self, transaction: Transaction) -> Pending<'_, Outcome> {
        Box::pin(async move {
            transaction.check()?;
            let changes = !transaction.writes.is_empty();
            let transaction = self.encoded(transaction);
            let writing = self.calls.write(|mut client| {
                let transaction = transaction.clone();
                async move { client.txn(transaction).await }
            });
            let made = writing.await.map_err(|failure| self.calls.unanswered(failure))?;
            if !made.succeeded() {
                return Ok(Outcome::Conflict);
            }
            // The watch may be interrupted just now.
            if changes {
                self.changes.send_modify(|count| *count += 1);
            }
            Ok(Outcome::Committed)
        })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// The first key after all that begin with this one. It is ASCII, so its last octet can be counted up.
fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}
