//! One certificate: a key made here, a request, and an answer that is checked before it is used.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{PrivatePkcs8KeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;

use super::name::Identity;
use super::serial::Serial;
use super::store::{Credentials, Parts};
use super::verify::{Anchors, verify_at};
use crate::ca::{self, Authority, SigningRequest};

/// There is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key or the request cannot be made.
    #[error("make key and request for {identity}")]
    Request {
        /// For whom.
        identity: Identity,
        /// Why.
        #[source]
        cause: rcgen::Error,
    },
    /// The authority does not issue it.
    #[error("issue certificate for {identity}")]
    Issue {
        /// For whom.
        identity: Identity,
        /// Why.
        #[source]
        cause: ca::Error,
    },
    /// What the authority issued is not what was asked for, or does not verify.
    #[error("use certificate that was issued for {identity}")]
    Unusable {
        /// For whom.
        identity: Identity,
        /// Why.
        #[source]
        cause: rustls::Error,
    },
}

/// Makes a key, has it certified and checks the result. Blocks for a signature or two. The key's memory is freed like
/// any other: `rcgen` and `rustls` keep copies that nobody can wipe.
pub(super) fn obtain(
    authority: &dyn Authority,
    (identity, provider): (&Identity, &Arc<CryptoProvider>),
    now: OffsetDateTime,
) -> Result<Credentials, Error> {
    let failed = |cause| Error::Request { identity: identity.clone(), cause };
    let key = KeyPair::generate().map_err(failed)?;
    let csr = CertificateParams::default().serialize_request(&key).map_err(failed)?;
    let request =
        SigningRequest { csr: csr.der().clone(), identity: identity.clone(), lifetime: ca::WORKLOAD_LIFETIME };
    let issued = authority.issue(&request, now).map_err(|cause| Error::Issue { identity: identity.clone(), cause })?;
    let unusable = |cause| Error::Unusable { identity: identity.clone(), cause };
    let anchors = Anchors::new(&authority.bundle())
        .map_err(|unreadable| unusable(rustls::Error::General(unreadable.to_string())))?;
    let unix = u64::try_from(now.unix_timestamp()).unwrap_or_default();
    verify_at(&issued.chain, &anchors, identity, UnixTime::since_unix_epoch(std::time::Duration::from_secs(unix)))
        .map_err(unusable)?;
    let serial = issued.chain.first().and_then(Serial::of);
    let serial = serial.ok_or_else(|| unusable(rustls::Error::General("no serial number".to_owned())))?;
    let der = PrivatePkcs8KeyDer::from(key.serialize_der());
    let key = CertifiedKey::from_der(issued.chain, der.into(), provider).map_err(unusable)?;
    Ok(Credentials::new(Parts {
        identity: identity.clone(),
        serial,
        validity: (issued.not_before, issued.not_after),
        anchors: Arc::new(anchors),
        key,
        provider: Arc::clone(provider),
    }))
}
