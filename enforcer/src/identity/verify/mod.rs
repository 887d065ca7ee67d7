//! Who the other end is: the chain must lead to the trust bundle, and the certificate must name exactly the identity
//! that the registry expects, or, where an agent answers to several, one of those. Host names play no part.
//!
//! [`verify`] is the one judgement. It is a function of what it is given, the time too; both roles of a handshake
//! (`handshake`), the check of our own certificates ([`verify_at`]) and `enforcer ca check` ask it. `certificate` judges
//! one certificate by itself, with `key`; `path` has webpki look for a path and judges that; `anchors` is the bundle,
//! `revocations` the revocation lists, `signatures` remembers which ones were good; `terms` and `expected` are the question, `rejection` the answer.
//!
//! webpki verifies signatures, name constraints, path lengths below the root and revocation. The rest is done here,
//! because webpki takes much for permitted that RFC 5280 and the X509-SVID standard do not permit: it believes a root
//! whatever its certificate says, and does not look at key usage, serial numbers, or a workload's own key.
//!
//! Identity is judged last: a chain that is refused for its identity is valid in every other respect.
//!
//! Nothing a peer sends makes this panic, wait or grow: the number of certificates and their octets are bounded before
//! one is read, and webpki bounds the search.

mod anchors;
mod certificate;
mod expected;
mod handshake;
mod key;
mod path;
mod rejection;
mod revocations;
mod signatures;
mod terms;

use rustls::Error;
use rustls::pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

pub use anchors::{Anchors, Unreadable};
pub use expected::Expected;
pub(crate) use handshake::Verifier;
pub use handshake::{Fingerprint, fingerprint};
pub use rejection::{Flaw, ListFlaw, Mismatch, Position, Rejection};
pub use revocations::{Revocations, Uncovered, Unusable};
pub use terms::{Role, Terms};

use super::name::{Identity, NameError};

/// Certificates in a chain. The longest search for a path grows as the factorial of it: with six it takes 0.5 ms, and
/// 8 ms with every signature that webpki verifies before it gives up.
const MOST_CERTIFICATES: usize = 6;
/// Octets of all of them.
const MOST_OCTETS: usize = 64 * 1024;

/// Who a chain has proved to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The one in the certificate.
    pub identity: Identity,
    /// Serial number of the certificate, hexadecimal.
    pub serial: String,
    /// When the first certificate of the path ends, the root's too.
    pub until: OffsetDateTime,
    /// How many issuers are between it and the root.
    pub intermediates: usize,
    /// Subject of the root. Printable.
    pub root: String,
}

/// Judges a chain: the workload's certificate first, its issuers in any order (RFC 5280 6.1; X509-SVID standard,
/// section 5).
///
/// # Errors
///
/// [`Rejection`].
pub fn verify(
    workload: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    terms: &Terms<'_>,
) -> Result<Proven, Rejection> {
    check_amount(workload, intermediates)?;
    let certificate = certificate::read(workload).map_err(Rejection::workload)?;
    certificate::check_workload(&certificate, terms.role).map_err(Rejection::workload)?;
    let validity = certificate.validity();
    certificate::check_time((validity.not_before, validity.not_after), terms.now).map_err(Rejection::workload)?;
    let uris = certificate::uris(&certificate);
    let claimed = claim(&uris);
    let path = path::find((workload, &certificate), intermediates, claimed.as_ref().ok(), terms)?;
    let identity = recognize(claimed, terms.expected)?;
    Ok(Proven {
        identity,
        serial: hexadecimal(certificate.raw_serial()),
        until: path.ends.to_datetime(),
        intermediates: path.intermediates,
        root: path.root,
    })
}

fn check_amount(workload: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Result<(), Rejection> {
    let count = intermediates.len() + 1;
    if count > MOST_CERTIFICATES {
        return Err(Rejection::TooManyCertificates { count });
    }
    let octets = workload.len() + intermediates.iter().map(|certificate| certificate.len()).sum::<usize>();
    if octets > MOST_OCTETS { Err(Rejection::TooLong { octets }) } else { Ok(()) }
}

/// Why a certificate claims no identity.
enum NoClaim {
    /// It has so many URIs, and not one.
    Count(usize),
    /// Its URI is no identity.
    Name(NameError),
}

/// The identity in the one URI (X509-SVID standard, section 2).
fn claim(uris: &[&str]) -> Result<Identity, NoClaim> {
    match uris {
        [uri] => uri.parse().map_err(NoClaim::Name),
        others => Err(NoClaim::Count(others.len())),
    }
}

fn recognize(claimed: Result<Identity, NoClaim>, expected: &Expected) -> Result<Identity, Mismatch> {
    match claimed {
        Ok(identity) if expected.holds(&identity) => Ok(identity),
        Ok(found) => Err(Mismatch::Other { found, expected: expected.clone() }),
        Err(NoClaim::Name(cause)) => Err(Mismatch::Malformed { cause, expected: expected.clone() }),
        Err(NoClaim::Count(0)) => Err(Mismatch::None { expected: expected.clone() }),
        Err(NoClaim::Count(count)) => Err(Mismatch::Several { count, expected: expected.clone() }),
    }
}

/// Who a workload's certificate claims to be. Nothing is proved by it.
pub(super) fn claimed(workload: &CertificateDer<'_>) -> Option<Identity> {
    let (_, workload) = X509Certificate::from_der(workload).ok()?;
    claim(&certificate::uris(&workload)).ok()
}

/// The trust domain that an authority's certificate names, if it is as an authority's must be.
#[must_use]
pub fn authority_domain(certificate: &CertificateDer<'_>) -> Option<String> {
    certificate::check_authority(&certificate::read(certificate).ok()?).ok()?.trust_domain
}

/// Octets as they are written, `0af1`.
pub(super) fn hexadecimal(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Checks a chain as a peer's would be checked in either role, at a given time.
///
/// # Errors
///
/// As in a handshake.
pub fn verify_at(
    chain: &[CertificateDer<'_>],
    anchors: &Anchors,
    expected: &Identity,
    now: UnixTime,
) -> Result<(), Error> {
    let (workload, intermediates) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
    let expected = Expected::One(expected.clone());
    let terms = Terms { anchors, revocations: None, now, role: Role::Both, expected: &expected };
    Ok(verify(workload, intermediates, &terms).map(drop)?)
}

/// Who has proved to be at the other end of a handshake, and when the first of the certificates that prove it ends.
/// The verifier has accepted them, so a `None` never follows a handshake of ours.
#[must_use]
pub fn proven(certificates: &[CertificateDer<'_>]) -> Option<(Identity, OffsetDateTime)> {
    let parsed: Result<Vec<_>, _> =
        certificates.iter().map(|certificate| X509Certificate::from_der(certificate)).collect();
    let parsed = parsed.ok()?;
    let (_, workload) = parsed.first()?;
    let identity = claim(&certificate::uris(workload)).ok()?;
    let end = parsed.iter().map(|(_, certificate)| certificate.validity().not_after.to_datetime()).min()?;
    Some((identity, end))
}

#[cfg(fuzzing)]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
