//! The current credentials of every workload of this node. Keys are here and nowhere else, and never on a disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, Error, ServerConfig, SignatureScheme};
use time::OffsetDateTime;
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::name::Identity;
use super::pair;
use super::plain::{LONGEST_NAME, plain};
use super::serial::Serial;
use super::tls::{self, Alpn};
use super::trust::Trusted;
use super::verify::Expected;

/// Configurations that are kept per credentials and role. A registry with more identities than this makes some of
/// them anew for each connection.
const CACHED: usize = 1024;

/// A workload's certificate, its key, and whom it trusts. Immutable: a renewal makes new ones.
pub struct Credentials {
    /// Whose they are.
    pub identity: Identity,
    /// Of the certificate.
    pub serial: Serial,
    /// When the certificate begins to be valid.
    pub not_before: OffsetDateTime,
    /// When it stops.
    pub not_after: OffsetDateTime,
    /// The authority that has issued the certificate, where there may be several.
    pub issuer: String,
    /// Subject of the certificate that has signed it. Printable.
    pub signed_by: String,
    /// When it is renewed; `None` where whoever gave it does that.
    pub renewal: Option<OffsetDateTime>,
    /// Whom its handshakes trust.
    pub trusted: Trusted,
    /// What other agents call the identity.
    pub(super) pseudonym: String,
    /// With what its handshakes are made.
    pub(super) provider: Arc<CryptoProvider>,
    key: Arc<SingleCertAndKey>,
    clients: Cache<ClientConfig>,
    servers: Cache<ServerConfig>,
}

/// What credentials are made of.
pub(super) struct Parts {
    pub(super) identity: Identity,
    pub(super) serial: Serial,
    pub(super) validity: (OffsetDateTime, OffsetDateTime),
    pub(super) issuer: String,
    pub(super) trusted: Trusted,
    pub(super) key: CertifiedKey,
    pub(super) provider: Arc<CryptoProvider>,
}

impl Credentials {
    pub(super) fn new(parts: Parts) -> Self {
        let (not_before, not_after) = parts.validity;
        Self {
            pseudonym: pair::pseudonym(&parts.identity),
            identity: parts.identity,
            serial: parts.serial,
            not_before,
            not_after,
            issuer: parts.issuer,
            signed_by: parts.key.cert.first().and_then(signer).unwrap_or_default(),
            renewal: None,
            trusted: parts.trusted,
            provider: parts.provider,
            key: Arc::new(SingleCertAndKey::from(parts.key)),
            clients: Cache::default(),
            servers: Cache::default(),
        }
    }

    /// The configuration for opening a connection to `expected`.
    ///
    /// # Errors
    ///
    /// rustls's, when it cannot be made.
    pub fn client_config(&self, expected: &Identity, alpn: Alpn) -> Result<Arc<ClientConfig>, Error> {
        self.clients.get((expected.clone(), alpn), || tls::client(self, expected, alpn))
    }

    /// The configuration for a connection that `expected` opens.
    ///
    /// # Errors
    ///
    /// rustls's, when it cannot be made.
    pub fn server_config(&self, expected: &Identity, alpn: Alpn) -> Result<Arc<ServerConfig>, Error> {
        self.servers.get((expected.clone(), alpn), || tls::server(self, Expected::One(expected.clone()), alpn))
    }

    pub(super) fn resolver(&self) -> Arc<Resolver> {
        Arc::new(Resolver(Arc::clone(&self.key)))
    }
}

fn signer(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(plain(&certificate.issuer().to_string(), LONGEST_NAME))
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("identity", &self.identity).field("serial", &self.serial).finish()
    }
}

/// Answers both roles with the one certificate.
#[derive(Debug)]
pub(super) struct Resolver(Arc<SingleCertAndKey>);

impl ResolvesClientCert for Resolver {
    fn resolve(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        ResolvesClientCert::resolve(&*self.0, hints, schemes)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        ResolvesServerCert::resolve(&*self.0, hello)
    }
}

/// Configurations by whom they expect.
struct Cache<T>(Mutex<HashMap<(Identity, Alpn), Arc<T>>>);

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Cache<T> {
    fn get(&self, key: (Identity, Alpn), make: impl FnOnce() -> Result<T, Error>) -> Result<Arc<T>, Error> {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = cached.get(&key) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(make()?);
        if cached.len() < CACHED {
            cached.insert(key, Arc::clone(&config));
        }
        Ok(config)
    }
}

/// There is nothing to prove an identity with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The identity is none of this node's, or was never issued.
    #[error("no certificate for {0}")]
    Unknown(Identity),
    /// The certificate has run out and could not be renewed.
    #[error("certificate for {0} has expired")]
    Expired(Identity),
}

/// By identity.
pub(super) type Held = BTreeMap<Identity, Arc<Credentials>>;

/// The credentials of all workloads. `rotate` is the only writer.
pub struct Store {
    current: watch::Receiver<Arc<Held>>,
}

/// The writing end of a [`Store`].
pub(super) type Writer = watch::Sender<Arc<Held>>;

impl Store {
    pub(super) fn new() -> (Writer, Self) {
        let (writer, current) = watch::channel(Arc::default());
        (writer, Self { current })
    }

    /// The valid credentials of an identity.
    ///
    /// # Errors
    ///
    /// [`Unavailable`].
    pub fn get(&self, identity: &Identity) -> Result<Arc<Credentials>, Unavailable> {
        self.get_at(identity, OffsetDateTime::now_utc())
    }

    fn get_at(&self, identity: &Identity, now: OffsetDateTime) -> Result<Arc<Credentials>, Unavailable> {
        let held = self.current.borrow().get(identity).cloned();
        let held = held.ok_or_else(|| Unavailable::Unknown(identity.clone()))?;
        if held.not_after <= now { Err(Unavailable::Expired(identity.clone())) } else { Ok(held) }
    }

    /// The valid credentials of the identity with this pseudonym.
    pub(super) fn called(&self, pseudonym: &str) -> Option<Arc<Credentials>> {
        let held = self.current.borrow().values().find(|held| held.pseudonym == pseudonym).cloned()?;
        (held.not_after > OffsetDateTime::now_utc()).then_some(held)
    }

    /// Returns when there are credentials of all of these.
    pub async fn have(&self, identities: &BTreeSet<Identity>) {
        let mut current = self.current.clone();
        let all = current.wait_for(|held| identities.iter().all(|identity| held.contains_key(identity)));
        if all.await.is_err() {
            // Nobody writes any more.
            pending().await
        }
    }

    /// All credentials, expired ones too, by identity.
    #[must_use]
    pub fn current(&self) -> Vec<Arc<Credentials>> {
        let mut held: Vec<_> = self.current.borrow().values().cloned().collect();
        held.sort_unstable_by(|a, b| a.identity.cmp(&b.identity));
        held
    }
}
