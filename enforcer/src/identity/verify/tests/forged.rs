//! Certificates that rcgen does not make, and octets that are none.

use rcgen::KeyPair;

use super::Alone::{Accepts, Refuses};
use super::forge::{Fields, elliptic, key, public_key, root, root_with, rsa, tlv, workload};
use super::*;

/// The octets of secp256r1.
const P256: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];

type Patch = fn(&mut Fields);

/// RSA and ECDSA with SHA-1 (RFC 3279 2.2).
const RSA_SHA1: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5, 0x05, 0];
const RSA_MD5: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4, 0x05, 0];
const ECDSA_SHA1: &[u8] = &[0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1];
/// Without parameters (RFC 4055 3.1).
const PSS: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10];
/// RFC 8410 3.
const ED25519: &[u8] = &[0x06, 3, 0x2b, 0x65, 0x70];

fn sign_with(fields: &mut Fields, algorithm: &[u8]) {
    fields.algorithm = tlv(0x30, algorithm);
    fields.signed[2] = fields.algorithm.clone();
}

fn check_patches<const ROWS: usize>(table: [Row<Patch>; ROWS]) {
    let root = root(|_| {});
    let certificate = root.workload(|_| {});
    for (name, patch, expected, alone) in table {
        Case::new(name, vec![root.patched(&certificate, patch)], &[&root]).check(&expected, alone);
    }
}

#[test]
fn certificates_that_rcgen_does_not_make() {
    check_patches([
        ("only signed anew", |_| {}, Ok(()), Accepts),
        (
            "of version 1",
            |f| {
                f.signed.pop();
                f.signed.remove(0);
            },
            workload_is(Flaw::Version),
            Refuses,
        ),
        ("of version 2", |f| f.signed[0] = vec![0xa0, 3, 2, 1, 1], workload_is(Flaw::Version), Refuses),
        ("with a negative serial number", |f| f.signed[1] = vec![2, 1, 0x80], workload_is(Flaw::Serial), Accepts),
        (
            "with the wrong kind of time",
            |f| {
                let times = [tlv(0x18, b"20260101000000Z"), tlv(0x18, b"20270101000000Z")].concat();
                f.signed[4] = tlv(0x30, &times);
            },
            workload_is(Flaw::TimeEncoding),
            Accepts,
        ),
        ("signed with RSA and SHA-1", |f| sign_with(f, RSA_SHA1), workload_is(Flaw::WeakSignature), Refuses),
        ("signed with RSA and MD5", |f| sign_with(f, RSA_MD5), workload_is(Flaw::WeakSignature), Refuses),
        ("signed with ECDSA and SHA-1", |f| sign_with(f, ECDSA_SHA1), workload_is(Flaw::WeakSignature), Refuses),
        ("signed with RSA-PSS of no known hash", |f| sign_with(f, PSS), Err(Rejection::SignatureKind), Refuses),
        (
            "signed with what is not for the issuer's key",
            |f| sign_with(f, ED25519),
            Err(Rejection::SignatureKind),
            Refuses,
        ),
        (
            "that names two algorithms",
            |f| f.algorithm = tlv(0x30, ECDSA_SHA1),
            workload_is(Flaw::SignatureAlgorithms),
            Refuses,
        ),
        (
            "with an identifier of its issuer, which only version 2 had",
            |f| f.signed.insert(7, vec![0x81, 2, 0, 7]),
            workload_is(Flaw::Malformed),
            Refuses,
        ),
    ]);
}

#[test]
fn keys_of_workloads() {
    check_patches([
        ("with RSA of 2048 bits", |f| f.signed[6] = rsa(2048, &[1, 0, 1]), Ok(()), Accepts),
        ("with RSA of 1024 bits", |f| f.signed[6] = rsa(1024, &[1, 0, 1]), workload_is(Flaw::WeakKey), Accepts),
        ("with RSA of 2040 bits", |f| f.signed[6] = rsa(2040, &[1, 0, 1]), workload_is(Flaw::WeakKey), Accepts),
        ("with RSA of 16384 bits", |f| f.signed[6] = rsa(16384, &[1, 0, 1]), workload_is(Flaw::WeakKey), Accepts),
        ("with RSA and the exponent 1", |f| f.signed[6] = rsa(2048, &[1]), workload_is(Flaw::WeakKey), Accepts),
        ("with RSA and an even exponent", |f| f.signed[6] = rsa(2048, &[4]), workload_is(Flaw::WeakKey), Accepts),
        (
            "on P-224",
            |f| f.signed[6] = elliptic(&[0x06, 5, 0x2b, 0x81, 4, 0, 0x21], 57),
            workload_is(Flaw::WeakKey),
            Accepts,
        ),
        (
            "on secp256k1",
            |f| f.signed[6] = elliptic(&[0x06, 5, 0x2b, 0x81, 4, 0, 0x0a], 65),
            workload_is(Flaw::WeakKey),
            Accepts,
        ),
        ("on a curve of its own", |f| f.signed[6] = elliptic(&[0x30, 0], 65), workload_is(Flaw::WeakKey), Accepts),
        ("on P-256 with a short point", |f| f.signed[6] = elliptic(P256, 64), workload_is(Flaw::WeakKey), Accepts),
        (
            "with Ed448",
            |f| f.signed[6] = public_key(&[0x06, 3, 0x2b, 0x65, 0x71], &[7; 57]),
            workload_is(Flaw::WeakKey),
            Accepts,
        ),
    ]);
}

#[test]
fn keys_of_every_good_kind() {
    let kinds = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA512,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ];
    let chain_of = |kind| {
        let key = || KeyPair::generate_for(kind).unwrap();
        let root = root_with(key(), |_| {});
        let issuer = root.issuer_with(key(), "issuer", |_| {});
        let workload = issuer.sign(&workload(), &key());
        (vec![workload, issuer.der], root)
    };
    for kind in kinds {
        let (chain, root) = chain_of(kind);
        Case::new("a chain of one kind", chain, &[&root]).check(&Ok(()), Accepts);
    }
}

#[test]
fn octets_that_are_no_certificate() {
    let root = root(|_| {});
    let good = root.workload(|_| {});
    let malformed = || workload_is(Flaw::Malformed);
    let case = |name, der: Vec<u8>| Case::new(name, vec![der.into()], &[&root]);
    let mut broken = good.to_vec();
    *broken.last_mut().unwrap() ^= 1;
    check([
        (case("none at all", Vec::new()), malformed(), Refuses),
        (case("an empty sequence", vec![0x30, 0]), malformed(), Refuses),
        (case("one that is cut off", good[..good.len() - 1].to_vec()), malformed(), Refuses),
        (case("one with an octet after it", [&good[..], &[0]].concat()), malformed(), Refuses),
        (case("one with a broken signature", broken), Err(Rejection::Signature), Refuses),
        (
            Case::new("one that signs itself", vec![workload().self_signed(&key()).unwrap().der().clone()], &[&root]),
            Err(Rejection::UnknownIssuer),
            Refuses,
        ),
    ]);
}
