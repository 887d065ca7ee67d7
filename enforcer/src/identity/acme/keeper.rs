//! The one writer of [`Names`](super::Names): a certificate for each of them, one after the other, each again in its time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use instant_acme::Account;
use rand::Rng;
use time::OffsetDateTime;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::account;
use super::chain::Held;
use super::error::{Again, Error};
use super::http::Told;
use super::names::Writer;
use super::order::{Obtained, obtain};
use super::pace::{next_renewal, pause, renewal_at};
use super::shelf::Shelf;
use crate::control::snapshot::Acme;
use crate::identity::request::blocking;
use crate::identity::rotate::wait_until;

/// For all of an order. An authority that looks from several places, one after the other, takes half a minute.
const DEADLINE: Duration = Duration::from_secs(180);

/// Keeps the certificates of all public names of the node.
pub struct Keeper {
    acme: Acme,
    shelf: Shelf,
    names: Writer,
    /// When each name's turn comes.
    plans: HashMap<String, Plan>,
    /// As long as nothing fails.
    account: Option<Account>,
    told: Arc<Told>,
}

#[derive(Clone, Copy)]
struct Plan {
    at: OffsetDateTime,
    /// Attempts that failed in a row.
    failures: u32,
}

impl Keeper {
    /// Takes what is on the shelf.
    pub(super) fn new(acme: Acme, wanted: Vec<String>, shelf: Shelf, names: Writer) -> Self {
        let now = OffsetDateTime::now_utc();
        let mut keeper =
            Self { acme, shelf, names, plans: HashMap::new(), account: None, told: Arc::new(Told::default()) };
        for name in wanted {
            match keeper.shelf.certificate(&name) {
                Ok(Some(held)) => keeper.take(&name, held, renewal_at),
                Ok(None) => {
                    keeper.names.change(&name, |_nothing| {});
                    keeper.plans.insert(name, Plan { at: now, failures: 0 });
                }
                Err(error) => keeper.fail(&name, &error),
            }
        }
        keeper
    }

    /// Asks for what is missing, and renews, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.keep() => {}
        }
    }

    async fn keep(&mut self) {
        loop {
            let now = OffsetDateTime::now_utc();
            let next = self.plans.iter().min_by_key(|(_, plan)| plan.at).map(|(name, plan)| (name.clone(), plan.at));
            match next {
                Some((name, at)) if at <= now => self.attempt(&name).await,
                // An account is of no use for as long as nobody needs a certificate.
                next => {
                    self.account = None;
                    sleep(wait_until(next.map(|(_, at)| at), now)).await;
                }
            }
        }
    }

    async fn attempt(&mut self, name: &str) {
        match self.certificate(name).await {
            Ok(held) => {
                let (serial, expires) = (held.serial, held.not_after);
                tracing::info!(name, %serial, signed_by = held.signed_by, %expires, "public certificate in use");
                let now = OffsetDateTime::now_utc();
                self.take(name, held, |validity, jitter| next_renewal(validity, jitter, now));
            }
            Err(error) => {
                self.account = None;
                self.fail(name, &error);
            }
        }
    }

    /// Another certificate: that on the shelf, if somebody has mended it, or a new one.
    async fn certificate(&mut self, name: &str) -> Result<Held, Error> {
        if !self.names.has_certificate(name)
            && let Some(held) = self.shelf.certificate(name)?
            && held.not_after > OffsetDateTime::now_utc()
        {
            return Ok(held);
        }
        let ordering = timeout(DEADLINE, self.order(name));
        let Obtained { held, chain, key } = ordering.await.unwrap_or(Err(Error::TimedOut))?;
        let (shelf, kept) = (self.shelf.clone(), name.to_owned());
        if let Err(error) = blocking(move || shelf.keep_certificate(&kept, &chain, &key)).await {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(name, %error, cause, "the next agent will have to ask for another one");
        }
        Ok(held)
    }

    async fn order(&mut self, name: &str) -> Result<Obtained, Error> {
        let account = match self.account.take() {
            Some(account) => account,
            None => account::open(&self.acme, &self.shelf, &self.told).await?,
        };
        let obtained = obtain(&account, name, (&self.names, &self.told)).await?;
        self.account = Some(account);
        Ok(obtained)
    }

    fn take(
        &mut self,
        name: &str,
        held: Held,
        renewal: impl FnOnce((OffsetDateTime, OffsetDateTime), f64) -> OffsetDateTime,
    ) {
        let at = renewal(held.validity(), rand::rng().random_range(-1.0..=1.0));
        self.plans.insert(name.to_owned(), Plan { at, failures: 0 });
        self.names.change(name, |known| {
            (known.held, known.renewal, known.failure) = (Some(Arc::new(held)), Some(at), None);
        });
    }

    /// The old one stays in use as long as it is valid.
    fn fail(&mut self, name: &str, error: &Error) {
        let failures = self.plans.get(name).map_or(0, |plan| plan.failures).saturating_add(1);
        let wait = pause(error.again(), failures, self.wanted(error), rand::rng().random_range(0.0..=1.0));
        let at = OffsetDateTime::now_utc() + wait;
        self.plans.insert(name.to_owned(), Plan { at, failures });
        let cause = std::error::Error::source(error).map(ToString::to_string);
        let seconds = wait.as_secs();
        tracing::error!(name, %error, cause, again_in_seconds = seconds, "no public certificate, or no newer one");
        let told = cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
        self.names.change(name, |known| {
            known.failure = Some(told);
            known.failures += 1;
            if known.held.is_none() {
                known.renewal = Some(at);
            }
        });
    }

    /// How long the authority wants to be left alone. What never came to it is none of its business.
    fn wanted(&self, error: &Error) -> Option<Duration> {
        self.told.last().filter(|_| error.again() == Again::Later)
    }
}
