//! Keeping every workload's certificate fresh: the first before the agent serves, the next at half life.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rustls::crypto::CryptoProvider;
use time::OffsetDateTime;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::name::Identity;
use super::request::{Error, obtain};
use super::store::{Credentials, Store, Writer};
use super::tls::crypto_provider_for;
use crate::ca::Authority;
use crate::control::snapshot::Cipher;

/// Between attempts when the authority does not answer.
const RETRY: Duration = Duration::from_secs(10);
/// A clock that jumps, or a machine that slept, is noticed this soon.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Between two certificates of one identity. One whose issuer ends soon is short, and its half life may be over already.
const SHORTEST_PAUSE: Duration = Duration::from_secs(10);
/// Renewals are spread over this part of the lifetime, so that they do not come all at once.
const JITTER: f64 = 0.1;

/// When a certificate is renewed: at half of its life, moved by `jitter` in -1..=1 times a tenth of it.
fn renewal_at((not_before, not_after): (OffsetDateTime, OffsetDateTime), jitter: f64) -> OffsetDateTime {
    not_before + (not_after - not_before) * (0.5 + JITTER * jitter.clamp(-1.0, 1.0))
}

/// Issues the first certificate of every identity and starts renewing them until `stop`.
///
/// # Errors
///
/// [`Error`], when one of the first cannot be had.
pub async fn start(
    authority: Arc<dyn Authority>,
    identities: Vec<Identity>,
    cipher: Cipher,
    stop: CancellationToken,
) -> Result<Arc<Store>, Error> {
    let (writer, store) = Store::new();
    let mut rotation = Rotation { authority, writer, provider: crypto_provider_for(cipher), plans: HashMap::new() };
    for identity in identities {
        rotation.renew(identity).await?;
    }
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = rotation.run() => {}
        }
    });
    Ok(Arc::new(store))
}

/// The one writer of the store.
struct Rotation {
    authority: Arc<dyn Authority>,
    writer: Writer,
    provider: Arc<CryptoProvider>,
    /// When each identity's turn comes.
    plans: HashMap<Identity, OffsetDateTime>,
}

impl Rotation {
    async fn run(mut self) {
        loop {
            let now = OffsetDateTime::now_utc();
            let due: Vec<Identity> =
                self.plans.iter().filter(|(_, at)| **at <= now).map(|(identity, _)| identity.clone()).collect();
            for identity in due {
                if let Err(error) = self.renew(identity.clone()).await {
                    // The old one stays in use as long as it is valid.
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(%error, cause, "certificate not renewed; trying again");
                    self.plans.insert(identity, now + RETRY);
                }
            }
            sleep(self.wait(OffsetDateTime::now_utc())).await;
        }
    }

    /// Until the next turn. The wall clock may jump, so it is looked at again now and then.
    fn wait(&self, now: OffsetDateTime) -> Duration {
        let next = self.plans.values().min().map(|at| *at - now);
        next.map_or(LONGEST_WAIT, |wait| Duration::try_from(wait).unwrap_or(Duration::ZERO)).min(LONGEST_WAIT)
    }

    async fn renew(&mut self, identity: Identity) -> Result<(), Error> {
        let authority = Arc::clone(&self.authority);
        let now = OffsetDateTime::now_utc();
        let (wanted, provider) = (identity.clone(), Arc::clone(&self.provider));
        let obtained = spawn_blocking(move || obtain(&*authority, (&wanted, &provider), now)).await;
        let credentials = match obtained {
            Ok(result) => result?,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        };
        let jitter = rand::rng().random_range(-1.0..=1.0);
        let next = renewal_at((credentials.not_before, credentials.not_after), jitter).max(now + SHORTEST_PAUSE);
        tracing::info!(%identity, serial = %credentials.serial, expires = %credentials.not_after, "certificate issued");
        self.publish(credentials);
        self.plans.insert(identity, next);
        Ok(())
    }

    fn publish(&self, credentials: Credentials) {
        self.writer.send_modify(|current| {
            Arc::make_mut(current).insert(credentials.identity.clone(), Arc::new(credentials));
        });
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn renewal_is_at_half_life_give_or_take_a_tenth() {
        let life = (datetime!(2026-01-01 00:00 UTC), datetime!(2026-01-01 01:00 UTC));
        assert_eq!(renewal_at(life, 0.0), datetime!(2026-01-01 00:30 UTC));
        assert_eq!(renewal_at(life, 1.0), datetime!(2026-01-01 00:36 UTC));
        assert_eq!(renewal_at(life, -1.0), datetime!(2026-01-01 00:24 UTC));
        assert_eq!(renewal_at(life, 9.0), datetime!(2026-01-01 00:36 UTC));
    }
}
