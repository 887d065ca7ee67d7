//! Handshakes of pair sessions: which workload an agent is asked for, and who may ask.
//!
//! An agent answers for all its workloads at one address, so the client must say which one it means, and the name goes
//! over the wire in the clear (SNI, RFC 6066 3). It says the workload's *pseudonym*:
//!
//! ```text
//! pseudonym = "p" || hex(SHA-256("enforcer pair session" || 0x00 || identity)[.. 16])
//! ```
//!
//! It hides the name from those who do not know it, and nothing more: whoever guesses an identity can confirm it, and
//! who sees the same pseudonym twice knows that it is the same workload. The letter is there because a DNS name of
//! digits alone is none. The pseudonym chooses a certificate and proves nothing; both ends verify the other's.
//!
//! Nobody learns from a refusal which workloads are here: one that is not, one whose certificate has run out, and an
//! application protocol that is not ours are refused with the same alert.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{Error, ServerConfig};

use super::name::Identity;
use super::store::{Credentials, Store};
use super::tls::{self, Alpn, PAIR};
use super::verify::Expected;

/// Octets of the hash that are kept: enough that no two identities of one agent ever share a pseudonym by chance.
const KEPT: usize = 16;

/// What the workload is called in the clear.
#[must_use]
pub(super) fn pseudonym(identity: &Identity) -> String {
    let suite = TLS13_AES_128_GCM_SHA256.tls13().expect("a cipher suite of TLS 1.3");
    let input = [b"enforcer pair session\0", identity.as_str().as_bytes()].concat();
    let hash = suite.common.hash_provider.hash(&input);
    hash.as_ref().iter().take(KEPT).fold("p".to_owned(), |mut text, octet| {
        write!(text, "{octet:02x}").expect("a text takes everything");
        text
    })
}

/// The name by which the client of a session asks for a workload.
#[must_use]
pub fn server_name(identity: &Identity) -> ServerName<'static> {
    ServerName::try_from(pseudonym(identity)).expect("a letter and hexadecimal digits are a DNS name")
}

/// The credentials of the workload that the client of a session asks for, if it is here and asked for as it should be.
#[must_use]
pub fn asked_for(store: &Store, hello: &ClientHello<'_>) -> Option<Arc<Credentials>> {
    // rustls refuses a protocol that is not ours, but lets one pass that offers none at all.
    hello.alpn()?.find(|protocol| *protocol == PAIR)?;
    store.called(hello.server_name()?)
}

/// The configuration for sessions that one of `peers` opens to the workload with these credentials.
///
/// # Errors
///
/// rustls's, when it cannot be made.
pub fn server_config(credentials: &Credentials, peers: Arc<HashSet<Identity>>) -> Result<Arc<ServerConfig>, Error> {
    tls::server(credentials, Expected::AnyOf(peers), Alpn::Pair).map(Arc::new)
}

/// The configuration with which a handshake is refused: with an alert, so that the client knows that it was.
///
/// # Errors
///
/// As for [`server_config`].
pub fn refusal() -> Result<Arc<ServerConfig>, Error> {
    let config = ServerConfig::builder_with_provider(tls::crypto_provider())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Nobody));
    Ok(Arc::new(config))
}

/// Has no certificate for anybody.
#[derive(Debug)]
struct Nobody;

impl ResolvesServerCert for Nobody {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn a_pseudonym_is_as_documented() {
        let identity: Identity = "spiffe://example.org/ns/default/sa/web".parse().unwrap();
        let hash = Sha256::digest(b"enforcer pair session\0spiffe://example.org/ns/default/sa/web");
        let hex: String = hash[..16].iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(pseudonym(&identity), format!("p{hex}"));
        assert_eq!(server_name(&identity).to_str(), format!("p{hex}"));
        let other: Identity = "spiffe://example.org/ns/default/sa/web2".parse().unwrap();
        assert_ne!(pseudonym(&identity), pseudonym(&other));
    }
}
