//! What a peer may make us do: so much and no more.

use std::time::{Duration as StdDuration, Instant};

use super::forge::{extension, patched, root};
use super::*;

/// Nothing that is presented may take longer to judge, on a slow machine and without optimization.
const LONGEST: StdDuration = StdDuration::from_secs(5);

#[test]
fn chains_are_bounded() {
    let root = root(|_| {});
    let chain = |count: usize| {
        let mut chain = vec![root.workload(|_| {})];
        chain.resize(count, root.issuer("unused", |_| {}).der);
        chain
    };
    let verdict = |chain| Case::new("long", chain, &[&root]).verdict().map(drop);
    assert_eq!(verdict(chain(MOST_CERTIFICATES)), Ok(()));
    let count = MOST_CERTIFICATES + 1;
    assert_eq!(verdict(chain(count)), Err(Rejection::TooManyCertificates { count }));
    let mut long = chain(2);
    let octets = MOST_OCTETS - long[0].len();
    long[1] = vec![0; octets].into();
    assert_eq!(verdict(long.clone()), Ok(()));
    long[1] = vec![0; octets + 1].into();
    assert_eq!(verdict(long), Err(Rejection::TooLong { octets: MOST_OCTETS + 1 }));
}

#[test]
fn a_search_for_a_path_ends_soon() {
    // Authorities of one name that have all certified each other: every order of them may be a path.
    let anchor = root(|_| {});
    let same = |signer: &Signer| signer.issuer("root", |_| {});
    let maze: Vec<Signer> = std::iter::repeat_with(|| same(&anchor)).take(MOST_CERTIFICATES - 1).collect();
    let elsewhere = root(|p| p.distinguished_name.push(rcgen::DnType::OrganizationName, "elsewhere"));
    let workload = maze[0].workload(|_| {});
    let chain = || std::iter::once(workload.clone()).chain(maze.iter().map(|issuer| issuer.der.clone())).collect();
    let begun = Instant::now();
    assert_eq!(Case::new("no way out", chain(), &[&elsewhere]).verdict(), Err(Rejection::UnknownIssuer));
    let strangers: Vec<Signer> = std::iter::repeat_with(|| root(|_| {})).take(20).collect();
    let bundle: Vec<&Signer> = strangers.iter().collect();
    let lost = Case::new("many wrong ways out", chain(), &bundle).verdict().unwrap_err();
    assert!(matches!(lost, Rejection::TooComplex | Rejection::Signature), "{lost}");
    assert!(begun.elapsed() < LONGEST, "{:?}", begun.elapsed());
}

#[test]
fn large_certificates_are_judged_soon() {
    let root = root(|_| {});
    let names = root.workload(|p| {
        let name = || uri(&format!("spiffe://example.org/{}", rand::random::<u64>()));
        p.subject_alt_names = std::iter::repeat_with(name).take(1000).collect();
    });
    let extensions = root.workload(|p| {
        p.custom_extensions = (100..127).map(|last| extension(last, false, &[0x04, 0])).collect();
        let long = |last| extension(last, false, &vec![0; 2000]);
        p.custom_extensions.extend((60..80).map(long));
    });
    let begun = Instant::now();
    let several = Case::new("a thousand names", vec![names], &[&root]).verdict().unwrap_err();
    assert!(matches!(several, Rejection::Identity(Mismatch::Several { count: 1000, .. })), "{several}");
    assert_eq!(Case::new("many extensions", vec![extensions], &[&root]).verdict().map(drop), Ok(()));
    assert!(begun.elapsed() < LONGEST, "{:?}", begun.elapsed());
}

#[test]
fn no_octets_make_it_panic() {
    let root = root(|_| {});
    let issuer = root.issuer("issuer", |_| {});
    let chain = [issuer.workload(|_| {}), issuer.der.clone()];
    // Every octet of each certificate changed, one after the other, and signed anew where that can be.
    for changed in 0..chain.len() {
        for place in 0..chain[changed].len() {
            let mut octets = chain[changed].to_vec();
            octets[place] ^= 0xff;
            let mut chain = chain.to_vec();
            chain[changed] = octets.into();
            assert!(Case::new("changed", chain, &[&root]).verdict().is_err(), "octet {place} of {changed}");
        }
    }
    for place in 0..chain[0].len() {
        let cut = chain[0][..place].to_vec().into();
        assert!(Case::new("cut off", vec![cut, issuer.der.clone()], &[&root]).verdict().is_err(), "{place}");
    }
    for field in 0..8 {
        for place in 0..40 {
            let signed = patched(&chain[0], &issuer.key, |fields| {
                let length = fields.signed[field].len();
                // Tag and length stay, or nothing but the parser of the whole is tried.
                fields.signed[field][2.max(place % length).min(length - 1)] ^= 0x55;
            });
            let _judged = Case::new("signed anew", vec![signed, issuer.der.clone()], &[&root]).verdict();
        }
    }
}
