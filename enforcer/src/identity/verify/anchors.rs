//! The trust bundle: whole certificates, not only names and keys, because a root may be worth nothing too.
//!
//! Each root is parsed and judged once, here. What depends on the time, and on the path that ends in it, is judged with
//! each chain.

use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::anchor_from_trusted_cert;
use x509_parser::prelude::X509Certificate;
use x509_parser::time::ASN1Time;

use super::certificate::{self, Powers};
use super::rejection::{Flaw, ListFlaw, Position, Rejection};
use super::terms::Terms;
use crate::identity::plain::{LONGEST_NAME, plain};

/// Roots of trust, judged. One that is flawed stays here without being trusted, so that a path that would end in it is
/// refused for the right reason.
#[derive(Debug, Default)]
pub struct Anchors {
    /// In step with `roots`.
    trusted: Vec<TrustAnchor<'static>>,
    roots: Vec<Root>,
    /// By subject.
    flawed: Vec<(Vec<u8>, Flaw)>,
}

/// What is in the bundle is no certificate at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("certificate {number} of the trust bundle cannot be read")]
pub struct Unreadable {
    /// Counted from 1.
    pub number: usize,
}

/// A root that may be trusted, in its time.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) powers: Powers,
    pub(super) ends: ASN1Time,
    begins: ASN1Time,
    /// Printable.
    pub(super) subject: String,
}

impl Anchors {
    /// Judges the certificates of a bundle as RFC 5280 4 judges those of authorities.
    ///
    /// # Errors
    ///
    /// [`Unreadable`]; a certificate that can be read and is not as it must be is no error before a path ends in it.
    pub fn new(bundle: &[CertificateDer<'_>]) -> Result<Self, Unreadable> {
        let mut anchors = Self { trusted: Vec::new(), roots: Vec::new(), flawed: Vec::new() };
        for (position, der) in bundle.iter().enumerate() {
            let certificate = certificate::read(der).map_err(|_flaw| Unreadable { number: position + 1 })?;
            match judge(der, &certificate) {
                Ok((anchor, root)) => {
                    anchors.trusted.push(anchor);
                    anchors.roots.push(root);
                }
                Err(flaw) => anchors.flawed.push((certificate.subject().as_raw().to_vec(), flaw)),
            }
        }
        Ok(anchors)
    }

    pub(super) fn trusted(&self) -> &[TrustAnchor<'static>] {
        &self.trusted
    }

    /// The root in which a path ends: `anchor` is one of [`Anchors::trusted`]. Not another that looks like it to webpki:
    /// a renewed root has the name and the key of the old one.
    pub(super) fn root(&self, anchor: &TrustAnchor<'_>) -> Option<&Root> {
        let position = self.trusted.iter().position(|trusted| std::ptr::eq(trusted, anchor))?;
        self.roots.get(position)
    }

    /// What is wrong with the root of this name that is not trusted.
    pub(super) fn flaw_of(&self, subject: &[u8]) -> Option<&Flaw> {
        self.flawed.iter().find(|(name, _)| name == subject).map(|(_, flaw)| flaw)
    }
}

impl Root {
    /// What webpki does not ask of a trust anchor: it knows its name, its key and its name constraints.
    pub(super) fn check(&self, anchor: &TrustAnchor<'_>, below: usize, terms: &Terms<'_>) -> Result<(), Rejection> {
        let flawed = |flaw| Rejection::Flawed { position: Position::Root, flaw };
        self.check_time(terms.now).map_err(flawed)?;
        self.powers.check_role(terms.role).map_err(flawed)?;
        if self.powers.path_length.is_some_and(|most| below > most as usize) {
            return Err(Rejection::PathLength);
        }
        let lists = terms.revocations.is_some_and(|lists| lists.come_from(&anchor.subject));
        if lists && !self.powers.signs_lists {
            return Err(Rejection::RevocationList(ListFlaw::Issuer));
        }
        Ok(())
    }

    fn check_time(&self, now: UnixTime) -> Result<(), Flaw> {
        certificate::check_time((self.begins, self.ends), now)
    }
}

fn judge(der: &CertificateDer<'_>, certificate: &X509Certificate<'_>) -> Result<(TrustAnchor<'static>, Root), Flaw> {
    let powers = certificate::check_authority(certificate)?;
    let anchor = anchor_from_trusted_cert(der).map_err(|_malformed| Flaw::Malformed)?;
    let (begins, ends) = (certificate.validity().not_before, certificate.validity().not_after);
    let subject = plain(&certificate.subject().to_string(), LONGEST_NAME);
    let root = Root { powers, begins, ends, subject };
    Ok((anchor.to_owned(), root))
}
