//! Paths from certificates that are as they should be.

use rcgen::{BasicConstraints, CertificateParams, IsCa};
use time::Duration;

use super::Alone::{Accepts, Refuses};
use super::forge::{key, root};
use super::*;

/// Issuers under a root, each under the one before.
fn line(root: &Signer, names: &[&str]) -> Vec<Signer> {
    let mut line: Vec<Signer> = Vec::new();
    for name in names {
        let issuer = line.last().unwrap_or(root).issuer(name, |_| {});
        line.push(issuer);
    }
    line
}

/// A chain as TLS wants it: the workload first.
fn chain(line: &[Signer]) -> Vec<Der> {
    let workload = line.last().unwrap().workload(|_| {});
    std::iter::once(workload).chain(line.iter().rev().map(|issuer| issuer.der.clone())).collect()
}

#[test]
fn chains_that_lead_to_the_bundle() {
    let root = root(|_| {});
    let other = forge::root(|_| {});
    let three = line(&root, &["a", "b", "c"]);
    let mut shuffled = chain(&three);
    shuffled[1..].reverse();
    let mut beside = chain(&three);
    beside.insert(1, other.issuer("other", |_| {}).der);
    beside.push(vec![0x30, 0].into());
    let mut with_root = chain(&three);
    with_root.push(root.der.clone());
    let stranger = vec![root.workload(|_| {}), other.der.clone()];
    check([
        (Case::new("under the root", vec![root.workload(|_| {})], &[&root]), Ok(()), Accepts),
        (Case::new("under three issuers", chain(&three), &[&root]), Ok(()), Accepts),
        (Case::new("in another order", shuffled, &[&root]), Ok(()), Accepts),
        (Case::new("with others beside it", beside, &[&root]), Ok(()), Accepts),
        (Case::new("with its root", with_root, &[&root]), Ok(()), Accepts),
        (Case::new("to one of two roots", chain(&three), &[&other, &root]), Ok(()), Accepts),
        (Case::new("to an intermediate in the bundle", chain(&three)[..2].to_vec(), &[&three[1]]), Ok(()), Accepts),
        (Case::new("with a root that nobody trusts", stranger, &[&root]), Ok(()), Accepts),
    ]);
}

#[test]
fn chains_that_do_not() {
    let root = root(|_| {});
    let other = forge::root(|_| {});
    let two = line(&root, &["a", "b"]);
    let unknown = || Err(Rejection::UnknownIssuer);
    let from_workload = {
        let key = key();
        let params = forge::workload();
        let workload = Signer { der: root.sign(&params, &key), params, key };
        vec![workload.workload(|_| {}), workload.der]
    };
    check([
        (Case::new("no bundle", chain(&two), &[]), unknown(), Refuses),
        (Case::new("an intermediate is missing", chain(&two)[..2].to_vec(), &[&root]), unknown(), Refuses),
        // It has the name of the right one.
        (Case::new("another root", chain(&two), &[&other]), Err(Rejection::Signature), Refuses),
        (Case::new("certified by a workload", from_workload, &[&root]), intermediate_is(Flaw::NoAuthority), Refuses),
        (
            Case::new(
                "certified by a workload in the bundle",
                vec![root.workload(|_| {})],
                &[&workload_as_root(&root)],
            ),
            root_is(Flaw::NoAuthority),
            Accepts,
        ),
    ]);
    let bad = forge::root(|p| p.is_ca = IsCa::ExplicitNoCa);
    let with_root = vec![bad.workload(|_| {}), bad.der.clone()];
    Case::new("a flawed root, presented too", with_root, &[&bad]).check(&root_is(Flaw::NoAuthority), Accepts);
    assert_eq!(Case::new("no certificate", Vec::new(), &[&root]).verdict(), Err(Rejection::NoCertificate));
}

/// A root whose certificate says that it is a workload.
fn workload_as_root(root: &Signer) -> Signer {
    let mut params = forge::workload();
    params.distinguished_name = root.params.distinguished_name.clone();
    let key = rcgen::KeyPair::from_pem(&root.key.serialize_pem()).unwrap();
    let der = params.self_signed(&key).unwrap().der().clone();
    Signer { params, key, der }
}

#[test]
fn path_lengths() {
    let most = |length| move |p: &mut CertificateParams| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
    let too_long = || Err(Rejection::PathLength);
    let none = root(most(0));
    let one = root(most(1));
    let short = root(|_| {});
    let first = short.issuer("a", most(0));
    let second = first.issuer("b", |_| {});
    let below = vec![second.workload(|_| {}), second.der, first.der.clone()];
    check([
        (Case::new("a root of none, and none", vec![none.workload(|_| {})], &[&none]), Ok(()), Accepts),
        (Case::new("a root of none, and one", chain(&line(&none, &["a"])), &[&none]), too_long(), Accepts),
        (Case::new("a root of one, and one", chain(&line(&one, &["a"])), &[&one]), Ok(()), Accepts),
        (Case::new("a root of one, and two", chain(&line(&one, &["a", "b"])), &[&one]), too_long(), Accepts),
        (Case::new("an intermediate of none, and one", below, &[&short]), too_long(), Refuses),
    ]);
}

#[test]
fn one_path_that_is_refused_does_not_hide_another() {
    let old = root(|p| p.not_after = NOW - Duration::DAY);
    let key = rcgen::KeyPair::from_pem(&old.key.serialize_pem()).unwrap();
    let renewed = forge::root_with(key, |_| {});
    let workload = vec![old.workload(|_| {})];
    let expired = || root_is(Flaw::Expired { at: NOW - Duration::DAY });
    check([
        (Case::new("the old root alone", workload.clone(), &[&old]), expired(), Accepts),
        (Case::new("the old root, then the new one", workload.clone(), &[&old, &renewed]), Ok(()), Accepts),
        (Case::new("the new root, then the old one", workload, &[&renewed, &old]), Ok(()), Accepts),
    ]);
    // The same issuer under two roots, one of which has expired.
    let issuer = old.issuer("issuer", |_| {});
    let good = root(|p| p.distinguished_name.push(rcgen::DnType::OrganizationName, "other"));
    let crossed = good.sign(&issuer.params, &issuer.key);
    let chain = vec![issuer.workload(|_| {}), issuer.der.clone(), crossed];
    let case = Case::new("cross-certified", chain.clone(), &[&old, &good]);
    let proven = case.verdict().unwrap();
    assert!(proven.root.contains("other"), "{proven:?}");
    case.check(&Ok(()), Accepts);
    Case::new("cross-certified, the good root unknown", chain, &[&old]).check(&expired(), Accepts);
}

#[test]
fn what_is_known_of_an_accepted_chain() {
    let ends = NOW + Duration::DAY;
    let root = root(|p| p.not_after = ends);
    let two = line(&root, &["a", "b"]);
    let proven = Case::new("a root that ends first", chain(&two), &[&root]).verdict().unwrap();
    assert_eq!((proven.identity, proven.until, proven.intermediates), (web(), ends, 2));
    assert_eq!((proven.root.as_str(), proven.serial.len()), ("CN=root", 32));
}

#[test]
fn who_may_be_expected() {
    let root = root(|_| {});
    let chain = vec![root.workload(|_| {})];
    let case = |expected: &Expected| Case::new("expected", chain.clone(), &[&root]).expecting(expected.clone());
    let other: Identity = "spiffe://example.org/a".parse().unwrap();
    let any_of = |identities: &[&Identity]| {
        Expected::AnyOf(identities.iter().map(|it| (*it).clone()).collect::<std::collections::HashSet<_>>().into())
    };
    for expected in [any_of(&[&other, &web()]), Expected::In("example.org".into()), Expected::Anyone] {
        case(&expected).check(&Ok(()), Accepts);
    }
    for expected in [Expected::One(other.clone()), any_of(&[&other]), any_of(&[]), Expected::In("example.com".into())] {
        let mismatch = Mismatch::Other { found: web(), expected: expected.clone() };
        case(&expected).check(&Err(mismatch.into()), Accepts);
    }
}
