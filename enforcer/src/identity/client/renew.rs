//! The next node certificate: at half life of the one that is held, and by a token where that is revoked or has ended.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use tokio::time::sleep;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::channel::{certificates, within};
use super::files::Membership;
use super::{Control, Error, files, join};
use crate::identity::request::blocking;
use crate::identity::rotate::{pause, renewal_at};
use crate::identity::source::Source;
use crate::protocol::RenewRequest;

/// A clock that jumps, or a machine that slept, is noticed this soon.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// When a node's certificate is to be renewed; at once, if it cannot be read.
pub(super) fn renewal(chain: &[CertificateDer<'_>]) -> OffsetDateTime {
    let parsed = chain.first().and_then(|leaf| X509Certificate::from_der(leaf).ok());
    let validity =
        parsed.map(|(_, leaf)| (leaf.validity().not_before.to_datetime(), leaf.validity().not_after.to_datetime()));
    let jitter = rand::rng().random_range(-1.0..=1.0);
    validity.map_or(OffsetDateTime::UNIX_EPOCH, |validity| renewal_at(validity, jitter))
}

/// Renews until the process ends.
pub(super) async fn keep(control: Arc<Control>, mut at: OffsetDateTime) {
    let (mut trusted, mut failures) = (control.trusted(), 0);
    // Not known of a certificate that was read from a file: then another is asked for, of whoever issues now.
    let mut issuer = control.issuer();
    loop {
        let wait = Duration::try_from(at - OffsetDateTime::now_utc()).unwrap_or_default();
        let is_due = tokio::select! {
            () = trusted.changed() => {
                let trust = trusted.current();
                let is_another = std::mem::replace(&mut issuer, trust.issuer.clone()) != issuer;
                is_another || control.is_revoked(&trust)
            }
            // Revoked, and not told what is: nothing but a token helps.
            () = control.refused.notified() => true,
            () = sleep(wait.min(LONGEST_WAIT)) => at <= OffsetDateTime::now_utc(),
        };
        if !is_due {
            continue;
        }
        match renew(&control).await {
            Ok(next) => (at, failures) = (next, 0),
            Err(error) => {
                failures += 1;
                tracing::error!(%error, failures, "node certificate not renewed; trying again");
                at = OffsetDateTime::now_utc() + pause(failures, rand::rng().random_range(0.0..=1.0));
            }
        }
    }
}

async fn renew(control: &Control) -> Result<OffsetDateTime, Error> {
    let renewed = match ask(control).await {
        // It may have been revoked, or have ended while control was away: a new token begins anew.
        Err(error) => match &control.token {
            Some(token) => join::join(&control.whom, token).await.map_err(|_also| error)?,
            None => return Err(error),
        },
        Ok(renewed) => renewed,
    };
    join::check(&control.whom, &renewed)?;
    let directory = control.directory.clone();
    let renewed = blocking(move || files::write(&directory, &renewed).map(|()| renewed)).await?;
    control.adopt(&renewed)?;
    tracing::info!(node = %control.whom.node, "node certificate renewed");
    Ok(renewal(&renewed.chain))
}

async fn ask(control: &Control) -> Result<Membership, Error> {
    let (key, request) = join::request().await?;
    let answer = control.way()?.renew(within(RenewRequest { request })).await;
    let answer = answer.map_err(|status| Error::control("renew", &status))?.into_inner();
    let (chain, roots) = (certificates(answer.chain), certificates(answer.roots));
    Ok(Membership { chain, key, roots, issuer: answer.issuer })
}
