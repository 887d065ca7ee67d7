//! What everybody is told: the roots, and a revocation list of each intermediate (RFC 5280 5).
//!
//! All replicas of control tell the same, each with lists that it has signed itself. The version counts up with every
//! change, and is the number of the lists.

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use time::{Duration, OffsetDateTime};

use super::authority::roots;
use super::journal::Revocation;
use super::slots::{Slot, Slots, State};
use super::{Domain, Error};
use crate::ca::Error as CaError;
use crate::identity::request::blocking;

/// Holds the version.
pub(super) const VERSION: &str = "trust";
/// Clocks of other hosts may be this far behind.
const BACKDATE: Duration = Duration::minutes(5);

/// What to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// Counts up with each change.
    pub version: u64,
    /// Every root that is trusted.
    pub roots: Vec<CertificateDer<'static>>,
    /// A revocation list for each intermediate.
    pub lists: Vec<CertificateRevocationListDer<'static>>,
    /// Changes when every certificate is to be renewed.
    pub issuer: String,
}

impl Domain {
    /// The version of what everybody is told.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn version(&self) -> Result<u64, Error> {
        Ok(self.read(VERSION).await?.unwrap_or_default())
    }

    /// What everybody is told now, with lists that begin now.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn trust(&self) -> Result<Trust, Error> {
        // Read first: what is found may be newer than it says, and is then told once more.
        let version = self.version().await?;
        let slots = self.slots().await?;
        let revoked = self.revoked().await?;
        let now = OffsetDateTime::now_utc();
        let mut lists = Vec::new();
        for slot in &slots.slots {
            let dead: Vec<Revocation> = revoked.iter().filter(|dead| is_listed(dead, slot, &slots)).cloned().collect();
            for intermediate in &slot.intermediates {
                let issuer = self.opened(intermediate).await?;
                let params = list(&dead, (version, now), self.parts.terms.list)?;
                let signed = blocking(move || params.signed_by(issuer.signer())).await.map_err(CaError::Sign)?;
                lists.push(signed.der().clone());
            }
        }
        let issuer = slots.active().map(|slot| slot.id.clone()).unwrap_or_default();
        Ok(Trust { version, roots: roots(&slots)?, lists, issuer })
    }
}

/// Whether a slot's lists are about this certificate: if it has signed it; and the active one's, if whoever has is retired.
/// Nobody accepts such a certificate any more, but connections that were made under it may be open. Agents go by the serial
/// number alone, which is random and long.
fn is_listed(dead: &Revocation, slot: &Slot, slots: &Slots) -> bool {
    let is_retired = slots.slots.iter().all(|known| known.id != dead.slot);
    dead.slot == slot.id || (is_retired && slot.state == State::Active)
}

/// A revocation list, to be signed.
pub(super) fn list(
    dead: &[Revocation],
    (version, now): (u64, OffsetDateTime),
    life: Duration,
) -> Result<CertificateRevocationListParams, Error> {
    let begins = (now - BACKDATE).replace_nanosecond(0).unwrap_or(now);
    let entry = |dead: &Revocation| {
        Some(RevokedCertParams {
            serial_number: SerialNumber::from_slice(&octets(&dead.serial)?),
            revocation_time: OffsetDateTime::from_unix_timestamp(dead.at).ok()?,
            reason_code: Some(dead.reason.code()),
            invalidity_date: None,
        })
    };
    let unreadable = |dead: &Revocation| Error::Entry {
        key: super::journal::revoked(&dead.serial),
        cause: serde::de::Error::custom("it has no serial number and time"),
    };
    Ok(CertificateRevocationListParams {
        this_update: begins,
        next_update: begins + BACKDATE + life,
        crl_number: SerialNumber::from(version),
        issuing_distribution_point: None,
        revoked_certs: dead.iter().map(|dead| entry(dead).ok_or_else(|| unreadable(dead))).collect::<Result<_, _>>()?,
        key_identifier_method: KeyIdMethod::Sha256,
    })
}

fn octets(hexadecimal: &str) -> Option<Vec<u8>> {
    let pairs = hexadecimal.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()).collect()
}
