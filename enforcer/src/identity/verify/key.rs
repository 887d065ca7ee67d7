//! Which public keys and signature algorithms are strong enough (RFC 8446 4.2.3 without what is only for old peers).
//!
//! webpki holds an issuer's key against the signatures that it made and never looks at a workload's own key, or at an
//! issuer's that it does not come to.

use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION, OID_PKCS1_RSASSAPSS, OID_PKCS1_SHA256WITHRSA,
    OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384,
    OID_SIG_ECDSA_WITH_SHA512, OID_SIG_ED25519, Oid,
};
use x509_parser::public_key::{PublicKey, RSAPublicKey};
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

/// secp384r1, 1.3.132.0.34 (RFC 5480 2.1.1.1).
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
/// secp521r1, 1.3.132.0.35.
const P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
/// Bits of an RSA modulus; a longer one makes verifying slow.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// Octets of an RSA exponent; a longer one makes verifying slow.
const RSA_EXPONENT: usize = 4;

/// Whether signatures with this key can be believed.
pub(super) fn is_strong(key: &SubjectPublicKeyInfo<'_>) -> bool {
    let octets = &key.subject_public_key.data;
    if key.subject_public_key.unused_bits != 0 {
        return false;
    }
    let algorithm = &key.algorithm.algorithm;
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        return curve(&key.algorithm).and_then(coordinate).is_some_and(|size| is_point(octets, size));
    }
    if *algorithm == OID_PKCS1_RSAENCRYPTION {
        return matches!(key.parsed(), Ok(PublicKey::RSA(rsa)) if is_strong_rsa(&rsa));
    }
    *algorithm == OID_SIG_ED25519 && octets.len() == 32
}

/// Whether signatures by this algorithm can be believed.
pub(super) fn is_strong_signature(algorithm: &AlgorithmIdentifier<'_>) -> bool {
    [
        OID_SIG_ECDSA_WITH_SHA256,
        OID_SIG_ECDSA_WITH_SHA384,
        OID_SIG_ECDSA_WITH_SHA512,
        OID_SIG_ED25519,
        OID_PKCS1_SHA256WITHRSA,
        OID_PKCS1_SHA384WITHRSA,
        OID_PKCS1_SHA512WITHRSA,
        // Its parameters name the hash; webpki takes SHA-256 and longer ones only.
        OID_PKCS1_RSASSAPSS,
    ]
    .contains(&algorithm.algorithm)
}

/// A curve by its name; parameters of its own are refused (RFC 5480 2.1.1).
fn curve<'a>(algorithm: &'a AlgorithmIdentifier<'_>) -> Option<Oid<'a>> {
    algorithm.parameters.as_ref()?.as_oid().ok()
}

/// Octets of a coordinate.
fn coordinate(curve: Oid<'_>) -> Option<usize> {
    match curve.as_bytes() {
        P384 => Some(48),
        P521 => Some(66),
        _ if curve == OID_EC_P256 => Some(32),
        _ => None,
    }
}

/// Compressed or not (SEC 1 2.3.3). Whether it is on the curve shows with the first signature.
fn is_point(octets: &[u8], coordinate: usize) -> bool {
    match octets.first() {
        Some(4) => octets.len() == 1 + 2 * coordinate,
        Some(2 | 3) => octets.len() == 1 + coordinate,
        _ => false,
    }
}

fn is_strong_rsa(key: &RSAPublicKey<'_>) -> bool {
    let (modulus, exponent) = (number(key.modulus), number(key.exponent));
    let bits = modulus.len() * 8 - modulus.first().map_or(0, |first| first.leading_zeros() as usize);
    let odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
    RSA_BITS.contains(&bits) && odd(modulus) && odd(exponent) && exponent != [1] && exponent.len() <= RSA_EXPONENT
}

/// Without the zeros before it.
fn number(octets: &[u8]) -> &[u8] {
    let zeros = octets.iter().take_while(|octet| **octet == 0).count();
    &octets[zeros..]
}
