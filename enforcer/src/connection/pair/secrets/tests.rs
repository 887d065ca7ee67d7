//! Known answers for whole sessions: those of another HKDF implementation.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use hkdf::Hkdf;
use hkdf::hmac::digest::Digest;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, KeyLog, RootCertStore, ServerConfig, ServerConnection};
use sha2::{Sha256, Sha384};

use super::*;
use crate::connection::pair::{Connection, Role};
use crate::identity::tls::crypto_provider;

/// Keeps the secret from which everything is exported.
#[derive(Default)]
struct ExporterSecret(Mutex<Vec<u8>>);

impl KeyLog for ExporterSecret {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        if label == "EXPORTER_SECRET" {
            *self.0.lock().unwrap() = secret.to_vec();
        }
    }
}

impl fmt::Debug for ExporterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExporterSecret")
    }
}

struct Session {
    client: ClientConnection,
    server: ServerConnection,
    exporter_secret: Vec<u8>,
}

/// Both configurations for sessions with this cipher suite.
pub(in crate::connection::pair) fn configs(name: CipherSuite) -> (ClientConfig, ServerConfig) {
    let base = crypto_provider();
    let cipher_suites = base.cipher_suites.iter().copied().filter(|suite| suite.suite() == name).collect();
    let provider = Arc::new(CryptoProvider { cipher_suites, ..(*base).clone() });
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["pair.test".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    server.send_tls13_tickets = 0;
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (client, server)
}

fn session(name: CipherSuite) -> Session {
    let (mut client, server) = configs(name);
    let log = Arc::new(ExporterSecret::default());
    client.key_log = Arc::clone(&log) as Arc<dyn KeyLog>;
    let client = ClientConnection::new(Arc::new(client), "pair.test".try_into().unwrap()).unwrap();
    let server = ServerConnection::new(Arc::new(server)).unwrap();
    let (client, server) = shake_hands(client, server);
    let exporter_secret = log.0.lock().unwrap().clone();
    Session { client, server, exporter_secret }
}

fn shake_hands(mut client: ClientConnection, mut server: ServerConnection) -> (ClientConnection, ServerConnection) {
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        wire.clear();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets().unwrap();
    }
    (client, server)
}

fn offer() -> Offer {
    let connection =
        Connection { source: "10.0.0.1:40000".parse().unwrap(), destination: "[fd00::2]:443".parse().unwrap() };
    Offer { by: Role::Client, number: 7, connection }
}

fn parts(key: &TrafficKey) -> (Vec<u8>, Vec<u8>) {
    (key.key().to_vec(), key.iv.to_vec())
}

/// HKDF-Expand-Label of RFC 8446 7.1.
macro_rules! expand_label {
    ($hash:ty, $secret:expr, $label:expr, $context:expr, $length:expr) => {{
        let (label, context): (String, Vec<u8>) = (format!("tls13 {}", $label), $context.to_vec());
        let mut info = u16::try_from($length).unwrap().to_be_bytes().to_vec();
        info.push(u8::try_from(label.len()).unwrap());
        info.extend(label.as_bytes());
        info.push(u8::try_from(context.len()).unwrap());
        info.extend(context);
        let mut out = vec![0; $length];
        Hkdf::<$hash>::from_prk(&$secret).unwrap().expand(&info, &mut out).unwrap();
        out
    }};
}

/// Everything from the exporter's secret on (RFC 8446 7.5, RFC 5869 2.3), once more and by other means.
macro_rules! expected {
    ($hash:ty, $session:expr, $key:expr) => {{
        let length = <$hash>::output_size();
        let mut context = vec![1, 0, 0, 0, 0, 0, 0, 0, 7];
        context.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1, 0x9c, 0x40]);
        context.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0x01, 0xbb]);
        let (name, nothing) = ("EXPERIMENTAL-enforcer-direct-2", <$hash>::digest([]));
        let derived = expand_label!($hash, $session.exporter_secret, name, nothing, length);
        let secret = expand_label!($hash, derived, "exporter", nothing, length);
        let mut okm = vec![0; 2 * ($key + 12)];
        Hkdf::<$hash>::from_prk(&secret).unwrap().expand(&context, &mut okm).unwrap();
        let direction = |octets: &[u8]| (octets[..$key].to_vec(), octets[$key..].to_vec());
        (direction(&okm[..$key + 12]), direction(&okm[$key + 12..]))
    }};
}

#[test]
fn both_ends_have_the_keys_that_the_definition_gives() {
    for name in [
        CipherSuite::TLS13_AES_128_GCM_SHA256,
        CipherSuite::TLS13_AES_256_GCM_SHA384,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    ] {
        let session = session(name);
        let expected = match name {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => expected!(Sha256, session, 16),
            CipherSuite::TLS13_AES_256_GCM_SHA384 => expected!(Sha384, session, 32),
            _ => expected!(Sha256, session, 32),
        };
        for secret in [Secret::export(&session.client).unwrap(), Secret::export(&session.server).unwrap()] {
            let keys = secret.keys(&offer()).unwrap();
            assert_eq!((parts(&keys.forward), parts(&keys.back)), expected, "{name:?}");
            assert_eq!((keys.forward.suite, keys.back.suite), (name, name));
        }
    }
}

#[test]
fn every_part_of_an_offer_changes_every_key() {
    let session = session(CipherSuite::TLS13_AES_128_GCM_SHA256);
    let other: SocketAddr = "10.0.0.1:40001".parse().unwrap();
    let connection = offer().connection;
    let offers = [
        offer(),
        Offer { by: Role::Server, ..offer() },
        Offer { number: 8, ..offer() },
        Offer { connection: Connection { source: other, ..connection }, ..offer() },
        Offer { connection: Connection { destination: other, ..connection }, ..offer() },
    ];
    let secret = Secret::export(&session.client).unwrap();
    let keys: Vec<_> = offers.iter().map(|offer| secret.keys(offer).unwrap()).collect();
    let mut all: Vec<_> = keys.iter().flat_map(|keys| [parts(&keys.forward), parts(&keys.back)]).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 2 * offers.len());
}

#[test]
fn there_are_no_keys_before_the_handshake() {
    let config = ClientConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let session = ClientConnection::new(Arc::new(config), "pair.test".try_into().unwrap()).unwrap();
    assert!(matches!(Secret::export(&session), Err(Error::CipherSuite(None))));
}
