//! Control's own certificate: issued by itself, kept in memory, renewed at half life and with each new authority.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::sleep;

use super::super::domain::{Domain, Trust};
use super::Error;
use crate::identity::tls::crypto_provider;

/// Between attempts, and between looks at the clock.
const PAUSE: Duration = Duration::from_secs(10);

/// The certificate that agents see.
#[derive(Debug)]
pub(super) struct Own {
    current: Mutex<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Issues the first one and starts renewing it, as long as somebody uses it.
pub(super) async fn start(domain: Arc<Domain>, told: watch::Receiver<Arc<Trust>>) -> Result<Arc<Own>, Error> {
    let (first, renewal) = issue(&domain).await?;
    let own = Arc::new(Own { current: Mutex::new(first) });
    tokio::spawn(keep((Arc::downgrade(&own), domain), told, renewal));
    Ok(own)
}

async fn keep(
    (own, domain): (std::sync::Weak<Own>, Arc<Domain>),
    mut told: watch::Receiver<Arc<Trust>>,
    mut renewal: OffsetDateTime,
) {
    let mut issuer = told.borrow_and_update().issuer.clone();
    loop {
        let is_told = tokio::select! {
            told = told.changed() => told.is_ok(),
            () = sleep(PAUSE) => true,
        };
        let Some(own) = own.upgrade().filter(|_| is_told) else { return };
        let now_issuer = told.borrow_and_update().issuer.clone();
        if OffsetDateTime::now_utc() < renewal && now_issuer == issuer {
            continue;
        }
        match issue(&domain).await {
            Ok((next, at)) => {
                *own.current.lock().unwrap_or_else(PoisonError::into_inner) = next;
                (renewal, issuer) = (at, now_issuer);
            }
            Err(error) => tracing::error!(%error, "control's own certificate is not renewed; trying again"),
        }
    }
}

/// A certificate, and when to renew it. The roots are in the chain, so that a machine that has nothing but a token can
/// look for the one that the token names.
async fn issue(domain: &Domain) -> Result<(Arc<CertifiedKey>, OffsetDateTime), Error> {
    let key = KeyPair::generate().map_err(Error::Key)?;
    let request = CertificateParams::default().serialize_request(&key).map_err(Error::Key)?;
    let issued = domain.issue_own(request.der()).await?;
    let mut chain = issued.chain;
    chain.extend(domain.roots().await?);
    let der = PrivatePkcs8KeyDer::from(key.serialize_der());
    let certified = CertifiedKey::from_der(chain, der.into(), &crypto_provider()).map_err(Error::Tls)?;
    Ok((Arc::new(certified), issued.not_before + (issued.not_after - issued.not_before) / 2))
}
