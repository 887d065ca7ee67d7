//! Credentials as handshake configurations: TLS 1.3 only, mutual, only who is expected, no resumption.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use rustls::{CipherSuite, ClientConfig, Error, ServerConfig};

use super::name::Identity;
use super::store::Credentials;
use super::verify::{Expected, Verifier};
use crate::control::snapshot::Cipher;

/// The application protocol by which agents know each other (RFC 7301).
const ENFORCER: &[u8] = b"enforcer/1";
/// That of sessions between two agents. A connection of workloads can never be taken for one.
pub(super) const PAIR: &[u8] = b"enforcer-pair/2";

/// By which an authority asks who has a name (RFC 8737 4).
pub(crate) const ACME: &[u8] = b"acme-tls/1";

/// Whether a ClientHello that offers this protocol is of an agent.
#[must_use]
pub(crate) fn is_ours(protocol: &[u8]) -> bool {
    protocol == ENFORCER || protocol == PAIR
}

/// Which application protocol is agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// Ours: the peer has an agent.
    Enforcer,
    /// That of pair sessions: the peer is an agent.
    Pair,
    /// None: the peer is an ordinary TLS endpoint.
    None,
}

impl Alpn {
    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::Enforcer => vec![ENFORCER.to_vec()],
            Self::Pair => vec![PAIR.to_vec()],
            Self::None => Vec::new(),
        }
    }
}

/// Algorithms, best first. AES-128-GCM leads because the kernel encrypts it fastest; the hybrid key exchange leads
/// against those who record today and decrypt later.
#[must_use]
pub fn crypto_provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(provider()));
    Arc::clone(&PROVIDER)
}

/// The same, with another cipher first.
pub(super) fn crypto_provider_for(cipher: Cipher) -> Arc<CryptoProvider> {
    let suite = match cipher {
        Cipher::Aes128Gcm => return crypto_provider(),
        Cipher::Aes256Gcm => CipherSuite::TLS13_AES_256_GCM_SHA384,
        Cipher::ChaCha20Poly1305 => CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    };
    let mut provider = provider();
    provider.cipher_suites.sort_by_key(|offered| offered.suite() != suite);
    Arc::new(provider)
}

fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519],
        ..aws_lc_rs::default_provider()
    }
}

/// The configuration for opening a connection to `expected`.
///
/// # Errors
///
/// rustls's, when certificate and key do not belong together.
pub(super) fn client(credentials: &Credentials, expected: &Identity, alpn: Alpn) -> Result<ClientConfig, Error> {
    let provider = Arc::clone(&credentials.provider);
    let expected = Expected::One(expected.clone());
    let verifier = Verifier::new(expected, credentials.trusted.clone());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(credentials.resolver());
    config.alpn_protocols = alpn.protocols();
    config.resumption = Resumption::disabled();
    // No name goes out in the clear. Only an agent must be told which of its workloads is meant: by a pseudonym.
    config.enable_sni = alpn == Alpn::Pair;
    config.enable_secret_extraction = alpn != Alpn::Pair;
    Ok(config)
}

/// The configuration for a connection that somebody expected opens.
///
/// # Errors
///
/// As for [`client`].
pub(super) fn server(credentials: &Credentials, expected: Expected, alpn: Alpn) -> Result<ServerConfig, Error> {
    let provider = Arc::clone(&credentials.provider);
    let verifier = Verifier::new(expected, credentials.trusted.clone());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(credentials.resolver());
    config.alpn_protocols = alpn.protocols();
    config.send_tls13_tickets = 0;
    config.enable_secret_extraction = alpn != Alpn::Pair;
    Ok(config)
}

/// What rustls wants to be told as the server's name; nothing looks at it.
#[must_use]
pub fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into())
}
