//! Certificates that must and must not be accepted, and the handshakes that follow.

use std::sync::Arc;
use std::time::Duration as StdDuration;

use enforcer_ebpf::Reason;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, NamedGroup, ProtocolVersion, ServerConfig, ServerConnection,
};
use time::{Duration, OffsetDateTime};

use super::fixture::{EXPECTED, Root, leaf, uri};
use super::tls::{Alpn, crypto_provider, crypto_provider_for, server_name};
use super::verify::{Expected, Verifier};
use super::{Identity, proven, reason_of, verify_at};
use crate::control::snapshot::Cipher;

fn verdict(root: &Root, chain: &[CertificateDer<'static>]) -> Result<(), Reason> {
    let expected: Identity = EXPECTED.parse().unwrap();
    verify_at(chain, &root.trusted.current().anchors, &expected, UnixTime::now()).map_err(|error| reason_of(&error))
}

#[test]
fn only_the_expected_workload_is_accepted() {
    type Change = fn(&mut CertificateParams);
    let (invalid, mismatch) = (Err(Reason::PeerCertificateInvalid), Err(Reason::PeerIdentityMismatch));
    let cases: [(&str, Change, Result<(), Reason>); 18] = [
        ("as it should be", |_| {}, Ok(())),
        ("with a DNS name beside", |p| p.subject_alt_names.push(SanType::DnsName("web".try_into().unwrap())), Ok(())),
        ("another identity", |p| p.subject_alt_names = vec![uri("spiffe://example.org/ns/default/sa/db")], mismatch),
        (
            "another trust domain",
            |p| p.subject_alt_names = vec![uri("spiffe://example.com/ns/default/sa/web")],
            mismatch,
        ),
        ("a longer identity", |p| p.subject_alt_names = vec![uri("spiffe://example.org/ns/default/sa/web2")], mismatch),
        ("two URIs, the first expected", |p| p.subject_alt_names.push(uri("spiffe://example.org/x")), mismatch),
        ("two URIs, one no SPIFFE ID", |p| p.subject_alt_names.insert(0, uri("https://example.org")), mismatch),
        ("no name", |p| p.subject_alt_names.clear(), mismatch),
        ("a DNS name only", |p| p.subject_alt_names = vec![SanType::DnsName("web".try_into().unwrap())], mismatch),
        ("expired", |p| p.not_after = OffsetDateTime::now_utc() - Duration::SECOND, invalid),
        ("not valid yet", |p| p.not_before = OffsetDateTime::now_utc() + Duration::MINUTE, invalid),
        (
            "for clients only",
            |p| p.extended_key_usages.retain(|it| *it == ExtendedKeyUsagePurpose::ClientAuth),
            invalid,
        ),
        (
            "for servers only",
            |p| p.extended_key_usages.retain(|it| *it == ExtendedKeyUsagePurpose::ServerAuth),
            invalid,
        ),
        ("for no role", |p| p.extended_key_usages.clear(), invalid),
        ("without key usage", |p| p.key_usages.clear(), invalid),
        ("whose key signs no handshakes", |p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment], invalid),
        ("whose key signs certificates", |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign), invalid),
        ("an authority", |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), invalid),
    ];
    let root = Root::new();
    for (name, change, expected) in cases {
        assert_eq!(verdict(&root, &[root.sign(&leaf(change)).0]), expected, "{name}");
    }
}

#[test]
fn only_chains_to_the_bundle_are_accepted() {
    let (root, other) = (Root::new(), Root::new());
    let invalid = Err(Reason::PeerCertificateInvalid);
    assert_eq!(verdict(&root, &[other.sign(&leaf(|_| {})).0]), invalid, "another root");
    assert_eq!(verdict(&root, &[]), invalid, "no certificate");
    let key = KeyPair::generate().unwrap();
    assert_eq!(verdict(&root, &[leaf(|_| {}).self_signed(&key).unwrap().der().clone()]), invalid, "self-signed");
    assert_eq!(verdict(&root, &[CertificateDer::from(vec![0x30, 0x03, 0x02, 0x01, 0x01])]), invalid, "no certificate");
    let mut broken = root.sign(&leaf(|_| {})).0.to_vec();
    *broken.last_mut().unwrap() ^= 1;
    assert_eq!(verdict(&root, &[CertificateDer::from(broken)]), invalid, "broken signature");
}

#[test]
fn validity_is_judged_at_the_given_time() {
    let root = Root::new();
    let chain = [root.sign(&leaf(|_| {})).0];
    let expected: Identity = EXPECTED.parse().unwrap();
    let at = |seconds: i64| {
        let at = OffsetDateTime::now_utc().unix_timestamp() + seconds;
        UnixTime::since_unix_epoch(StdDuration::from_secs(at.unsigned_abs()))
    };
    assert!(verify_at(&chain, &root.trusted.current().anchors, &expected, at(3500)).is_ok());
    assert!(verify_at(&chain, &root.trusted.current().anchors, &expected, at(3700)).is_err());
}

#[test]
fn what_was_proven_ends_with_the_first_certificate() {
    let root = Root::new();
    let end = |params: &CertificateParams| params.not_after.replace_nanosecond(0).unwrap();
    let (leaf, shorter) = (leaf(|_| {}), leaf(|params| params.not_after -= Duration::MINUTE));
    let (first, second) = (root.sign(&leaf).0, root.sign(&shorter).0);
    let expected: Identity = EXPECTED.parse().unwrap();
    assert_eq!(proven(std::slice::from_ref(&first)), Some((expected.clone(), end(&leaf))));
    assert_eq!(proven(&[first, second]), Some((expected, end(&shorter))));
    assert_eq!(proven(&[]), None);
    assert_eq!(proven(&[CertificateDer::from(vec![0x30])]), None);
}

/// What both ends agreed on, or which end refused.
fn shake_hands(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), Reason> {
    let mut client = ClientConnection::new(client, server_name()).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    for _flight in 0..4 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        feed(&wire, |mut wire| server.read_tls(&mut wire).map(|_| ()));
        server.process_new_packets().map_err(|error| reason_of(&error))?;
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        feed(&wire, |mut wire| client.read_tls(&mut wire).map(|_| ()));
        client.process_new_packets().map_err(|error| reason_of(&error))?;
    }
    Ok((client, server))
}

fn feed(wire: &[u8], mut read: impl FnMut(&[u8]) -> std::io::Result<()>) {
    // A flight is smaller than what one call takes.
    for part in wire.chunks(2048) {
        read(part).unwrap();
    }
}

#[test]
fn a_handshake_is_mutual_hybrid_and_leaves_no_ticket() {
    let root = Root::new();
    let (a, b) = (root.credentials(&leaf(|_| {})), root.credentials(&leaf(|_| {})));
    let expected: Identity = EXPECTED.parse().unwrap();
    for alpn in [Alpn::Enforcer, Alpn::None] {
        let client = a.client_config(&expected, alpn).unwrap();
        let server = b.server_config(&expected, alpn).unwrap();
        let (client, server) = shake_hands(client, server).unwrap();
        assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        let group = client.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, NamedGroup::X25519MLKEM768);
        assert!(client.peer_certificates().is_some() && server.peer_certificates().is_some());
        assert_eq!(client.tls13_tickets_received(), 0);
        assert_eq!(client.alpn_protocol().is_some(), alpn == Alpn::Enforcer);
    }
}

#[test]
fn peers_of_another_kind_are_refused_or_met_halfway() {
    let root = Root::new();
    let expected: Identity = EXPECTED.parse().unwrap();
    let ours = root.credentials(&leaf(|_| {}));
    let server = || ours.server_config(&expected, Alpn::None).unwrap();
    let foreign = |groups: Vec<&'static dyn rustls::crypto::SupportedKxGroup>| {
        let provider = rustls::crypto::CryptoProvider { kx_groups: groups, ..(*crypto_provider()).clone() };
        let verifier = Verifier::new(Expected::One(expected.clone()), root.trusted.clone());
        ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
    };
    use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, X25519};
    let classic = foreign(vec![X25519]).with_client_cert_resolver(ours.resolver());
    let (client, _) = shake_hands(Arc::new(classic), server()).unwrap();
    assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519);

    let nist = foreign(vec![SECP256R1]).with_client_cert_resolver(ours.resolver());
    assert_eq!(shake_hands(Arc::new(nist), server()).unwrap_err(), Reason::PeerIncompatible);

    let nameless = foreign(vec![X25519]).with_no_client_auth();
    assert_eq!(shake_hands(Arc::new(nameless), server()).unwrap_err(), Reason::PeerCertificateInvalid);
}

#[test]
fn each_end_refuses_the_wrong_other() {
    let root = Root::new();
    let ours = root.credentials(&leaf(|_| {}));
    let expected: Identity = EXPECTED.parse().unwrap();
    let other: Identity = "spiffe://example.org/ns/default/sa/db".parse().unwrap();
    let cases = [(&other, &expected), (&expected, &other)];
    for (client_expects, server_expects) in cases {
        let client = ours.client_config(client_expects, Alpn::Enforcer).unwrap();
        let server = ours.server_config(server_expects, Alpn::Enforcer).unwrap();
        assert_eq!(shake_hands(client, server).unwrap_err(), Reason::PeerIdentityMismatch);
    }
}

#[test]
fn the_cipher_that_is_asked_for_comes_first_and_the_others_stay() {
    let suites = |cipher| {
        let provider = crypto_provider_for(cipher);
        provider.cipher_suites.iter().map(|suite| suite.suite()).collect::<Vec<_>>()
    };
    let usual = suites(Cipher::Aes128Gcm);
    assert_eq!(usual[0], CipherSuite::TLS13_AES_128_GCM_SHA256);
    for (cipher, first) in [
        (Cipher::Aes256Gcm, CipherSuite::TLS13_AES_256_GCM_SHA384),
        (Cipher::ChaCha20Poly1305, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
    ] {
        let found = suites(cipher);
        assert_eq!((found[0], found.len()), (first, usual.len()));
        assert!(usual.iter().all(|suite| found.contains(suite)));
    }
}
