//! Sealed keys: round trips, and blobs that somebody has changed.

use std::time::{Duration, Instant};

use rcgen::{CertificateParams, Issuer, KeyPair, PublicKeyData, SigningKey};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;
use crate::ca::store::memory::Memory;

const ALGORITHMS: [Algorithm; 3] = [Algorithm::EcdsaP256, Algorithm::EcdsaP384, Algorithm::Ed25519];
/// A passphrase is tried in no time.
const CHEAP: Cost = Cost { memory: 8, passes: 1, lanes: 1 };

fn passphrase(text: &str) -> Passphrase {
    Passphrase::from_octets(text.into()).unwrap()
}

fn cheap(store: &Arc<Memory>, text: &str) -> Sealed {
    let store: Arc<dyn Store> = Arc::<Memory>::clone(store);
    Sealed { cost: CHEAP, ..Sealed::new(store, passphrase(text)) }
}

async fn write(store: &Memory, label: &str, blob: Vec<u8>) {
    assert_eq!(store.commit(Transaction::new().put(name(label), blob)).await.unwrap(), Outcome::Committed);
}

async fn blob(store: &Memory, label: &str) -> Vec<u8> {
    store.get(&name(label)).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_key_is_found_again_and_is_the_same() {
    let store = Arc::new(Memory::default());
    let keys = Sealed::new(Arc::<Memory>::clone(&store), passphrase("secret"));
    for algorithm in ALGORITHMS {
        let label = format!("root/{algorithm}").replace(' ', "-");
        let made = keys.generate(&label, algorithm).await.unwrap();
        // Another process.
        let found = Sealed::new(Arc::<Memory>::clone(&store), passphrase("secret")).open(&label).await.unwrap();
        assert_eq!(made.der_bytes(), found.der_bytes());
        assert_eq!(PublicKeyData::algorithm(&found), algorithm.signature());
        check_certificates(&found);
        let blob = blob(&store, &label).await;
        let cost = [&[0, 1, 0, 0][..], &[0, 0, 0, 3], &[0, 0, 0, 1]].concat();
        assert_eq!(blob[9..21], cost, "64 MiB, 3 passes, 1 lane");
    }
}

/// The key signs for itself and for others, and what it signs verifies, with two libraries.
fn check_certificates(key: &Key) {
    let root = CertificateParams::new(Vec::new()).unwrap();
    let certificate = root.self_signed(key).unwrap();
    let leaf = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(Vec::new()).unwrap().signed_by(&leaf, &Issuer::new(root, key)).unwrap();
    let (_, certificate) = X509Certificate::from_der(certificate.der()).unwrap();
    let (_, leaf) = X509Certificate::from_der(leaf.der()).unwrap();
    certificate.verify_signature(None).unwrap();
    leaf.verify_signature(Some(certificate.public_key())).unwrap();
    let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    let signature = key.sign(b"message").unwrap();
    let verified = algorithms
        .all
        .iter()
        .any(|algorithm| algorithm.verify_signature(key.der_bytes(), b"message", &signature).is_ok());
    assert!(verified);
}

#[tokio::test]
async fn blobs_differ_each_time_and_hold_no_key_in_the_clear() {
    let store = Arc::new(Memory::default());
    let keys = cheap(&store, "secret");
    for algorithm in ALGORITHMS {
        let (_pair, plain) = Pair::generate("a", algorithm).unwrap();
        let [one, other] =
            [1, 2].map(|_again| blob::seal("a", algorithm, plain.clone(), &passphrase("secret"), CHEAP).unwrap());
        assert_eq!(one.len(), 49 + plain.len() + 16);
        assert_ne!(one[21..49], other[21..49], "salt and nonce");
        assert!(!one.windows(8).any(|window| plain.windows(8).any(|part| part == window)));
        write(&store, "a", one).await;
        keys.open("a").await.unwrap();
    }
}

#[tokio::test]
async fn the_wrong_passphrase_is_told() {
    let store = Arc::new(Memory::default());
    let _key = cheap(&store, "secret").generate("a", Algorithm::EcdsaP256).await.unwrap();
    let refused = cheap(&store, "Secret").open("a").await.unwrap_err();
    assert!(matches!(&refused, KeysError::Sealed(Error::Passphrase { label }) if label == "a"), "{refused}");
}

#[tokio::test]
async fn each_changed_octet_is_refused() {
    let store = Arc::new(Memory::default());
    let keys = cheap(&store, "secret");
    let _key = keys.generate("a", Algorithm::Ed25519).await.unwrap();
    let whole = blob(&store, "a").await;
    for at in 0..whole.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut changed = whole.clone();
            changed[at] ^= change;
            write(&store, "a", changed).await;
            let refused = keys.open("a").await.unwrap_err();
            assert!(matches!(refused, KeysError::Sealed(_)), "octet {at} {change:#x}: {refused}");
        }
    }
}

#[tokio::test]
async fn each_other_length_is_refused() {
    let store = Arc::new(Memory::default());
    let keys = cheap(&store, "secret");
    for algorithm in ALGORITHMS {
        let label = format!("{algorithm:?}");
        let _key = keys.generate(&label, algorithm).await.unwrap();
        let whole = blob(&store, &label).await;
        let longer = [1, 16, 10_000].map(|more| [&whole[..], &vec![0; more]].concat());
        for changed in (0..whole.len()).map(|length| whole[..length].to_vec()).chain(longer) {
            let length = changed.len();
            write(&store, &label, changed).await;
            assert!(matches!(keys.open(&label).await, Err(KeysError::Sealed(_))), "{length}");
        }
    }
}

#[tokio::test]
async fn hostile_parameters_cost_nothing() {
    let store = Arc::new(Memory::default());
    let keys = cheap(&store, "secret");
    let _key = keys.generate("a", Algorithm::EcdsaP256).await.unwrap();
    let whole = blob(&store, "a").await;
    let started = Instant::now();
    let most = u32::MAX;
    let hostile =
        [(most, 1, 1), (8, most, 1), (8, 1, most), (256 * 1024 + 1, 1, 1), (8, 9, 1), (0, 1, 1), (8, 0, 1), (8, 1, 0)];
    for (memory, passes, lanes) in hostile {
        let mut changed = whole.clone();
        for (at, number) in [(9, memory), (13, passes), (17, lanes)] {
            changed[at..at + 4].copy_from_slice(&number.to_be_bytes());
        }
        write(&store, "a", changed).await;
        let refused = keys.open("a").await.unwrap_err();
        assert!(matches!(refused, KeysError::Sealed(_)), "{memory} {passes} {lanes}: {refused}");
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_blob_does_not_open_under_another_label() {
    let store = Arc::new(Memory::default());
    let keys = cheap(&store, "secret");
    let _keys = [
        keys.generate("root", Algorithm::EcdsaP256).await.unwrap(),
        keys.generate("next", Algorithm::EcdsaP256).await.unwrap(),
    ];
    write(&store, "root", blob(&store, "next").await).await;
    assert!(matches!(keys.open("root").await, Err(KeysError::Sealed(Error::Passphrase { .. }))));
    let _key = keys.open("next").await.unwrap();
}

#[tokio::test]
async fn labels_are_used_once_until_destroyed() {
    let store = Arc::new(Memory::default());
    let keys = cheap(&store, "secret");
    let made = keys.generate("a", Algorithm::EcdsaP256).await.unwrap();
    assert!(matches!(keys.generate("a", Algorithm::Ed25519).await, Err(KeysError::Exists { .. })));
    assert_eq!(keys.open("a").await.unwrap().der_bytes(), made.der_bytes());
    keys.destroy("a").await.unwrap();
    keys.destroy("a").await.unwrap();
    assert!(matches!(keys.open("a").await, Err(KeysError::Missing { .. })));
    assert_ne!(keys.generate("a", Algorithm::EcdsaP256).await.unwrap().der_bytes(), made.der_bytes());
}

#[tokio::test]
async fn of_two_that_make_the_same_key_one_is_told() {
    let store = Arc::new(Memory::default());
    let (one, other) = (cheap(&store, "secret"), cheap(&store, "secret"));
    let (one, other) = tokio::join!(one.generate("a", Algorithm::EcdsaP256), other.generate("a", Algorithm::EcdsaP256));
    let made = match (one, other) {
        (Ok(made), Err(KeysError::Exists { .. })) | (Err(KeysError::Exists { .. }), Ok(made)) => made,
        (one, other) => panic!("{one:?} {other:?}"),
    };
    assert_eq!(cheap(&store, "secret").open("a").await.unwrap().der_bytes(), made.der_bytes());
}

#[tokio::test]
async fn odd_labels_are_refused() {
    let store = Arc::new(Memory::default());
    let keys = cheap(&store, "secret");
    for label in ["", " ", "a b", "a\n", "ä", &"a".repeat(129)] {
        assert!(matches!(keys.generate(label, Algorithm::EcdsaP256).await, Err(KeysError::Label { .. })), "{label:?}");
        assert!(matches!(keys.open(label).await, Err(KeysError::Label { .. })), "{label:?}");
        assert!(matches!(keys.destroy(label).await, Err(KeysError::Label { .. })), "{label:?}");
    }
}
