//! Revocation lists: of every level, current, and signed by somebody who may.

use rcgen::{CertificateParams, CrlDistributionPoint, CrlIssuingDistributionPoint, CrlScope, KeyUsagePurpose};
use rustls::pki_types::CertificateRevocationListDer as List;
use time::Duration;

use super::Alone::{Accepts, Refuses};
use super::forge::{key, root};
use super::*;
use crate::identity::Serial;

/// A root, an issuer and a workload, with what each authority says of those below it.
struct Ground {
    root: Signer,
    issuer: Signer,
    chain: Vec<Der>,
}

impl Ground {
    fn new(change_root: fn(&mut CertificateParams), change_issuer: fn(&mut CertificateParams)) -> Self {
        let root = root(change_root);
        let issuer = root.issuer("issuer", change_issuer);
        let chain = vec![issuer.workload(|_| {}), issuer.der.clone()];
        Self { root, issuer, chain }
    }

    fn lists(&self) -> Vec<List<'static>> {
        vec![self.root.list(&[], |_| {}), self.issuer.list(&[], |_| {})]
    }

    fn case(&self, name: &'static str, lists: Vec<List<'static>>) -> Case {
        Case::new(name, self.chain.clone(), &[&self.root]).with(lists)
    }
}

fn list_is(flaw: ListFlaw) -> Result<(), Rejection> {
    Err(Rejection::RevocationList(flaw))
}

#[test]
fn what_lists_say() {
    let ground = Ground::new(|_| {}, |_| {});
    let (root, issuer) = (&ground.root, &ground.issuer);
    let (workload, other) = (&ground.chain[0], issuer.workload(|_| {}));
    let [of_root, of_issuer] = <[_; 2]>::try_from(ground.lists()).unwrap();
    let case = |name, lists: &[&List<'static>]| ground.case(name, lists.iter().map(|list| (*list).clone()).collect());
    let revoked = || Err(Rejection::Revoked);
    check([
        (case("nothing revoked", &[&of_root, &of_issuer]), Ok(()), Accepts),
        (case("another one revoked", &[&of_root, &issuer.list(&[&other], |_| {})]), Ok(()), Accepts),
        (case("the workload revoked", &[&of_root, &issuer.list(&[workload], |_| {})]), revoked(), Refuses),
        (case("the issuer revoked", &[&root.list(&[&issuer.der], |_| {}), &of_issuer]), revoked(), Refuses),
        (case("revoked by another's list", &[&root.list(&[workload], |_| {}), &of_issuer]), Ok(()), Accepts),
        (case("no list", &[]), Err(Rejection::RevocationUnknown), Accepts),
        (case("no list of the root", &[&of_issuer]), Err(Rejection::RevocationUnknown), Refuses),
        (case("no list of the issuer", &[&of_root]), Err(Rejection::RevocationUnknown), Refuses),
    ]);
}

#[test]
fn lists_that_prove_nothing() {
    let ground = Ground::new(|_| {}, |_| {});
    let (root, issuer) = (&ground.root, &ground.issuer);
    let of_root = root.list(&[], |_| {});
    let case = |name, list: List<'static>| ground.case(name, vec![of_root.clone(), list]);
    let stranger = root.issuer_with(key(), "issuer", |_| {});
    let mut broken = issuer.list(&[], |_| {}).to_vec();
    *broken.last_mut().unwrap() ^= 1;
    let scope = |scope| {
        let uris = vec!["http://example.org/list".to_owned()];
        CrlIssuingDistributionPoint { distribution_point: CrlDistributionPoint { uris }, scope }
    };
    let for_users = issuer.list(&[], |p| p.issuing_distribution_point = scope(Some(CrlScope::UserCertsOnly)).into());
    let for_authorities =
        issuer.list(&[], |p| p.issuing_distribution_point = scope(Some(CrlScope::CaCertsOnly)).into());
    check([
        (case("the update is due now", issuer.list(&[], |p| p.next_update = NOW)), list_is(ListFlaw::Expired), Refuses),
        (
            case("the update is due in a second", issuer.list(&[], |p| p.next_update = NOW + Duration::SECOND)),
            Ok(()),
            Accepts,
        ),
        (
            case("from the future", issuer.list(&[], |p| p.this_update = NOW + Duration::SECOND)),
            list_is(ListFlaw::NotYetValid),
            Accepts,
        ),
        (case("of another key", stranger.list(&[], |_| {})), list_is(ListFlaw::Signature), Refuses),
        (case("with a broken signature", broken.into()), list_is(ListFlaw::Signature), Refuses),
        (case("for workloads", for_users), Ok(()), Accepts),
        (case("for authorities", for_authorities), Err(Rejection::RevocationUnknown), Refuses),
    ]);
    let early = |list: fn(&Signer) -> List<'static>| vec![list(root), list(issuer)];
    let lists = early(|signer| signer.list(&[], |p| p.this_update = NOW + Duration::SECOND));
    ground.case("all from the future", lists).check(&list_is(ListFlaw::NotYetValid), Accepts);
}

#[test]
fn the_newest_list_counts() {
    let ground = Ground::new(|_| {}, |_| {});
    let (root, issuer, workload) = (&ground.root, &ground.issuer, &ground.chain[0]);
    let old = issuer.list(&[], |p| p.this_update = NOW - Duration::HOUR * 2);
    let new = issuer.list(&[workload], |_| {});
    let next = issuer.list(&[], |p| p.this_update = NOW + Duration::SECOND);
    let of_root = root.list(&[], |_| {});
    let case = |name, lists: [&List<'static>; 3]| ground.case(name, lists.into_iter().cloned().collect());
    check([
        (case("after an old one", [&of_root, &old, &new]), Err(Rejection::Revoked), Accepts),
        (case("before an old one", [&of_root, &new, &old]), Err(Rejection::Revoked), Refuses),
        (case("after one from the future", [&of_root, &next, &new]), Err(Rejection::Revoked), Accepts),
    ]);
}

#[test]
fn who_may_sign_lists() {
    type Change = fn(&mut CertificateParams);
    let no_lists: Change = |p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let no_usage: Change = |p| p.key_usages.clear();
    let table: [Row<(Change, Change)>; 4] = [
        ("an intermediate that may not", (|_| {}, no_lists), list_is(ListFlaw::Issuer), Refuses),
        ("a root that may not", (no_lists, |_| {}), list_is(ListFlaw::Issuer), Accepts),
        ("an intermediate that does not say", (|_| {}, no_usage), Ok(()), Accepts),
        ("a root that does not say", (no_usage, |_| {}), Ok(()), Accepts),
    ];
    for (name, (change_root, change_issuer), expected, alone) in table {
        let ground = Ground::new(change_root, change_issuer);
        ground.case(name, ground.lists()).check(&expected, alone);
    }
}

#[test]
fn a_certificate_that_no_list_covers_may_be_accepted() {
    let ground = Ground::new(|_| {}, |_| {});
    let accepts = |lists: &[List<'static>]| {
        let anchors = Anchors::new(std::slice::from_ref(&ground.root.der)).unwrap();
        let revocations = Revocations::new(lists, Uncovered::Accept).unwrap();
        let expected = Expected::Anyone;
        let terms = Terms {
            anchors: &anchors,
            revocations: Some(&revocations),
            now: unix(NOW),
            role: Role::Both,
            expected: &expected,
        };
        verify(&ground.chain[0], &ground.chain[1..], &terms).map(drop)
    };
    assert_eq!(accepts(&[]), Ok(()));
    assert_eq!(accepts(&[ground.issuer.list(&[], |_| {})]), Ok(()));
    assert_eq!(accepts(&[ground.issuer.list(&[&ground.chain[0]], |_| {})]), Err(Rejection::Revoked));
}

/// As long as control is away and may be.
#[test]
fn a_list_is_in_force_for_its_grace_after_its_end_and_then_nothing_is_accepted() {
    let ground = Ground::new(|_| {}, |_| {});
    let ended = |dead: &[&Der]| ground.issuer.list(dead, |p| p.next_update = NOW - Duration::MINUTE);
    let judged = |list: List<'static>, grace| {
        let anchors = Anchors::new(std::slice::from_ref(&ground.root.der)).unwrap();
        let revocations = Revocations::new(&[list], Uncovered::Accept).unwrap();
        let revocations = revocations.with_grace(std::time::Duration::from_secs(grace));
        let (now, expected) = (unix(NOW), Expected::Anyone);
        let revocations = Some(&revocations);
        let terms = Terms { anchors: &anchors, revocations, now, role: Role::Both, expected: &expected };
        verify(&ground.chain[0], &ground.chain[1..], &terms).map(drop)
    };
    assert_eq!(judged(ended(&[]), 0), list_is(ListFlaw::Expired));
    assert_eq!(judged(ended(&[]), 60), list_is(ListFlaw::Expired));
    assert_eq!(judged(ended(&[]), 61), Ok(()));
    assert_eq!(judged(ended(&[&ground.chain[0]]), 61), Err(Rejection::Revoked), "what it says counts meanwhile");
}

#[test]
fn a_list_without_end_still_names_whom_it_revokes() {
    let ground = Ground::new(|_| {}, |_| {});
    let anchors = Anchors::new(std::slice::from_ref(&ground.root.der)).unwrap();
    let judged = |dead: &[&Der]| {
        let list = ground.issuer.list(dead, |p| p.next_update = NOW - Duration::MINUTE);
        let ended = Revocations::new(&[list], Uncovered::Accept).unwrap();
        assert_eq!(ended.in_force_until(), Some((NOW - Duration::MINUTE).unix_timestamp()));
        assert_eq!([-61, -60].map(|second| ended.are_over(NOW.unix_timestamp() + second)), [false, true]);
        let (now, expected, endless) = (unix(NOW), Expected::Anyone, ended.without_end());
        let revocations = Some(&endless);
        let terms = Terms { anchors: &anchors, revocations, now, role: Role::Both, expected: &expected };
        verify(&ground.chain[0], &ground.chain[1..], &terms).map(drop)
    };
    assert_eq!(judged(&[]), Ok(()));
    assert_eq!(judged(&[&ground.chain[0]]), Err(Rejection::Revoked));
}

#[test]
fn a_list_names_whom_it_revokes() {
    let ground = Ground::new(|_| {}, |_| {});
    let list = ground.issuer.list(&[&ground.chain[0]], |_| {});
    let revocations = Revocations::new(&[list], Uncovered::Accept).unwrap();
    let [dead, alive] = [&ground.chain[0], &ground.chain[1]].map(|der| Serial::of(der).unwrap());
    assert_eq!((revocations.name(&dead), revocations.name(&alive)), (true, false));
}

#[test]
fn lists_that_cannot_be_used_are_named() {
    let ground = Ground::new(|_| {}, |_| {});
    let good = ground.root.list(&[], |_| {});
    let other = [&good[..], &[0]].concat();
    for (octets, place) in [(Vec::new(), 1), (vec![0x30, 0], 1), (other, 1), (ground.root.der.to_vec(), 1)] {
        let found = Revocations::new(&[good.clone(), octets.into()], Uncovered::Refuse).map(drop);
        assert_eq!(found, Err((place, Unusable::Unreadable)));
    }
    // A delta: nothing but what has changed since another list (RFC 5280 5.2.4).
    let delta = forge::delta(&good);
    assert_eq!(Revocations::new(&[delta], Uncovered::Refuse).map(drop), Err((0, Unusable::Unsupported)));
}
