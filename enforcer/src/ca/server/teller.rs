//! What everybody is told, made once for all who listen: again after each change in the store, and before the
//! revocation lists run out.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::super::domain::{Domain, Error, Trust};

/// Between attempts when the store does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// Makes what everybody is told and starts keeping it fresh, as long as somebody listens.
pub(super) async fn start(domain: Arc<Domain>) -> Result<watch::Receiver<Arc<Trust>>, Error> {
    let (sender, receiver) = watch::channel(Arc::new(domain.trust().await?));
    tokio::spawn(keep(domain, sender));
    Ok(receiver)
}

async fn keep(domain: Arc<Domain>, told: watch::Sender<Arc<Trust>>) {
    let mut changes = domain.store().changes();
    let list = Duration::try_from(domain.terms().list).unwrap_or(RETRY);
    let mut fresh_until = Instant::now() + list / 2;
    loop {
        let changed = tokio::select! {
            biased;
            () = told.closed() => return,
            changed = changes.changed() => changed.is_ok(),
            () = sleep_until(fresh_until) => true,
        };
        if !changed {
            // The store has stopped counting, which it does only when it is gone.
            return;
        }
        match renew(&domain, &told, fresh_until <= Instant::now()).await {
            Ok(true) => fresh_until = Instant::now() + list / 2,
            Ok(false) => {}
            Err(error) => {
                tracing::error!(%error, "revocation lists not made; trying again");
                tokio::time::sleep(RETRY).await;
                fresh_until = Instant::now();
            }
        }
    }
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
