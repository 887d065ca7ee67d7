//! An authority from its first root to its last revocation, in memory.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateSigningRequestDer, UnixTime};
use time::Duration;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::*;
use crate::ca::keys::sealed::Sealed;
use crate::ca::keys::{Key, Passphrase, Pending};
use crate::ca::store::memory::Memory;
use crate::identity::verify::{Anchors, Rejection, fingerprint};
use crate::identity::verify::{Expected, Revocations, Role, Terms as Judged, Uncovered, verify};

const DOMAIN: &str = "example.org";
const WEB: &str = "spiffe://example.org/ns/default/sa/web";

/// Keys that cost no time: the sealed ones are tested by themselves.
#[derive(Default)]
struct Plain(Mutex<HashMap<String, Key>>);

impl Keys for Plain {
    fn generate(&self, label: &str, _algorithm: Algorithm) -> Pending<'_, Key> {
        let key = Key::new(KeyPair::generate().unwrap());
        let place = || "memory".to_owned();
        let before = self.0.lock().unwrap().insert(label.to_owned(), key.clone());
        let exists = before.map(|_| keys::Error::Exists { label: label.to_owned(), place: place() });
        Box::pin(async move { exists.map_or(Ok(key), Err) })
    }

    fn open(&self, label: &str) -> Pending<'_, Key> {
        let found = self.0.lock().unwrap().get(label).cloned();
        let missing = keys::Error::Missing { label: label.to_owned(), place: "memory".to_owned() };
        Box::pin(async move { found.ok_or(missing) })
    }

    fn destroy(&self, label: &str) -> Pending<'_, ()> {
        self.0.lock().unwrap().remove(label);
        Box::pin(async { Ok(()) })
    }
}

struct World {
    folder: tempfile::TempDir,
    store: Arc<dyn Store>,
    keys: Arc<Plain>,
}

impl World {
    fn new() -> Self {
        let store = Arc::new(Memory::default());
        Self { folder: tempfile::tempdir().unwrap(), store, keys: Arc::default() }
    }

    fn parts(&self) -> Parts {
        let placed = BTreeSet::from([WEB.parse().unwrap()]);
        Parts {
            trust_domain: DOMAIN.to_owned(),
            store: Arc::clone(&self.store),
            keys: Arc::clone(&self.keys) as Arc<dyn Keys>,
            audit: Audit::new(&self.folder.path().join("audit.log")),
            terms: Terms {
                workload: Duration::HOUR,
                node: Duration::days(7),
                list: Duration::DAY,
                algorithm: Algorithm::EcdsaP256,
            },
            placements: BTreeMap::from([("a".to_owned(), placed.clone()), ("b".to_owned(), placed)]),
        }
    }

    async fn domain(&self) -> Arc<Domain> {
        Domain::open(self.parts()).await.unwrap()
    }

    fn audit(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("audit.log")).unwrap()
    }
}

fn request() -> CertificateSigningRequestDer<'static> {
    CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap().der().clone()
}

fn web() -> Identity {
    WEB.parse().unwrap()
}

fn node(name: &str) -> Asker {
    Asker::Node(name.to_owned(), "192.0.2.1:1".parse().unwrap())
}

const OPERATOR: Asker = Asker::Operator { uid: 0, pid: None };

async fn token(domain: &Domain, name: &str) -> Token {
    let (text, _) = domain.create_token(name, Duration::MINUTE, &OPERATOR).await.unwrap();
    Token::read(&text).unwrap()
}

/// As an agent that trusts what it is told would judge.
fn judged(trust: &Trust, chain: &[CertificateDer<'_>]) -> Result<(), Rejection> {
    let anchors = Anchors::new(&trust.roots).unwrap();
    let revocations = Revocations::new(&trust.lists, Uncovered::Accept).unwrap();
    let (now, expected) = (UnixTime::now(), Expected::One(web()));
    let terms =
        Judged { anchors: &anchors, revocations: Some(&revocations), now, role: Role::Both, expected: &expected };
    verify(&chain[0], &chain[1..], &terms).map(drop)
}

#[tokio::test]
async fn a_node_joins_once_and_gets_what_is_placed_on_it() {
    let world = World::new();
    let domain = world.domain().await;
    let token = token(&domain, "a").await;
    assert_eq!(token.roots, [fingerprint(&domain.roots().await.unwrap()[0])]);
    let stranger = Asker::Stranger("192.0.2.9:1".parse().unwrap());
    assert!(matches!(domain.join(&[1; SECRET], &request(), &stranger).await, Err(Error::Token)));
    let joined = domain.join(&*token.secret, &request(), &stranger).await.unwrap();
    let (_, certificate) = X509Certificate::from_der(&joined.chain[0]).unwrap();
    let life = certificate.validity().not_after.timestamp() - certificate.validity().not_before.timestamp();
    assert_eq!(life, Duration::days(7).whole_seconds() + 300);
    let again = domain.join(&*token.secret, &request(), &stranger).await.unwrap_err();
    assert!(matches!(again, Error::Token), "a token is good once: {again}");

    let issued = domain.issue(("a", &web()), &request(), &node("a")).await.unwrap();
    assert_eq!(judged(&domain.trust().await.unwrap(), &issued.chain), Ok(()));
    for (name, identity) in [("a", "spiffe://example.org/ns/default/sa/db"), ("c", WEB)] {
        let refused = domain.issue((name, &identity.parse().unwrap()), &request(), &node(name)).await;
        assert!(matches!(refused, Err(Error::NotPlaced { .. } | Error::UnknownNode { .. })), "{name} {identity}");
    }
    let control = control_identity(DOMAIN).unwrap();
    assert!(matches!(domain.issue(("a", &control), &request(), &node("a")).await, Err(Error::NotPlaced { .. })));
    let lines = world.audit();
    for noted in [WEB, "\"event\":\"refused\"", "\"event\":\"token\"", "node a at 192.0.2.1:1", &issued.serial] {
        assert!(lines.contains(noted), "{noted} in {lines}");
    }
}

#[tokio::test]
async fn an_expired_token_is_no_token() {
    let world = World::new();
    let domain = world.domain().await;
    let (text, _) = domain.create_token("a", Duration::seconds(-1), &OPERATOR).await.unwrap();
    let token = Token::read(&text).unwrap();
    let refused = domain.join(&*token.secret, &request(), &node("a")).await;
    assert!(matches!(refused, Err(Error::Token)));
    domain.tidy().await.unwrap();
    assert!(world.store.list("token/").await.unwrap().is_empty(), "it is forgotten");
    assert!(matches!(domain.create_token("c", Duration::MINUTE, &OPERATOR).await, Err(Error::UnknownNode { .. })));
}

#[tokio::test]
async fn of_many_who_have_the_same_token_one_joins() {
    let world = World::new();
    let domain = world.domain().await;
    let token = token(&domain, "a").await;
    let secret = *token.secret;
    let joining = (0..8).map(|_| {
        let domain = Arc::clone(&domain);
        tokio::spawn(async move { domain.join(&secret, &request(), &node("a")).await.is_ok() })
    });
    let mut joined = 0;
    for attempt in joining.collect::<Vec<_>>() {
        joined += usize::from(attempt.await.unwrap());
    }
    assert_eq!(joined, 1);
}

#[tokio::test]
async fn a_revoked_certificate_is_on_the_list_and_its_identity_is_issued_no_more() {
    let world = World::new();
    let domain = world.domain().await;
    let [first, second, other] = {
        let mut issued = Vec::new();
        for name in ["a", "a", "b"] {
            issued.push(domain.issue((name, &web()), &request(), &node(name)).await.unwrap());
        }
        <[_; 3]>::try_from(issued).unwrap()
    };
    let before = domain.version().await.unwrap();
    let serial = Target::Serial(first.serial.clone());
    let dead = domain.revoke(&serial, Reason::KeyCompromise, &OPERATOR).await.unwrap();
    assert_eq!((dead.len(), dead[0].serial.as_str()), (1, first.serial.as_str()));
    let trust = domain.trust().await.unwrap();
    assert_eq!(trust.version, before + 1);
    assert_eq!(judged(&trust, &first.chain), Err(Rejection::Revoked));
    assert_eq!(judged(&trust, &second.chain), Ok(()));
    assert!(matches!(domain.revoke(&serial, Reason::Superseded, &OPERATOR).await, Err(Error::NothingToRevoke { .. })));
    let (_, list) = CertificateRevocationList::from_der(&trust.lists[0]).unwrap();
    assert_eq!(list.iter_revoked_certificates().count(), 1);

    // Only its certificate: another is issued at once. All of the identity: none is.
    domain.issue(("a", &web()), &request(), &node("a")).await.unwrap();
    domain.revoke(&Target::Identity(WEB.to_owned()), Reason::Unspecified, &OPERATOR).await.unwrap();
    let trust = domain.trust().await.unwrap();
    assert_eq!(judged(&trust, &second.chain), Err(Rejection::Revoked));
    assert_eq!(judged(&trust, &other.chain), Err(Rejection::Revoked));
    let refused = domain.issue(("b", &web()), &request(), &node("b")).await;
    assert!(matches!(refused, Err(Error::Banned { .. })));
    assert!(domain.admit(WEB, &OPERATOR).await.unwrap());
    assert!(!domain.admit(WEB, &OPERATOR).await.unwrap());
    domain.issue(("b", &web()), &request(), &node("b")).await.unwrap();
}

#[tokio::test]
async fn a_revoked_node_gets_nothing_before_it_joins_anew() {
    let world = World::new();
    let domain = world.domain().await;
    let joined = domain.join(&*token(&domain, "a").await.secret, &request(), &node("a")).await.unwrap();
    let issued = domain.issue(("a", &web()), &request(), &node("a")).await.unwrap();
    domain.check_node("a", &joined.serial).await.unwrap();
    let dead = domain.revoke(&Target::Node("a".to_owned()), Reason::KeyCompromise, &OPERATOR).await.unwrap();
    let mut serials: Vec<_> = dead.iter().map(|dead| dead.serial.clone()).collect();
    let mut expected = vec![joined.serial.clone(), issued.serial.clone()];
    serials.sort();
    expected.sort();
    assert_eq!(serials, expected);
    assert!(matches!(domain.check_node("a", &joined.serial).await, Err(Error::Revoked { .. })));
    assert!(matches!(domain.issue(("a", &web()), &request(), &node("a")).await, Err(Error::Banned { .. })));
    assert!(matches!(domain.renew("a", &request(), &node("a")).await, Err(Error::Banned { .. })));
    domain.issue(("b", &web()), &request(), &node("b")).await.unwrap();
    let again = domain.join(&*token(&domain, "a").await.secret, &request(), &node("a")).await.unwrap();
    domain.check_node("a", &again.serial).await.unwrap();
    domain.renew("a", &request(), &node("a")).await.unwrap();
}

#[tokio::test]
async fn a_rotation_waits_for_everybody_and_trusts_both_meanwhile() {
    let world = World::new();
    let domain = world.domain().await;
    let old = domain.issue(("a", &web()), &request(), &node("a")).await.unwrap();
    let step = |step, force| domain.rotate(step, force, &OPERATOR);
    assert!(matches!(step(Step::Activate, false).await, Err(Error::OutOfStep(_))));
    step(Step::Prepare, false).await.unwrap();
    let prepared = domain.trust().await.unwrap();
    assert_eq!((prepared.roots.len(), prepared.lists.len()), (2, 2));
    assert!(matches!(step(Step::Prepare, true).await, Err(Error::OutOfStep(_))));

    let early = step(Step::Activate, false).await.unwrap_err();
    assert!(early.to_string().contains(": a;"), "{early}");
    domain.in_force("a", prepared.version - 1, "").await.unwrap();
    assert!(matches!(step(Step::Activate, false).await, Err(Error::TooEarly { .. })));
    domain.in_force("a", prepared.version, "").await.unwrap();
    step(Step::Activate, false).await.unwrap();
    let both = domain.trust().await.unwrap();
    assert_ne!(both.issuer, prepared.issuer, "everybody is asked to renew");
    let new = domain.issue(("b", &web()), &request(), &node("b")).await.unwrap();
    for trust in [&prepared, &both] {
        assert_eq!((judged(trust, &old.chain), judged(trust, &new.chain)), (Ok(()), Ok(())));
    }

    let early = step(Step::Retire, false).await.unwrap_err();
    assert!(early.to_string().contains(&old.serial), "{early}");
    // Its next certificate supersedes it when it says so.
    let next = domain.issue(("a", &web()), &request(), &node("a")).await.unwrap();
    assert!(matches!(step(Step::Retire, false).await, Err(Error::TooEarly { .. })));
    domain.in_force("a", both.version, &next.issuer).await.unwrap();
    step(Step::Retire, false).await.unwrap();
    let last = domain.trust().await.unwrap();
    assert_eq!((last.roots.len(), judged(&last, &new.chain)), (1, Ok(())));
    assert_eq!(judged(&last, &old.chain), Err(Rejection::UnknownIssuer));
    assert_eq!(world.keys.0.lock().unwrap().len(), 2, "the keys of the former one are destroyed");
    assert!(matches!(step(Step::Retire, false).await, Err(Error::OutOfStep(_))));
}

/// What was made under it may be open still, and those who have it must hear that it is to end.
#[tokio::test]
async fn a_certificate_of_a_retired_authority_can_be_revoked() {
    let world = World::new();
    let domain = world.domain().await;
    let [early, late] = [
        domain.issue(("a", &web()), &request(), &node("a")).await.unwrap().serial,
        domain.issue(("a", &web()), &request(), &node("a")).await.unwrap().serial,
    ];
    domain.revoke(&Target::Serial(early.clone()), Reason::Superseded, &OPERATOR).await.unwrap();
    for step in [Step::Prepare, Step::Activate, Step::Retire] {
        domain.rotate(step, true, &OPERATOR).await.unwrap();
    }
    let new = domain.issue(("a", &web()), &request(), &node("a")).await.unwrap();
    domain.revoke(&Target::Serial(late.clone()), Reason::KeyCompromise, &OPERATOR).await.unwrap();
    let trust = domain.trust().await.unwrap();
    assert_eq!(judged(&trust, &new.chain), Ok(()));
    let (_, list) = CertificateRevocationList::from_der(&trust.lists[0]).unwrap();
    let listed: Vec<_> =
        list.iter_revoked_certificates().map(|dead| format!("{:032x}", dead.user_certificate)).collect();
    assert_eq!(listed.len(), 2);
    assert!([early, late].iter().all(|serial| listed.iter().any(|listed| listed.ends_with(serial.as_str()))));
}

#[tokio::test]
async fn a_rotation_does_not_wait_for_a_node_that_is_revoked() {
    let world = World::new();
    let domain = world.domain().await;
    domain.issue(("a", &web()), &request(), &node("a")).await.unwrap();
    domain.rotate(Step::Prepare, false, &OPERATOR).await.unwrap();
    let early = domain.rotate(Step::Activate, false, &OPERATOR).await.unwrap_err();
    assert!(early.to_string().contains("revoke them"), "{early}");
    domain.revoke(&Target::Node("a".to_owned()), Reason::CessationOfOperation, &OPERATOR).await.unwrap();
    domain.rotate(Step::Activate, false, &OPERATOR).await.unwrap();
    domain.rotate(Step::Retire, false, &OPERATOR).await.unwrap();
}

#[tokio::test]
async fn replicas_share_everything_and_make_one_authority() {
    let world = World::new();
    let (first, second) = tokio::join!(Domain::open(world.parts()), Domain::open(world.parts()));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.roots().await.unwrap(), second.roots().await.unwrap());
    assert_eq!(world.keys.0.lock().unwrap().len(), 2, "what the slower one made is destroyed");
    let issued = first.issue(("a", &web()), &request(), &node("a")).await.unwrap();
    second.revoke(&Target::Serial(issued.serial), Reason::Superseded, &OPERATOR).await.unwrap();
    assert_eq!(judged(&first.trust().await.unwrap(), &issued.chain), Err(Rejection::Revoked));
    let other = Parts { trust_domain: "example.com".to_owned(), ..world.parts() };
    assert!(matches!(Domain::open(other).await, Err(Error::OtherTrustDomain { .. })));
}

#[tokio::test]
async fn an_authority_opens_again_with_its_passphrase_alone() {
    let world = World::new();
    let sealed = |passphrase: &str| {
        let passphrase = Passphrase::from_octets(passphrase.as_bytes().to_vec()).unwrap();
        Arc::new(Sealed::new(Arc::clone(&world.store), passphrase)) as Arc<dyn Keys>
    };
    let roots = {
        let first = Domain::open(Parts { keys: sealed("right"), ..world.parts() }).await.unwrap();
        first.roots().await.unwrap()
    };
    let again = Domain::open(Parts { keys: sealed("right"), ..world.parts() }).await.unwrap();
    assert_eq!(again.roots().await.unwrap(), roots);
    let wrong = Domain::open(Parts { keys: sealed("wrong"), ..world.parts() }).await;
    assert!(matches!(wrong, Err(Error::Keys(_))));
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let world = World::new();
    let domain = world.domain().await;
    let good = request();
    let mut forged = good.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    for bad in [vec![], vec![0x30, 0x80], good[..good.len() - 1].to_vec(), forged, vec![0; LARGE]] {
        let refused = domain.issue(("a", &web()), &bad.into(), &node("a")).await;
        assert!(matches!(refused, Err(Error::Authority(_))), "{refused:?}");
    }
    assert!(domain.issued().await.unwrap().is_empty(), "nothing is in the journal");
}

const LARGE: usize = 100_000;
