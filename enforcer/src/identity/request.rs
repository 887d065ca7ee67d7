//! One certificate: a key made here, a request, and an answer that is checked before it is used.

use std::future::pending;
use std::panic::resume_unwind;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use super::name::Identity;
use super::serial::Serial;
use super::source::{Refused, Source};
use super::store::{Credentials, Parts};
use super::trust::Trusted;
use super::verify::{Anchors, verify_at};
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

/// A certificate that was checked, with its key.
pub(super) struct Obtained {
    pub(super) issued: Issued,
    pub(super) serial: Serial,
    /// PKCS#8 (RFC 5958), DER.
    pub(super) key: Zeroizing<Vec<u8>>,
    pub(super) certified: CertifiedKey,
    pub(super) trusted: Trusted,
}

/// Makes a key, has it certified and checks the result. Copies of the key that `rcgen` and `rustls` keep are freed like
/// any other memory: nobody can wipe them.
pub(super) async fn certify(
    source: &dyn Source,
    identity: &Identity,
    provider: &Arc<CryptoProvider>,
) -> Result<Obtained, Error> {
    let failed = |cause| Error::Request { identity: identity.clone(), cause };
    let (key, csr) = blocking(|| {
        let key = KeyPair::generate()?;
        let csr = CertificateParams::default().serialize_request(&key)?;
        Ok((Zeroizing::new(key.serialize_der()), csr.der().clone()))
    })
    .await
    .map_err(failed)?;
    let request = SigningRequest { csr, identity: identity.clone(), lifetime: ca::WORKLOAD_LIFETIME };
    let issued = source.issue(request).await.map_err(|cause| Error::Issue { identity: identity.clone(), cause })?;
    let trusted = source.trusted();
    let (trust, wanted, provider) = (trusted.current(), identity.clone(), Arc::clone(provider));
    let checking = blocking(move || {
        let (certified, serial) = check((issued.chain.clone(), &key), &trust.anchors, &wanted, &provider)?;
        Ok(Obtained { issued, serial, key, certified, trusted })
    });
    checking.await.map_err(|cause| Error::Unusable { identity: identity.clone(), cause })
}

/// The same, as credentials of handshakes.
pub(super) async fn obtain(
    source: &dyn Source,
    identity: &Identity,
    provider: &Arc<CryptoProvider>,
) -> Result<Credentials, Error> {
    let Obtained { issued, serial, certified, trusted, .. } = certify(source, identity, provider).await?;
    Ok(Credentials::new(Parts {
        identity: identity.clone(),
        serial,
        validity: (issued.not_before, issued.not_after),
        issuer: issued.issuer,
        trusted,
        key: certified,
        provider: Arc::clone(provider),
    }))
}

/// A chain with its key, PKCS#8, if it would convince a peer now. rustls refuses a certificate that is not the key's.
pub(super) fn check(
    (chain, key): (Vec<CertificateDer<'static>>, &[u8]),
    anchors: &Anchors,
    identity: &Identity,
    provider: &CryptoProvider,
) -> Result<(CertifiedKey, Serial), rustls::Error> {
    verify_at(&chain, anchors, identity, UnixTime::now())?;
    let serial = chain.first().and_then(Serial::of).ok_or(rustls::CertificateError::BadEncoding)?;
    let key = PrivatePkcs8KeyDer::from(key).clone_key();
    Ok((CertifiedKey::from_der(chain, key.into(), provider)?, serial))
}

/// Runs what blocks, or takes long enough to keep others waiting, such as keys and signatures.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime ends, and with it whoever waits.
            Err(_cancelled) => pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn what_a_runtime_that_has_ended_does_not_begin_is_no_panic() {
        let runtime = Builder::new_current_thread().build().unwrap();
        let handle = runtime.handle().clone();
        drop(runtime);
        let _inside = handle.enter();
        let waiting = pin!(blocking(|| ()));
        assert!(waiting.poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
}
