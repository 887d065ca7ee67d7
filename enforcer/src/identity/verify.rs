//! Who the other end is: the chain must lead to the trust bundle, and the certificate must name exactly the identity
//! that the registry expects, or, where an agent answers to several, one of those.
//!
//! One verifier serves both roles, because both ends of a connection are workloads of the same kind; the role decides
//! which extended key usage is asked for. Host names play no part.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible, RootCertStore,
    SignatureScheme,
};
use time::OffsetDateTime;
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::name::Identity;

/// Who may be at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// This one.
    One(Identity),
    /// Any of these.
    AnyOf(Arc<HashSet<Identity>>),
}

impl Expected {
    fn holds(&self, uri: &str) -> bool {
        match self {
            Self::One(identity) => uri == identity.as_str(),
            Self::AnyOf(identities) => uri.parse().is_ok_and(|identity: Identity| identities.contains(&identity)),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(identity) => identity.fmt(f),
            Self::AnyOf(identities) => write!(f, "one of {} registered peers", identities.len()),
        }
    }
}

/// The certificate is valid, and not that of the workload that was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Mismatch {
    /// It names another identity.
    #[error("peer is {found}, expected {expected}")]
    Other {
        /// In the certificate.
        found: String,
        /// In the registry.
        expected: Expected,
    },
    /// It names none.
    #[error("peer's certificate names no SPIFFE identity, expected {expected}")]
    None {
        /// In the registry.
        expected: Expected,
    },
    /// It names several; an X.509-SVID has exactly one URI (X509-SVID standard, section 2).
    #[error("peer's certificate has {count} URIs, expected exactly {expected}")]
    Several {
        /// How many.
        count: usize,
        /// In the registry.
        expected: Expected,
    },
}

/// The certificate is not made for a workload (X509-SVID standard, section 4): webpki takes what it does not say for
/// permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("peer's certificate is not made for a workload: {0}")]
struct NotForWorkloads(&'static str);

/// Accepts whom it expects and nobody else, in either role.
#[derive(Debug)]
pub(super) struct Verifier {
    expected: Expected,
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(super) fn new(expected: Expected, roots: Arc<RootCertStore>, provider: &CryptoProvider) -> Self {
        Self { expected, roots, algorithms: provider.signature_verification_algorithms }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        (usage, now): (KeyUsage, UnixTime),
    ) -> Result<(), Error> {
        let certificate = EndEntityCert::try_from(leaf).map_err(unusable)?;
        certificate
            .verify_for_usage(self.algorithms.all, &self.roots.roots, intermediates, now, usage, None, None)
            .map_err(unusable)?;
        check_identity(leaf, &self.expected)
    }
}

/// Checks a chain as a peer's would be checked, at a given time.
///
/// # Errors
///
/// As in a handshake.
pub fn verify_at(
    chain: &[CertificateDer<'static>],
    roots: &Arc<RootCertStore>,
    expected: &Identity,
    now: UnixTime,
) -> Result<(), Error> {
    let pinned = Verifier::new(Expected::One(expected.clone()), Arc::clone(roots), &super::tls::crypto_provider());
    let (leaf, intermediates) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
    pinned.verify(leaf, intermediates, (KeyUsage::server_auth(), now))?;
    pinned.verify(leaf, intermediates, (KeyUsage::client_auth(), now))
}

/// Who has proved to be at the other end of a handshake, and when the first of the certificates that prove it ends.
/// The verifier has accepted them, so a `None` never follows a handshake of ours.
#[must_use]
pub fn proven(certificates: &[CertificateDer<'_>]) -> Option<(Identity, OffsetDateTime)> {
    let parsed: Result<Vec<_>, _> =
        certificates.iter().map(|certificate| X509Certificate::from_der(certificate)).collect();
    let parsed = parsed.ok()?;
    let names = parsed.first()?.1.subject_alternative_name().ok()??;
    let uri = names.value.general_names.iter().find_map(uri)?;
    let end = parsed.iter().map(|(_, certificate)| certificate.validity().not_after.to_datetime()).min()?;
    Some((uri.parse().ok()?, end))
}

/// The one URI in the certificate must be an expected identity, and the certificate nobody's issuer.
fn check_identity(leaf: &CertificateDer<'_>, expected: &Expected) -> Result<(), Error> {
    let (_, certificate) =
        X509Certificate::from_der(leaf).map_err(|_malformed| Error::from(CertificateError::BadEncoding))?;
    check_usage(&certificate)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_malformed| Error::from(CertificateError::BadEncoding))?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let uris: Vec<&str> = names.iter().filter_map(uri).collect();
    let expected = expected.clone();
    match uris.as_slice() {
        [uri] if expected.holds(uri) => Ok(()),
        [uri] => Err(other(Mismatch::Other { found: (*uri).to_owned(), expected })),
        [] => Err(other(Mismatch::None { expected })),
        several => Err(other(Mismatch::Several { count: several.len(), expected })),
    }
}

fn uri<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    match name {
        GeneralName::URI(uri) => Some(uri),
        _ => None,
    }
}

fn check_usage(certificate: &X509Certificate<'_>) -> Result<(), Error> {
    let malformed = |_malformed| Error::from(CertificateError::BadEncoding);
    if certificate.is_ca() {
        return Err(other(NotForWorkloads("it is that of an authority")));
    }
    let usage = certificate.key_usage().map_err(malformed)?.map(|usage| usage.value);
    if !usage.is_some_and(|usage| usage.digital_signature()) {
        return Err(other(NotForWorkloads("its key may not sign handshakes")));
    }
    if usage.is_some_and(|usage| usage.key_cert_sign() || usage.crl_sign()) {
        return Err(other(NotForWorkloads("its key may sign certificates or revocations")));
    }
    if certificate.extended_key_usage().map_err(malformed)?.is_none() {
        return Err(other(NotForWorkloads("it does not say for which role it is")));
    }
    Ok(())
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

/// webpki's answer, as precise as it matters for an alert and a log.
fn unusable(error: webpki::Error) -> Error {
    use webpki::Error as Webpki;
    let error = match error {
        Webpki::BadDer | Webpki::BadDerTime | Webpki::TrailingData(_) => CertificateError::BadEncoding,
        Webpki::CertExpired { .. } => CertificateError::Expired,
        Webpki::CertNotValidYet { .. } => CertificateError::NotValidYet,
        Webpki::UnknownIssuer => CertificateError::UnknownIssuer,
        Webpki::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        Webpki::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    };
    error.into()
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
        self.verify(leaf, intermediates, (KeyUsage::server_auth(), now)).map(|()| ServerCertVerified::assertion())
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
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, intermediates, (KeyUsage::client_auth(), now)).map(|()| ClientCertVerified::assertion())
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
