//! The judgement as rustls asks for it: one verifier serves both roles, because both ends of a connection are workloads
//! of the same kind; the role decides which extended key usage is asked for.

use aws_lc_rs::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme};

use super::{Anchors, Expected, Revocations, Role, Terms, check_amount, verify};
use crate::identity::tls::crypto_provider;
use crate::identity::trust::Trusted;

/// SHA-256 of a certificate.
pub type Fingerprint = [u8; 32];

/// The fingerprint of a certificate.
#[must_use]
pub fn fingerprint(certificate: &CertificateDer<'_>) -> Fingerprint {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest(&SHA256, certificate).as_ref());
    fingerprint
}

/// Accepts whom it expects and nobody else, in either role.
#[derive(Debug)]
pub(crate) struct Verifier {
    expected: Expected,
    roots: Roots,
    /// A client without a certificate is let in too: who that is, is not known then.
    or_nobody: bool,
    /// Revocation lists count as long as there are no newer ones.
    despite_old_lists: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

/// In which roots a chain may end.
#[derive(Debug)]
enum Roots {
    Trusted(Trusted),
    /// Those of what is presented that have one of these fingerprints: for who has nothing else yet.
    Pinned(Vec<Fingerprint>),
}

impl Verifier {
    pub(crate) fn new(expected: Expected, trusted: Trusted) -> Self {
        Self::with(expected, Roots::Trusted(trusted))
    }

    /// Trusts a root that is presented with the chain, if it is one of these.
    pub(crate) fn pinned(expected: Expected, roots: Vec<Fingerprint>) -> Self {
        Self::with(expected, Roots::Pinned(roots))
    }

    fn with(expected: Expected, roots: Roots) -> Self {
        let algorithms = crypto_provider().signature_verification_algorithms;
        Self { expected, roots, or_nobody: false, despite_old_lists: false, algorithms }
    }

    /// Lets a client without a certificate in, too.
    pub(crate) fn or_nobody(self) -> Self {
        Self { or_nobody: true, ..self }
    }

    /// Accepts whom revocation lists do not name even when these have ended: the one who has newer ones.
    pub(crate) fn despite_old_lists(self) -> Self {
        Self { despite_old_lists: true, ..self }
    }

    fn verify(
        &self,
        workload: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        (role, now): (Role, UnixTime),
    ) -> Result<(), Error> {
        let judge = |anchors: &Anchors, revocations: Option<&Revocations>| {
            let terms = Terms { anchors, revocations, now, role, expected: &self.expected };
            Ok(verify(workload, intermediates, &terms).map(drop)?)
        };
        match &self.roots {
            // Nobody tells us what other trust domains have revoked.
            Roots::Trusted(trusted) => {
                if let Some(roots) = trusted.federation().roots_for(workload) {
                    judge(roots, None)
                } else {
                    let trust = trusted.current();
                    let without_end = trust.revocations.as_ref().filter(|_| self.despite_old_lists);
                    let without_end = without_end.map(Revocations::without_end);
                    judge(&trust.anchors, without_end.as_ref().or(trust.revocations.as_ref()))
                }
            }
            Roots::Pinned(pinned) => {
                check_amount(workload, intermediates)?;
                let is_pinned = |presented: &&CertificateDer<'_>| pinned.contains(&fingerprint(presented));
                let roots: Vec<_> = intermediates.iter().filter(is_pinned).cloned().collect();
                judge(&Anchors::new(&roots).map_err(|_malformed| CertificateError::BadEncoding)?, None)
            }
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, intermediates, (Role::Server, now)).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        !self.or_nobody
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, intermediates, (Role::Client, now)).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
