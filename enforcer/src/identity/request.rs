//! One certificate: a key made here, a request, and an answer that is checked before it is used.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{PrivatePkcs8KeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use tokio::task::spawn_blocking;

use super::name::Identity;
use super::serial::Serial;
use super::source::{Refused, Source};
use super::store::{Credentials, Parts};
use super::verify::verify_at;
use crate::ca::{self, Issued, SigningRequest};

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
    /// The source does not issue it.
    #[error("issue certificate for {identity}")]
    Issue {
        /// For whom.
        identity: Identity,
        /// Why.
        #[source]
        cause: Refused,
    },
    /// What was issued is not what was asked for, or does not verify.
    #[error("use certificate that was issued for {identity}")]
    Unusable {
        /// For whom.
        identity: Identity,
        /// Why.
        #[source]
        cause: rustls::Error,
    },
}

/// Makes a key, has it certified and checks the result. The key's memory is freed like any other: `rcgen` and `rustls`
/// keep copies that nobody can wipe.
pub(super) async fn obtain(
    source: &dyn Source,
    identity: &Identity,
    provider: &Arc<CryptoProvider>,
) -> Result<Credentials, Error> {
    let failed = |cause| Error::Request { identity: identity.clone(), cause };
    let (key, csr) = blocking(|| {
        let key = KeyPair::generate()?;
        let csr = CertificateParams::default().serialize_request(&key)?;
        Ok((key, csr.der().clone()))
    })
    .await
    .map_err(failed)?;
    let request = SigningRequest { csr, identity: identity.clone(), lifetime: ca::WORKLOAD_LIFETIME };
    let issued = source.issue(request).await.map_err(|cause| Error::Issue { identity: identity.clone(), cause })?;
    let trusted = source.trusted();
    let (checked, wanted, provider_of_key) = (trusted.clone(), identity.clone(), Arc::clone(provider));
    let (validity, issuer) = ((issued.not_before, issued.not_after), issued.issuer.clone());
    let used = blocking(move || {
        verify_at(&issued.chain, &checked.current().anchors, &wanted, UnixTime::now())?;
        let serial = issued.chain.first().and_then(Serial::of).ok_or(rustls::CertificateError::BadEncoding)?;
        Ok((certified(issued, &key, &provider_of_key)?, serial))
    });
    let (key, serial) = used.await.map_err(|cause| Error::Unusable { identity: identity.clone(), cause })?;
    Ok(Credentials::new(Parts {
        identity: identity.clone(),
        serial,
        validity,
        issuer,
        trusted,
        key,
        provider: Arc::clone(provider),
    }))
}

/// A chain with its key. rustls refuses a certificate that is not the key's.
pub(super) fn certified(
    issued: Issued,
    key: &KeyPair,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, rustls::Error> {
    let der = PrivatePkcs8KeyDer::from(key.serialize_der());
    CertifiedKey::from_der(issued.chain, der.into(), provider)
}

/// Keys and signatures take long enough to keep others waiting.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}
