//! What everybody is told, made once for all who listen: again after each change in the store, and before the
//! revocation lists run out, by the clock that everybody judges them by.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::sleep;

use super::super::domain::{Domain, Error, Trust};

/// Between attempts when the store does not answer.
const RETRY: Duration = Duration::from_secs(1);
/// A clock that jumps, or a machine that slept, is noticed this soon.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Makes what everybody is told and starts keeping it fresh, as long as somebody listens.
pub(super) async fn start(domain: Arc<Domain>) -> Result<watch::Receiver<Arc<Trust>>, Error> {
    let (sender, receiver) = watch::channel(Arc::new(domain.trust().await?));
    tokio::spawn(keep(domain, sender));
    Ok(receiver)
}

async fn keep(domain: Arc<Domain>, told: watch::Sender<Arc<Trust>>) {
    let mut changes = domain.store().changes();
    let life = domain.terms().list / 2;
    let mut made = OffsetDateTime::now_utc();
    loop {
        let wait = until_due(made, life, OffsetDateTime::now_utc()).min(LONGEST_WAIT);
        let changed = tokio::select! {
            biased;
            () = told.closed() => return,
            changed = changes.changed() => changed.is_ok(),
            () = sleep(wait) => true,
        };
        if !changed {
            // The store has stopped counting, which it does only when it is gone.
            return;
        }
        let now = OffsetDateTime::now_utc();
        match renew(&domain, &told, until_due(made, life, now).is_zero()).await {
            Ok(true) => made = now,
            Ok(false) => {}
            Err(error) => {
                tracing::error!(%error, "revocation lists not made; trying again");
                sleep(RETRY).await;
                made = OffsetDateTime::UNIX_EPOCH;
            }
        }
    }
}

/// How long lists that were made then are still good to tell; those that are from the future are not.
fn until_due(made: OffsetDateTime, life: time::Duration, now: OffsetDateTime) -> Duration {
    if now < made { Duration::ZERO } else { Duration::try_from(made + life - now).unwrap_or_default() }
}

/// Whether there was a reason to make it anew.
async fn renew(domain: &Domain, told: &watch::Sender<Arc<Trust>>, is_due: bool) -> Result<bool, Error> {
    // Most changes of the store are certificates that were issued.
    if !is_due && domain.version().await? == told.borrow().version {
        return Ok(false);
    }
    let trust = domain.trust().await?;
    told.send_replace(Arc::new(trust));
    Ok(true)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn lists_are_made_anew_at_half_life_and_when_the_clock_was_set() {
        let made = datetime!(2026-01-01 00:00 UTC);
        let due = |now| until_due(made, time::Duration::HOUR, now);
        assert_eq!(due(made), Duration::from_secs(3600));
        assert_eq!(due(made + time::Duration::minutes(59)), Duration::from_secs(60));
        assert_eq!(due(made + time::Duration::HOUR), Duration::ZERO);
        assert_eq!(due(made + time::Duration::WEEK), Duration::ZERO);
        assert_eq!(due(made - time::Duration::SECOND), Duration::ZERO);
    }
}
