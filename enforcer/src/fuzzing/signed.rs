//! Signatures that are good: nobody finds one by chance, and what is behind them would never be looked at.

use std::sync::LazyLock;

use aws_lc_rs::signature::Ed25519KeyPair;
use rustls::pki_types::PrivatePkcs8KeyDer;

/// Of the one key: Ed25519, and everybody knows it.
const SEED: [u8; 32] = [7; 32];
/// What its PKCS#8 has before the seed (RFC 8410 7).
const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// id-Ed25519 (RFC 8410 3).
const ALGORITHM: [u8; 7] = [0x30, 5, 6, 3, 0x2b, 0x65, 0x70];

/// The key.
pub(crate) fn key() -> PrivatePkcs8KeyDer<'static> {
    [&PKCS8[..], &SEED].concat().into()
}

/// Content with its signature, as certificates, requests and revocation lists have it (RFC 5280 4.1.1).
pub(crate) fn signed(content: &[u8]) -> Vec<u8> {
    static KEY: LazyLock<Ed25519KeyPair> =
        LazyLock::new(|| Ed25519KeyPair::from_seed_unchecked(&SEED).expect("any seed is one"));
    let signature = KEY.sign(content);
    let signature = tagged(3, &[&[0], signature.as_ref()].concat());
    tagged(0x30, &[content, &ALGORITHM, &signature].concat())
}

/// DER, with a length of as few octets as it needs.
fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let significant: Vec<u8> = length.into_iter().skip_while(|&octet| octet == 0).collect();
    let head = match *significant {
        [] => vec![tag, 0],
        [short] if short < 0x80 => vec![tag, short],
        _ => [&[tag, 0x80 | significant.len().to_le_bytes()[0]], &significant[..]].concat(),
    };
    [&head, content].concat()
}
