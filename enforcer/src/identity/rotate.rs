//! Keeping every workload's certificate fresh: the first before the agent serves, the next at half life, at once when the
//! authority asks for it or has revoked one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rustls::crypto::CryptoProvider;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Serial;
use super::name::Identity;
use super::request::{Error, obtain};
use super::roster::{Roster, Watched};
use super::source::Source;
use super::store::{Credentials, Held, Store, Writer};
use super::tls::crypto_provider_for;
use crate::control::snapshot::Cipher;

/// Between the first two attempts when there is no certificate to be had. It doubles with each.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Between two attempts at most.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// A clock that jumps, or a machine that slept, is noticed this soon.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Between two certificates of one identity. One whose issuer ends soon is short, and its half life may be over already.
const SHORTEST_PAUSE: Duration = Duration::from_secs(10);
/// When all certificates are to be renewed, a node begins within this.
const SPREAD: Duration = Duration::from_secs(5);
/// No handshake takes longer, so after this none goes on with a certificate that has been replaced.
const SETTLED: Duration = Duration::from_secs(6);
/// Renewals are spread over this part of the lifetime, so that they do not come all at once.
const JITTER: f64 = 0.1;

/// When a certificate is renewed: at half of its life, moved by `jitter` in -1..=1 times a tenth of it.
#[must_use]
pub(crate) fn renewal_at((not_before, not_after): (OffsetDateTime, OffsetDateTime), jitter: f64) -> OffsetDateTime {
    not_before + (not_after - not_before) * (0.5 + JITTER * jitter.clamp(-1.0, 1.0))
}

/// Between attempts, after so many that failed: longer each time, and never quite the same on two nodes. `jitter` is in
/// 0..=1.
#[must_use]
pub(crate) fn pause(failures: u32, jitter: f64) -> Duration {
    backoff((FIRST_RETRY, LONGEST_RETRY), failures, jitter)
}

/// From `first`, twice as long after each failure, to `longest`; half of that at least, by `jitter` in 0..=1.
pub(super) fn backoff((first, longest): (Duration, Duration), failures: u32, jitter: f64) -> Duration {
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(longest).mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

/// When a certificate that has just come is renewed: at half of what it has left. Its validity began in the past, for the sake of
/// clocks that are slow; half of a short one would be over already.
pub(super) fn next_renewal(
    (not_before, not_after): (OffsetDateTime, OffsetDateTime),
    now: OffsetDateTime,
) -> OffsetDateTime {
    let jitter = rand::rng().random_range(-1.0..=1.0);
    renewal_at((not_before.max(now), not_after), jitter).max(now + SHORTEST_PAUSE)
}

/// When it is tried again after so many failures.
pub(super) fn next_attempt(failures: u32, now: OffsetDateTime) -> OffsetDateTime {
    now + pause(failures, rand::rng().random_range(0.0..=1.0))
}

/// When a node begins to renew what all nodes are to renew.
pub(super) fn in_turn(now: OffsetDateTime) -> OffsetDateTime {
    now + SPREAD.mul_f64(rand::rng().random_range(0.0..=1.0))
}

/// How long to sleep until then. The wall clock may jump, so it is looked at again now and then.
pub(super) fn wait_until(then: Option<OffsetDateTime>, now: OffsetDateTime) -> Duration {
    then.map_or(LONGEST_WAIT, |then| Duration::try_from(then - now).unwrap_or(Duration::ZERO)).min(LONGEST_WAIT)
}

/// Has the first certificate of every identity issued and starts renewing them until `stop`. Those that could not be had
/// are told, and tried again. Who joins the roster later is issued one at once, and who leaves it has none any more.
pub async fn start(
    source: Arc<dyn Source>,
    roster: &Roster,
    cipher: Cipher,
    stop: CancellationToken,
) -> (Arc<Store>, Vec<Error>) {
    let (writer, store) = Store::new();
    let issuer = source.trusted().current().issuer.clone();
    let mut rotation = Rotation {
        source,
        writer,
        issuer,
        settling: None,
        provider: crypto_provider_for(cipher),
        roster: roster.watch(),
        plans: HashMap::new(),
    };
    let mut missing = Vec::new();
    for identity in rotation.roster.current() {
        missing.extend(rotation.renew(identity).await.err());
    }
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = rotation.run() => {}
        }
    });
    (Arc::new(store), missing)
}

/// Returns when handshakes that began before `since` are over; never, if there is nothing to wait for.
async fn settled(since: Option<Instant>) {
    match since {
        Some(since) => sleep_until(since + SETTLED).await,
        None => std::future::pending().await,
    }
}

/// The one writer of the store.
struct Rotation {
    source: Arc<dyn Source>,
    writer: Writer,
    provider: Arc<CryptoProvider>,
    /// Who issues, as it was told before the first certificate.
    issuer: String,
    /// The authority that every certificate in use is of, and since when.
    settling: Option<(String, Instant)>,
    /// Whose certificates these are.
    roster: Watched,
    /// When each identity's turn comes.
    plans: HashMap<Identity, Plan>,
}

#[derive(Clone, Copy)]
struct Plan {
    at: OffsetDateTime,
    /// Attempts that failed since the last certificate.
    failures: u32,
}

impl Rotation {
    async fn run(mut self) {
        let mut trusted = self.source.trusted();
        loop {
            let now = OffsetDateTime::now_utc();
            let due = self.plans.iter().filter(|(_, plan)| plan.at <= now);
            let due: Vec<Identity> = due.map(|(identity, _)| identity.clone()).collect();
            for identity in due {
                if let Err(error) = self.renew(identity).await {
                    // The old one stays in use as long as it is valid.
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(%error, cause, "certificate not renewed; trying again");
                }
            }
            tokio::select! {
                biased;
                () = trusted.changed() => {
                    let trust = trusted.current();
                    self.drop_revoked(|serial| trust.revokes(serial));
                    if trust.issuer != self.issuer {
                        self.issuer.clone_from(&trust.issuer);
                        self.renew_all();
                    }
                }
                () = self.roster.changed() => self.follow_roster(),
                () = settled(self.settling.as_ref().map(|(_, since)| *since)) => {
                    if let Some((issuer, _)) = self.settling.take() {
                        self.source.uses(&issuer);
                    }
                }
                () = sleep(wait_until(self.plans.values().map(|plan| plan.at).min(), OffsetDateTime::now_utc())) => {}
            }
        }
    }

    /// Who has joined is due at once; of who has left nothing is kept.
    fn follow_roster(&mut self) {
        let (wanted, now) = (self.roster.current(), OffsetDateTime::now_utc());
        self.plans.retain(|identity, _| wanted.contains(identity));
        let left = |held: &Held| held.keys().any(|identity| !wanted.contains(identity));
        self.writer.send_if_modified(|current| {
            let is_other = left(current);
            if is_other {
                Arc::make_mut(current).retain(|identity, _| wanted.contains(identity));
            }
            is_other
        });
        for identity in wanted {
            self.plans.entry(identity).or_insert(Plan { at: now, failures: 0 });
        }
        self.settle();
    }

    async fn renew(&mut self, identity: Identity) -> Result<(), Error> {
        let obtained = obtain(&*self.source, &identity, &self.provider).await;
        let now = OffsetDateTime::now_utc();
        let mut credentials = match obtained {
            Ok(credentials) => credentials,
            Err(error) => {
                let failures = self.plans.get(&identity).map_or(0, |plan| plan.failures) + 1;
                self.plans.insert(identity, Plan { at: next_attempt(failures, now), failures });
                return Err(error);
            }
        };
        let next = next_renewal((credentials.not_before, credentials.not_after), now);
        tracing::info!(%identity, serial = %credentials.serial, expires = %credentials.not_after, "certificate issued");
        credentials.renewal = Some(next);
        self.publish(credentials);
        self.plans.insert(identity, Plan { at: next, failures: 0 });
        Ok(())
    }

    fn publish(&mut self, credentials: Credentials) {
        self.writer.send_modify(|current| {
            Arc::make_mut(current).insert(credentials.identity.clone(), Arc::new(credentials));
        });
        self.settle();
    }

    /// Says of whom certificates are, once handshakes with others are over.
    fn settle(&mut self) {
        if self.writer.borrow().is_empty() {
            self.settling = None;
            return;
        }
        self.settling = self.common_issuer().map(|issuer| (issuer, Instant::now()));
        if self.settling.is_none() {
            self.source.uses("");
        }
    }

    /// The authority that every certificate is of.
    fn common_issuer(&self) -> Option<String> {
        let current = self.writer.borrow();
        let mut issuers = current.values().map(|held| &held.issuer);
        let first = issuers.next()?;
        issuers.all(|issuer| issuer == first).then(|| first.clone())
    }

    /// A revoked certificate is of no use; another is asked for at once.
    fn drop_revoked(&mut self, is_revoked: impl Fn(&Serial) -> bool) {
        let revoked: Vec<Identity> = self
            .writer
            .borrow()
            .values()
            .filter(|held| is_revoked(&held.serial))
            .map(|held| held.identity.clone())
            .collect();
        for identity in revoked {
            tracing::warn!(%identity, "certificate is revoked");
            self.writer.send_modify(|current| drop(Arc::make_mut(current).remove(&identity)));
            self.plans.insert(identity, Plan { at: OffsetDateTime::now_utc(), failures: 0 });
        }
    }

    /// All at once would come to control from all nodes at the same time.
    fn renew_all(&mut self) {
        let now = OffsetDateTime::now_utc();
        for plan in self.plans.values_mut() {
            plan.at = plan.at.min(in_turn(now));
        }
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

    /// The shortest lifetime that can be configured, from an issuer that begins it as long ago.
    #[test]
    fn half_of_what_is_left_counts() {
        let now = datetime!(2026-01-01 00:05 UTC);
        let next = next_renewal((datetime!(2026-01-01 00:00 UTC), datetime!(2026-01-01 00:10 UTC)), now);
        assert!((now + time::Duration::minutes(2)..=now + time::Duration::minutes(3)).contains(&next), "{next}");
        let short = (now, now + time::Duration::seconds(2));
        assert_eq!(next_renewal(short, now), now + SHORTEST_PAUSE);
    }

    /// The clock may have been set, or the machine asleep: nobody waits for long without looking again.
    #[test]
    fn a_clock_that_jumps_is_noticed_within_half_a_minute() {
        let now = datetime!(2026-01-01 00:00 UTC);
        assert_eq!(wait_until(Some(now + time::Duration::DAY), now), Duration::from_secs(30));
        assert_eq!(wait_until(Some(now + time::Duration::SECOND), now), Duration::from_secs(1));
        assert_eq!(wait_until(Some(now - time::Duration::DAY), now), Duration::ZERO);
        assert_eq!(wait_until(None, now), Duration::from_secs(30));
    }

    #[test]
    fn attempts_come_further_apart_up_to_a_bound() {
        let seconds: Vec<u64> = (1..=8).map(|failures| pause(failures, 1.0).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(pause(u32::MAX, 0.0), Duration::from_secs(15));
    }
}
