//! THE ISSUER: root, intermediate, and the certificates of workloads.
//!
//! [`Authority`] is what the rest of the agent knows of it: a request in, a certificate out. `template` says what each
//! kind of certificate contains; `embedded` is the authority of a host without a cluster, whose keys are files;
//! `directory` keeps those files. What came out is checked by whoever asked (`identity::request`), as it would be
//! checked if it came from somebody else.

mod directory;
pub mod domain;
mod embedded;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod issuer;
pub mod keys;
pub mod server;
pub mod store;
mod template;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::{io, path::Path};

use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use time::{Duration, OffsetDateTime};

pub use directory::{prepare as prepare_directory, write as write_private};
pub use embedded::Embedded;

use crate::identity::Identity;
use crate::identity::name::NameError;

/// How long a workload's certificate lives.
pub const WORKLOAD_LIFETIME: Duration = Duration::HOUR;
/// The longest life that a workload's certificate may be given.
pub const LONGEST_WORKLOAD_LIFETIME: Duration = Duration::DAY;

/// Of a certificate request, in octets. One with an RSA key of 4096 bits has less than 2 KiB.
const LONGEST_REQUEST: usize = 16 * 1024;

/// Who issues certificates.
pub trait Authority: Send + Sync {
    /// Issues a certificate for an identity. The request's key is certified, after its signature is checked; nothing
    /// else of it is used. The certificate never outlives its issuer.
    ///
    /// # Errors
    ///
    /// [`Error`]; nothing is issued then.
    fn issue(&self, request: &SigningRequest, now: OffsetDateTime) -> Result<Issued, Error>;

    /// The roots to trust.
    fn bundle(&self) -> Vec<CertificateDer<'static>>;
}

/// What is asked of an authority.
#[derive(Clone, Debug)]
pub struct SigningRequest {
    /// PKCS#10 (RFC 2986); proves that whoever asks has the key.
    pub csr: CertificateSigningRequestDer<'static>,
    /// Whom the certificate names.
    pub identity: Identity,
    /// How long it should live.
    pub lifetime: Duration,
}

/// What an authority has issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate, then its issuers up to but without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// Begin of its validity: somewhat before now, for clocks that are behind.
    pub not_before: OffsetDateTime,
    /// End of its validity.
    pub not_after: OffsetDateTime,
    /// The authority that has issued it, where there may be several.
    pub issuer: String,
}

/// An authority cannot be made, opened or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The trust domain is no name.
    #[error("trust domain {name}")]
    TrustDomain {
        /// What was given.
        name: String,
        /// Why not.
        #[source]
        cause: NameError,
    },
    /// The identity belongs to another trust domain.
    #[error("identity {identity} is outside the trust domain {trust_domain} of this authority")]
    Foreign {
        /// What was asked for.
        identity: Identity,
        /// What this authority answers for.
        trust_domain: String,
    },
    /// There is one already, and it stays.
    #[error("certificate authority exists in {path}; it is never overwritten: use it, or choose another directory")]
    Exists {
        /// The state directory.
        path: PathBuf,
    },
    /// Some of its files are there and some are not.
    #[error(
        "certificate authority in {path} is incomplete: {missing} is missing; restore it from a copy, or remove the \
             directory to begin anew"
    )]
    Incomplete {
        /// The state directory.
        path: PathBuf,
        /// The file.
        missing: String,
    },
    /// Others could read the keys.
    #[error("directory {path} may be entered by others (mode {mode:o}): chmod 700 {path}")]
    Open {
        /// The state directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The root's key is not on this host, so only workloads can be certified here.
    #[error("no root key in {path}: intermediates are issued on the host where `enforcer ca init` was run")]
    NoRootKey {
        /// The state directory.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("{operation} {path}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// A file does not contain what its name says.
    #[error("{path} holds no {expected}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// The request is malformed, or not signed by its own key.
    #[error("certificate request does not verify")]
    Request(#[source] rcgen::Error),
    /// The request is longer than any that makes sense.
    #[error("certificate request has more than {LONGEST_REQUEST} octets")]
    LongRequest,
    /// The issuer itself is not valid any more.
    #[error(
        "the intermediate certificate has expired ({not_after}); run the agent on the host of the root, or issue a \
             new one with `enforcer ca issue --node`"
    )]
    IssuerExpired {
        /// When.
        not_after: OffsetDateTime,
    },
    /// The lifetime is not one that is given.
    #[error("lifetime must be between 5 minutes and {LONGEST_WORKLOAD_LIFETIME}")]
    Lifetime,
    /// Signing failed.
    #[error("sign certificate")]
    Sign(#[source] rcgen::Error),
}

/// Opens the authority in a state directory, or makes one if the directory is empty.
///
/// # Errors
///
/// [`Error`].
pub fn open_or_create(directory: &Path, trust_domain: &str) -> Result<Arc<dyn Authority>, Error> {
    Embedded::open_or_create(directory, trust_domain).map(|authority| Arc::new(authority) as Arc<dyn Authority>)
}
