//! From a workload's certificate to a root: webpki looks for the path among what passes our own look, and our own look
//! at the path has the last word, so that a path that it refuses does not hide a good one.

use std::cell::RefCell;

use rustls::pki_types::CertificateDer;
use webpki::{CertRevocationList, EndEntityCert, Error as Webpki, VerifiedPath};
use x509_parser::prelude::X509Certificate;
use x509_parser::time::ASN1Time;

use super::certificate::{self, Powers};
use super::rejection::{Flaw, ListFlaw, Position, Rejection};
use super::signatures;
use super::terms::Terms;
use crate::identity::name::Identity;

/// A path that is accepted.
pub(super) struct Path {
    /// When the first of its certificates ends.
    pub(super) ends: ASN1Time,
    /// How many issuers are between workload and root.
    pub(super) intermediates: usize,
    /// Subject of the root. Printable.
    pub(super) root: String,
}

/// Looks for a path from the workload's certificate to the bundle.
pub(super) fn find(
    (der, workload): (&CertificateDer<'_>, &X509Certificate<'_>),
    intermediates: &[CertificateDer<'_>],
    claimed: Option<&Identity>,
    terms: &Terms<'_>,
) -> Result<Path, Rejection> {
    let candidates = Candidates::new(workload, intermediates, terms);
    let (lists, later_lists) = terms.revocations.map(|lists| lists.in_force(terms.now)).unwrap_or_default();
    let lists: Vec<&CertRevocationList<'_>> = lists.into_iter().map(|list| list as _).collect();
    let revocation = match terms.revocations.map(|revocations| revocations.options(&lists, terms.now)).transpose() {
        Ok(options) => options.flatten(),
        Err(_unknown) if later_lists => return Err(Rejection::RevocationList(ListFlaw::NotYetValid)),
        Err(unknown) => return Err(unknown),
    };
    let end_entity = EndEntityCert::try_from(der).map_err(|_malformed| Rejection::workload(Flaw::Malformed))?;
    let found = RefCell::new(None);
    let judge = |path: &VerifiedPath<'_>| match candidates.judge(path, workload, claimed, terms) {
        Ok(path) => {
            found.replace(Some(Ok(path)));
            Ok(())
        }
        Err(rejection) => {
            found.borrow_mut().get_or_insert(Err(rejection));
            // webpki goes on with the next path.
            Err(Webpki::UnknownIssuer)
        }
    };
    let searched = end_entity.verify_for_usage(
        signatures::algorithms(),
        terms.anchors.trusted(),
        &candidates.usable,
        terms.now,
        terms.role.usage(),
        revocation,
        Some(&judge),
    );
    let error = searched.err();
    match (found.into_inner(), error) {
        (Some(Ok(path)), None) => Ok(path),
        (Some(Err(rejection)), _) => Err(rejection),
        (None, Some(Webpki::UnknownIssuer) | None) => Err(candidates.missing(terms)),
        (None, Some(Webpki::UnknownRevocationStatus)) if later_lists => {
            Err(Rejection::RevocationList(ListFlaw::NotYetValid))
        }
        // The first case is none that webpki makes: it has the last word all the same.
        (Some(Ok(_)) | None, Some(error)) => Err(translate(&error)),
    }
}

/// What was presented beside the workload's certificate, each parsed and judged once.
struct Candidates<'a> {
    usable: Vec<CertificateDer<'a>>,
    /// In step with `usable`.
    powers: Vec<(Powers, ASN1Time)>,
    /// By subject, as far as it can be read. What no path needs may be as it likes (RFC 8446 4.4.2).
    flawed: Vec<(Option<&'a [u8]>, Flaw)>,
    /// The issuers that are named.
    wanted: Vec<&'a [u8]>,
}

impl<'a> Candidates<'a> {
    fn new(workload: &'a X509Certificate<'_>, presented: &'a [CertificateDer<'_>], terms: &Terms<'_>) -> Self {
        let wanted = vec![workload.issuer().as_raw()];
        let mut candidates = Self { usable: Vec::new(), powers: Vec::new(), flawed: Vec::new(), wanted };
        for der in presented {
            candidates.add(der, terms);
        }
        candidates
    }

    fn add(&mut self, der: &'a CertificateDer<'_>, terms: &Terms<'_>) {
        let certificate = match certificate::read(der) {
            Ok(certificate) => certificate,
            Err(flaw) => return self.flawed.push((None, flaw)),
        };
        self.wanted.push(certificate.tbs_certificate.issuer.as_raw());
        match judge_intermediate(der, &certificate, terms) {
            Ok(powers) => {
                self.usable.push(CertificateDer::from(&**der));
                self.powers.push((powers, certificate.validity().not_after));
            }
            Err(flaw) => self.flawed.push((Some(certificate.tbs_certificate.subject.as_raw()), flaw)),
        }
    }

    /// What webpki does not ask of a path. It has verified signatures, constraints and revocation.
    fn judge(
        &self,
        path: &VerifiedPath<'_>,
        workload: &X509Certificate<'_>,
        claimed: Option<&Identity>,
        terms: &Terms<'_>,
    ) -> Result<Path, Rejection> {
        let root = terms.anchors.root(path.anchor()).ok_or(Rejection::UnknownIssuer)?;
        let mut ends = workload.validity().not_after.min(root.ends);
        let mut intermediates = 0;
        for issuer in path.intermediate_certificates() {
            let place = self.usable.iter().position(|usable| *usable == issuer.der());
            let (powers, end) = place.and_then(|place| self.powers.get(place)).ok_or(Rejection::UnknownIssuer)?;
            check_trust_domain(powers, claimed)?;
            ends = ends.min(*end);
            intermediates += 1;
        }
        root.check(path.anchor(), intermediates, terms)?;
        check_trust_domain(&root.powers, claimed)?;
        Ok(Path { ends, intermediates, root: root.subject.clone() })
    }

    /// Why there is no path: an issuer that is named is there, and cannot be used.
    fn missing(&self, terms: &Terms<'_>) -> Rejection {
        // A root may have been presented too, and is then known as a root.
        if let Some(flaw) = self.wanted.iter().find_map(|subject| terms.anchors.flaw_of(subject)) {
            return Rejection::Flawed { position: Position::Root, flaw: flaw.clone() };
        }
        let named = |subject: &Option<&[u8]>| subject.is_none_or(|subject| self.wanted.contains(&subject));
        match self.flawed.iter().find(|(subject, _)| named(subject)) {
            Some((_, flaw)) => Rejection::Flawed { position: Position::Intermediate, flaw: flaw.clone() },
            None => Rejection::UnknownIssuer,
        }
    }
}

fn judge_intermediate(
    der: &CertificateDer<'_>,
    certificate: &X509Certificate<'_>,
    terms: &Terms<'_>,
) -> Result<Powers, Flaw> {
    let powers = certificate::check_intermediate(certificate)?;
    let validity = certificate.validity();
    certificate::check_time((validity.not_before, validity.not_after), terms.now)?;
    powers.check_role(terms.role)?;
    // webpki is stricter about DER in places, and would pass over this one in silence.
    EndEntityCert::try_from(der).map_err(|_malformed| Flaw::Malformed)?;
    Ok(powers)
}

/// An identity that cannot be read is refused anyway, later.
fn check_trust_domain(issuer: &Powers, claimed: Option<&Identity>) -> Result<(), Rejection> {
    match (&issuer.trust_domain, claimed) {
        (Some(domain), Some(identity)) if identity.trust_domain() != domain => {
            Err(Rejection::ForeignAuthority { identity: identity.clone(), issuer: domain.clone() })
        }
        _ => Ok(()),
    }
}

/// webpki's words for what was not found before.
fn translate(error: &Webpki) -> Rejection {
    match error {
        Webpki::InvalidSignatureForPublicKey => Rejection::Signature,
        Webpki::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
        | Webpki::UnsupportedSignatureAlgorithmContext(_) => Rejection::SignatureKind,
        Webpki::PathLenConstraintViolated => Rejection::PathLength,
        Webpki::NameConstraintViolation => Rejection::NameConstraints,
        Webpki::MaximumPathDepthExceeded
        | Webpki::MaximumPathBuildCallsExceeded
        | Webpki::MaximumSignatureChecksExceeded
        | Webpki::MaximumNameConstraintComparisonsExceeded => Rejection::TooComplex,
        Webpki::CertRevoked => Rejection::Revoked,
        Webpki::UnknownRevocationStatus => Rejection::RevocationUnknown,
        Webpki::CrlExpired { .. } => Rejection::RevocationList(ListFlaw::Expired),
        Webpki::IssuerNotCrlSigner => Rejection::RevocationList(ListFlaw::Issuer),
        Webpki::InvalidCrlSignatureForPublicKey
        | Webpki::UnsupportedCrlSignatureAlgorithmContext(_)
        | Webpki::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_) => {
            Rejection::RevocationList(ListFlaw::Signature)
        }
        other => Rejection::Unverifiable(other.to_string()),
    }
}
