//! Following what changes, whoever changes it.
//!
//! The watch begins with what is now, so nothing that etcd has compacted is ever asked for. Whenever it has begun, the
//! count goes up once: something may have changed while nobody looked.

use std::time::Duration;

use etcd_client::{Client, Error as Refusal, WatchOptions, WatchStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::ANSWERED_WITHIN;

/// Before the watch is begun again: at first, and at most. A replica is to hear of a change within a second.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(800);

/// Why there is no watch.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("no answer within {ANSWERED_WITHIN:?}")]
    Late,
    #[error("etcd ended it: {0}")]
    Cancelled(String),
    #[error("etcd closed it")]
    Closed,
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Counts up after each change until it is dropped.
pub(super) async fn follow(store: String, client: Client, prefix: String, changes: watch::Sender<u64>) {
    let mut pause = SHORTEST_PAUSE;
    loop {
        let lost = match begin(&client, &prefix).await {
            Ok(stream) => {
                pause = SHORTEST_PAUSE;
                tracing::debug!(store, "watching");
                count(&changes);
                count_all(stream, &changes).await
            }
            Err(lost) => lost,
        };
        tracing::warn!(store, cause = %lost, "watch interrupted, beginning again");
        // The reason may be that etcd does not know our token any more, which is forgotten when a member starts. For a
        // watch it does not say so in a way that makes etcd-client ask for another one.
        if let Lost::Cancelled(_) = lost
            && let Ok(Err(cause)) = timeout(ANSWERED_WITHIN, client.refresh_token()).await
        {
            tracing::debug!(store, %cause, "no new token");
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A watch that etcd has confirmed.
async fn begin(client: &Client, prefix: &str) -> Result<WatchStream, Lost> {
    let begun = timeout(ANSWERED_WITHIN, async {
        // In fragments, because a transaction may be longer than the longest message.
        let options = WatchOptions::new().with_prefix().with_fragment();
        let mut stream = client.watch_client().watch(prefix, Some(options)).await?;
        loop {
            let answer = stream.message().await?.ok_or(Lost::Closed)?;
            if answer.canceled() {
                return Err(Lost::Cancelled(answer.cancel_reason().to_owned()));
            }
            if answer.created() {
                return Ok(stream);
            }
        }
    });
    begun.await.unwrap_or(Err(Lost::Late))
}

async fn count_all(mut stream: WatchStream, changes: &watch::Sender<u64>) -> Lost {
    loop {
        match stream.message().await {
            // Also when this watch is so far behind that etcd has compacted what comes next.
            Ok(Some(answer)) if answer.canceled() => return Lost::Cancelled(answer.cancel_reason().to_owned()),
            Ok(Some(answer)) if answer.events().is_empty() => {}
            Ok(Some(_)) => count(changes),
            Ok(None) => return Lost::Closed,
            Err(cause) => return cause.into(),
        }
    }
}

fn count(changes: &watch::Sender<u64>) {
    changes.send_modify(|count| *count += 1);
}
