//! Why a chain is refused: one value for each reason, with whose certificate it is about.
//!
//! What the peer wrote is in none of them, except an identity that has been parsed.

use std::sync::Arc;

use rustls::{CertificateError, Error, OtherError};
use serde::Serialize;
use time::OffsetDateTime;

use super::expected::Expected;
use super::{MOST_CERTIFICATES, MOST_OCTETS};
use crate::identity::name::{Identity, NameError};

/// Which certificate of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Position {
    /// The one that names the workload.
    #[error("workload's certificate")]
    Workload,
    /// One that was presented beside it.
    #[error("intermediate certificate")]
    Intermediate,
    /// One of the bundle.
    #[error("root certificate")]
    Root,
}

/// A chain is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rejection {
    /// There is nothing to judge.
    #[error("no certificate was presented")]
    NoCertificate,
    /// Looking for a path through so many would cost too much.
    #[error("{count} certificates were presented, and at most {MOST_CERTIFICATES} are looked at")]
    TooManyCertificates {
        /// How many.
        count: usize,
    },
    /// Reading so much would cost too much.
    #[error("certificates of {octets} octets were presented, and at most {MOST_OCTETS} are looked at")]
    TooLong {
        /// Of all certificates together.
        octets: usize,
    },
    /// One certificate is not as it must be.
    #[error("{position} {flaw}")]
    Flawed {
        /// Which one.
        position: Position,
        /// What it is about it.
        flaw: Flaw,
    },
    /// No path leads to the bundle.
    #[error("no issuer is known whose chain ends in the trust bundle")]
    UnknownIssuer,
    /// A certificate was changed after it was signed, or was signed by somebody else with its issuer's name.
    #[error("signature does not verify with the issuer's key")]
    Signature,
    /// It is named as one by an algorithm that is not understood with its parameters, or that is not for the issuer's key
    /// (RFC 5280 4.1.1.2).
    #[error("signature is of a kind that is not understood, or that the issuer's key does not make")]
    SignatureKind,
    /// RFC 5280 4.2.1.9.
    #[error("more issuers are in the path than one above them allows")]
    PathLength,
    /// RFC 5280 4.2.1.10. Constraints on URIs and on directory names are not understood and forbid every such name.
    #[error("name is outside of what an issuer in the path may certify")]
    NameConstraints,
    /// Too many candidates for a path.
    #[error("path is too deep, or looking for it takes too much work")]
    TooComplex,
    /// RFC 5280 5.
    #[error("certificate of the path has been revoked")]
    Revoked,
    /// No revocation list that is in force covers a certificate of the path.
    #[error("no valid revocation list says whether a certificate of the path has been revoked")]
    RevocationUnknown,
    /// The revocation list that covers a certificate of the path is not as it must be.
    #[error("revocation list {0}")]
    RevocationList(ListFlaw),
    /// X509-SVID standard, section 2: an authority certifies only its own trust domain.
    #[error("identity {identity} was certified by an authority of the trust domain {issuer}")]
    ForeignAuthority {
        /// In the workload's certificate.
        identity: Identity,
        /// Whom the issuer answers for.
        issuer: String,
    },
    /// Anything else that webpki finds.
    #[error("path does not verify: {0}")]
    Unverifiable(String),
    /// The chain is valid, and not that of a workload that was expected.
    #[error(transparent)]
    Identity(#[from] Mismatch),
}

/// What is wrong with one certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flaw {
    /// Not DER, or not a certificate (RFC 5280 4.1).
    #[error("cannot be read")]
    Malformed,
    /// Not version 3, the only one with extensions (RFC 5280 4.1.2.1).
    #[error("is not of version 3")]
    Version,
    /// Zero, negative or longer than 20 octets (RFC 5280 4.1.2.2).
    #[error("has no serial number between 1 and 20 octets of a positive number")]
    Serial,
    /// Without a name for what it signs (RFC 5280 4.1.2.6).
    #[error("is an authority's and has an empty subject")]
    EmptySubject,
    /// It ends before it begins.
    #[error("ends before it begins")]
    Validity,
    /// Years up to 2049 are UTCTime, later ones GeneralizedTime (RFC 5280 4.1.2.5).
    #[error("has its validity in the wrong kind of time")]
    TimeEncoding,
    /// Not valid any more.
    #[error("has expired ({at})")]
    Expired {
        /// When.
        #[serde(skip)]
        at: OffsetDateTime,
    },
    /// Not valid yet.
    #[error("is not valid yet (from {from})")]
    NotYetValid {
        /// From when on it will be.
        #[serde(skip)]
        from: OffsetDateTime,
    },
    /// Neither RSA of 2048 to 8192 bits, nor ECDSA on P-256, P-384 or P-521, nor Ed25519.
    #[error("has a key that is too weak or of an unknown kind")]
    WeakKey,
    /// Neither RSA nor ECDSA with SHA-256, SHA-384 or SHA-512, nor Ed25519.
    #[error("is signed with an algorithm that is too weak or unknown")]
    WeakSignature,
    /// The two places that name the signature algorithm differ (RFC 5280 4.1.1.2).
    #[error("names two different signature algorithms")]
    SignatureAlgorithms,
    /// One extension twice (RFC 5280 4.2).
    #[error("has an extension twice")]
    DuplicateExtension,
    /// A critical extension that is not understood, or that must not be critical (RFC 5280 4.2).
    #[error("has a critical extension that is not understood")]
    CriticalExtension,
    /// An extension that must be critical is not (RFC 5280 4.2.1.6, 4.2.1.9, 4.2.1.10).
    #[error("has an extension that must be critical and is not")]
    NotCritical,
    /// An extension that is known cannot be read.
    #[error("has an extension that cannot be read")]
    Extension,
    /// A workload's certificate must not be an authority's (X509-SVID standard, sections 4.1 and 5.2).
    #[error("is that of an authority")]
    Authority,
    /// An issuer must be an authority (RFC 5280 4.2.1.9).
    #[error("is not that of an authority")]
    NoAuthority,
    /// Key usage is missing from a workload's certificate (X509-SVID standard, section 4.3).
    #[error("does not say what its key may be used for")]
    NoKeyUsage,
    /// The workload's key may not sign handshakes (X509-SVID standard, section 4.3).
    #[error("has a key that may not sign handshakes")]
    SignsNoHandshakes,
    /// The workload's key may sign certificates or revocation lists (X509-SVID standard, sections 4.3 and 5.2).
    #[error("has a key that may sign certificates or revocation lists")]
    SignsCertificates,
    /// The issuer's key may not sign certificates (RFC 5280 4.2.1.3).
    #[error("has a key that may not sign certificates")]
    SignsNoCertificates,
    /// Extended key usage is missing from a workload's certificate (X509-SVID standard, section 4.4).
    #[error("does not say for which role it is")]
    NoRole,
    /// It is for another role (RFC 5280 4.2.1.12).
    #[error("is not for this role")]
    WrongRole,
    /// Name constraints are for authorities (RFC 5280 4.2.1.10).
    #[error("constrains names and is not that of an authority")]
    ConstrainsNames,
    /// An authority's SPIFFE ID is its trust domain's, and its only URI (X509-SVID standard, section 2).
    #[error("is an authority's and names more than its trust domain")]
    AuthorityName,
}

/// What is wrong with a revocation list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ListFlaw {
    /// A kind that is not understood: of version 1, without an end, a delta, indirect, for some reasons only, or with
    /// an unknown critical extension (RFC 5280 5.1 and 5.2).
    #[error("is of a kind that is not understood")]
    Unsupported,
    /// Its next update is overdue.
    #[error("has expired")]
    Expired,
    /// It comes from the future.
    #[error("is not valid yet")]
    NotYetValid,
    /// Its signature does not verify with the issuer's key.
    #[error("was not signed by the issuer")]
    Signature,
    /// Its issuer may not sign revocation lists (RFC 5280 6.3.3, f).
    #[error("was signed by an issuer that may not sign any")]
    Issuer,
}

/// The certificate is valid, and not that of a workload that was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mismatch {
    /// It names another identity.
    #[error("peer is {found}, expected {expected}")]
    Other {
        /// In the certificate.
        found: Identity,
        /// In the registry.
        #[serde(skip)]
        expected: Expected,
    },
    /// Its URI is no SPIFFE ID of a workload.
    #[error("peer's certificate has a URI that is no workload's identity ({cause}), expected {expected}")]
    Malformed {
        /// Why not.
        #[serde(skip)]
        cause: NameError,
        /// In the registry.
        #[serde(skip)]
        expected: Expected,
    },
    /// It names none.
    #[error("peer's certificate names no SPIFFE identity, expected {expected}")]
    None {
        /// In the registry.
        #[serde(skip)]
        expected: Expected,
    },
    /// It names several; an X.509-SVID has exactly one URI (X509-SVID standard, section 2).
    #[error("peer's certificate has {count} URIs, expected exactly {expected}")]
    Several {
        /// How many.
        count: usize,
        /// In the registry.
        #[serde(skip)]
        expected: Expected,
    },
}

impl Rejection {
    /// The reason in one word for programs, such as `workload-expired`, `root-no-authority`, `revocation-list-expired`,
    /// `identity-several` or `unknown-issuer`.
    #[must_use]
    pub fn code(&self) -> String {
        match self {
            Self::Flawed { position, flaw } => format!("{}-{}", variant(position), variant(flaw)),
            Self::RevocationList(flaw) => format!("revocation-list-{}", variant(flaw)),
            Self::Identity(mismatch) => format!("identity-{}", variant(mismatch)),
            other => variant(other),
        }
    }

    pub(super) fn workload(flaw: Flaw) -> Self {
        Self::Flawed { position: Position::Workload, flaw }
    }
}

/// The name of a variant, as it is serialized.
fn variant(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(serde_json::Value::Object(fields)) => fields.keys().next().cloned().unwrap_or_default(),
        _ => String::new(),
    }
}

/// The alert that the peer gets says as much as TLS has words for; the log has the whole reason, where rustls has no
/// word of its own.
impl From<Rejection> for Error {
    fn from(rejection: Rejection) -> Self {
        let error = match &rejection {
            Rejection::NoCertificate => return Self::NoCertificatesPresented,
            Rejection::Flawed { position: Position::Workload, flaw } => match flaw {
                Flaw::Malformed => CertificateError::BadEncoding,
                Flaw::Expired { .. } => CertificateError::Expired,
                Flaw::NotYetValid { .. } => CertificateError::NotValidYet,
                Flaw::NoRole | Flaw::WrongRole => CertificateError::InvalidPurpose,
                _ => CertificateError::Other(OtherError(Arc::new(rejection))),
            },
            Rejection::UnknownIssuer => CertificateError::UnknownIssuer,
            Rejection::Signature => CertificateError::BadSignature,
            Rejection::Revoked => CertificateError::Revoked,
            Rejection::RevocationUnknown => CertificateError::UnknownRevocationStatus,
            _ => CertificateError::Other(OtherError(Arc::new(rejection))),
        };
        error.into()
    }
}
