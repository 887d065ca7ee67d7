//! What the tests of this module have in common: an authority that signs whatever it is given. And what is refused of it.

mod hostile;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use time::{Duration, OffsetDateTime};

use super::chain::{Held, Unusable};

const NAME: &str = "www.example.org";

fn authority() -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}

pub(super) fn root_pem() -> String {
    authority().1
}

/// A certificate as it should be, after a change.
pub(super) fn leaf(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - Duration::HOUR, now + 90 * Duration::DAY);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    change(&mut params);
    params
}

/// A chain of leaf and issuer, and the leaf's key.
pub(super) fn chain(leaf: &CertificateParams) -> (String, PrivatePkcs8KeyDer<'static>) {
    let (issuer, root) = authority();
    let key = KeyPair::generate().unwrap();
    (leaf.signed_by(&key, &issuer).unwrap().pem() + &root, PrivatePkcs8KeyDer::from(key.serialize_der()))
}

pub(super) fn held(name: &str, leaf: &CertificateParams) -> Held {
    let (chain, key) = chain(leaf);
    Held::read(name, &chain, &key).unwrap()
}

fn refused(change: impl FnOnce(&mut CertificateParams)) -> Unusable {
    let (chain, key) = chain(&leaf(NAME, change));
    Held::read(NAME, &chain, &key).unwrap_err()
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

#[test]
fn a_chain_for_the_name_alone_is_taken() {
    let (chain, key) = chain(&leaf(NAME, |_| {}));
    let taken = Held::read(NAME, &chain, &key).unwrap();
    assert!(taken.signed_by.contains("authority") && taken.check_validity(OffsetDateTime::now_utc()).is_ok());
    let alone = chain.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
    assert!(Held::read(NAME, alone, &key).is_ok(), "an authority may leave the rest to the clients");
    held(NAME, &leaf("WWW.Example.ORG", |_| {}));
}

#[test]
fn a_certificate_for_other_names_too_is_refused() {
    let others = [
        vec![dns("example.org")],
        vec![dns(NAME), dns("example.org")],
        vec![dns("*.example.org")],
        vec![dns(NAME), SanType::IpAddress([192, 0, 2, 1].into())],
        vec![],
    ];
    for names in others {
        assert_eq!(refused(|params| params.subject_alt_names.clone_from(&names)), Unusable::OtherNames, "{names:?}");
    }
}

#[test]
fn a_chain_that_clients_could_not_verify_is_refused() {
    let (chain, key) = chain(&leaf(NAME, |_| {}));
    let certificates: Vec<_> = chain.split_inclusive("-----END CERTIFICATE-----\n").collect();
    let stranger = root_pem();
    let refused_as = |chain: &str| Held::read(NAME, chain, &key).unwrap_err();
    assert!(matches!(refused_as(&[certificates[0], &stranger].concat()), Unusable::Path(_)));
    assert!(matches!(refused_as(""), Unusable::Malformed(_)));
    assert!(matches!(refused_as("no PEM"), Unusable::Malformed(_)));
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(refused_as(garbage), Unusable::Malformed(_)));
    assert_eq!(refused_as(&[certificates[1], certificates[0]].concat()), Unusable::OtherNames);
    assert_eq!(refused_as(&chain.repeat(5)), Unusable::TooLong);
    assert_eq!(refused_as(&"x".repeat(70_000)), Unusable::TooLong);
    let client = refused(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    assert!(matches!(client, Unusable::Path(_)), "{client}");
    let authority = refused(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert!(matches!(authority, Unusable::Path(_)), "{authority}");
}

#[test]
fn a_certificate_of_another_key_is_refused() {
    let (chain, _) = chain(&leaf(NAME, |_| {}));
    let other = PrivatePkcs8KeyDer::from(KeyPair::generate().unwrap().serialize_der());
    assert_eq!(Held::read(NAME, &chain, &other).unwrap_err(), Unusable::OtherKey);
    assert_eq!(Held::read(NAME, &chain, &PrivatePkcs8KeyDer::from(vec![1, 2, 3])).unwrap_err(), Unusable::OtherKey);
}

#[test]
fn a_new_certificate_is_valid_now_and_for_a_sensible_time() {
    let now = OffsetDateTime::now_utc();
    let judged = |not_before, not_after| {
        let leaf = leaf(NAME, |params| (params.not_before, params.not_after) = (not_before, not_after));
        held(NAME, &leaf).check_validity(now).is_ok()
    };
    assert!(judged(now - Duration::DAY, now + Duration::DAY));
    assert!(judged(now + 10 * Duration::MINUTE, now + Duration::DAY), "its clock may be ahead");
    assert!(judged(now - Duration::MINUTE, now + 1826 * Duration::DAY));
    assert!(!judged(now - Duration::DAY, now - Duration::SECOND), "over");
    assert!(!judged(now + 2 * Duration::HOUR, now + Duration::DAY), "not yet");
    assert!(!judged(now, now + Duration::MINUTE), "nobody could renew it");
    assert!(!judged(now, now + 4000 * Duration::DAY), "nobody issues it");
    let backwards = refused(|params| (params.not_before, params.not_after) = (now, now - Duration::HOUR));
    assert!(matches!(backwards, Unusable::Path(_)), "it ends before it begins: {backwards}");
}
