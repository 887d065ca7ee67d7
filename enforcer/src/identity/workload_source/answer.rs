//! What a Workload API answers, taken apart: one answer says all there is, and counts as a whole or not at all.

use std::fmt;
use std::mem;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::identity::Identity;
use crate::identity::trust::{Malformed, Trust};
use crate::protocol::workload::{X509svid, X509svidResponse};

/// How long after its end a revocation list is in force, if no other comes.
const GRACE: Duration = Duration::from_secs(3600);

/// An answer that is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    /// A field that every answer has is empty (SPIFFE Workload API, 4.5).
    #[error("{0} is empty")]
    Empty(&'static str),
    /// Not certificates, one after the other.
    #[error("{0} cannot be read")]
    Unreadable(&'static str),
    /// Nobody could be trusted, or nobody be known to be revoked.
    #[error("read whom to trust")]
    Trust(#[from] Malformed),
}

/// A certificate with its issuers and its key, which nobody has looked at yet.
pub(super) struct Svid {
    /// Whom it is for, says the answer.
    pub(super) name: String,
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// PKCS#8, DER.
    pub(super) key: Zeroizing<Vec<u8>>,
}

/// All there is.
pub(super) struct Answer {
    pub(super) svids: Vec<Svid>,
    /// Whom to trust in this trust domain; `None`: there is nothing about it.
    pub(super) trust: Option<Trust>,
}

impl Answer {
    /// Reads an answer; `trust_domain` is the one whose bundle is wanted.
    pub(super) fn read(mut response: X509svidResponse, trust_domain: &str) -> Result<Self, Unusable> {
        // From here on the keys are wiped, whatever becomes of the answer.
        let keys: Vec<_> =
            response.svids.iter_mut().map(|svid| Zeroizing::new(mem::take(&mut svid.x509_svid_key))).collect();
        if keys.is_empty() {
            return Err(Unusable::Empty("svids"));
        }
        let own = |svid: &&X509svid| svid.spiffe_id.parse().is_ok_and(|id: Identity| id.trust_domain() == trust_domain);
        let trust = response.svids.iter().find(own).map(|svid| trust(&svid.bundle, &response.crl)).transpose()?;
        let svids = response.svids.into_iter().zip(keys).map(|(svid, key)| read(svid, key));
        Ok(Self { svids: svids.collect::<Result<_, _>>()?, trust })
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.svids.iter().map(|svid| &svid.name)).finish()
    }
}

fn trust(bundle: &[u8], lists: &[Vec<u8>]) -> Result<Trust, Unusable> {
    let trust = Trust::of_roots(certificates(bundle, "bundle")?)?;
    if lists.is_empty() {
        return Ok(trust);
    }
    let lists: Vec<_> = lists.iter().map(|list| CertificateRevocationListDer::from(list.as_slice())).collect();
    Ok(trust.with_lists(&lists, GRACE)?)
}

fn read(svid: X509svid, key: Zeroizing<Vec<u8>>) -> Result<Svid, Unusable> {
    let fields = [
        ("spiffe_id", svid.spiffe_id.is_empty()),
        ("x509_svid", svid.x509_svid.is_empty()),
        ("x509_svid_key", key.is_empty()),
        ("bundle", svid.bundle.is_empty()),
    ];
    if let Some((name, _)) = fields.into_iter().find(|(_, is_empty)| *is_empty) {
        return Err(Unusable::Empty(name));
    }
    Ok(Svid { name: svid.spiffe_id, chain: certificates(&svid.x509_svid, "x509_svid")?, key })
}

/// Certificates that stand one after the other.
fn certificates(mut octets: &[u8], field: &'static str) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let mut found = Vec::new();
    while !octets.is_empty() {
        let (rest, _) = X509Certificate::from_der(octets).map_err(|_malformed| Unusable::Unreadable(field))?;
        found.push(CertificateDer::from(octets[..octets.len() - rest.len()].to_vec()));
        octets = rest;
    }
    Ok(found)
}

/// From when to when a certificate is valid.
pub(super) fn validity(certificate: &CertificateDer<'_>) -> Option<(OffsetDateTime, OffsetDateTime)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.to_datetime(), validity.not_after.to_datetime()))
}
