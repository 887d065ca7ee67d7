//! Certificates from a Workload API that is made from the protocol of the standard, and says what it is told to say.

use std::fs;
use std::pin::Pin;

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tonic::Response;
use tonic::transport::Server;

use super::*;
use crate::identity::Serial;
use crate::identity::fixture::{EXPECTED, Root, leaf, leaf_of, uri};
use crate::identity::tls::Alpn;
use crate::protocol::workload::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use crate::protocol::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid,
};

const PATIENCE: Duration = Duration::from_secs(20);
const DB: &str = "spiffe://example.org/ns/default/sa/db";

type Said = Result<X509svidResponse, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Says what is in the channel, and again with each change.
struct Saying(watch::Receiver<Said>);

#[tonic::async_trait]
impl SpiffeWorkloadApi for Saying {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        assert_eq!(request.metadata().get("workload.spiffe.io").unwrap(), "true");
        Ok(Response::new(Box::pin(WatchStream::new(self.0.clone()))))
    }

    async fn fetch_x509_bundles(
        &self,
        _request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn fetch_jwtsvid(&self, _request: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn fetch_jwt_bundles(
        &self,
        _request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn validate_jwtsvid(
        &self,
        _request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}

/// The other end, and what it says.
struct Other {
    directory: TempDir,
    says: watch::Sender<Said>,
    root: Root,
    serving: Option<JoinHandle<()>>,
}

impl Other {
    /// Not there yet.
    fn new() -> Self {
        let says = watch::channel(Err(Status::unavailable("starting"))).0;
        Self { directory: tempfile::tempdir().unwrap(), says, root: Root::new(), serving: None }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    fn serve(&mut self) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let service = SpiffeWorkloadApiServer::new(Saying(self.says.subscribe()));
        let serving = Server::builder().add_service(service).serve_with_incoming(UnixListenerStream::new(listener));
        self.serving = Some(tokio::spawn(async move { serving.await.unwrap() }));
    }

    /// Takes it away without a word.
    async fn kill(&mut self) {
        let serving = self.serving.take().unwrap();
        serving.abort();
        assert!(serving.await.unwrap_err().is_cancelled());
        fs::remove_file(self.socket()).unwrap();
        // Connections have tasks of their own; whoever listens for the next answer ends with this.
        self.set(Err(Status::unavailable("gone")));
    }

    fn set(&self, said: Said) {
        let _before = self.says.send_replace(said);
    }

    /// A good entry.
    fn entry(&self, identity: &str) -> X509svid {
        self.entry_of(identity, &leaf_of(identity))
    }

    fn entry_of(&self, identity: &str, params: &CertificateParams) -> X509svid {
        let (certificate, key) = self.root.sign(params);
        X509svid {
            spiffe_id: identity.to_owned(),
            x509_svid: certificate.to_vec(),
            x509_svid_key: key.serialize_der(),
            bundle: self.bundle(),
            hint: String::new(),
        }
    }

    fn bundle(&self) -> Vec<u8> {
        self.root.trusted.current().roots[0].to_vec()
    }

    fn say(&self, svids: Vec<X509svid>) {
        self.set(Ok(X509svidResponse { svids, ..X509svidResponse::default() }));
    }

    async fn start(&self) -> (Arc<Store>, Trusted) {
        let wanted = Wanted {
            socket: self.socket(),
            trust_domain: "example.org".to_owned(),
            identities: Roster::new([EXPECTED.parse().unwrap(), DB.parse().unwrap()]),
            cipher: Cipher::default(),
            federation: Arc::default(),
        };
        start(wanted, CancellationToken::new()).await
    }
}

fn serial_of(entry: &X509svid) -> Serial {
    Serial::of(&CertificateDer::from(entry.x509_svid.as_slice())).unwrap()
}

fn held(store: &Store, identity: &str) -> Option<Serial> {
    store.get(&identity.parse().unwrap()).ok().map(|credentials| credentials.serial)
}

/// Returns when it is so; `meanwhile` must hold until then.
async fn until(state: impl Fn() -> bool, meanwhile: impl Fn() -> bool) {
    let reached = async {
        while !state() {
            assert!(meanwhile());
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, reached).await.expect("the state in time");
}

#[tokio::test]
async fn certificates_are_there_when_the_agent_starts_and_are_replaced_without_a_gap() {
    let mut other = Other::new();
    let (web, db) = (other.entry(EXPECTED), other.entry(DB));
    let stranger = other.entry("spiffe://example.org/ns/default/sa/stranger");
    other.say(vec![stranger, web.clone(), db.clone()]);
    other.serve();
    let (store, trusted) = other.start().await;
    assert_eq!(held(&store, EXPECTED), Some(serial_of(&web)));
    assert_eq!(held(&store, DB), Some(serial_of(&db)));
    assert_eq!((store.current().len(), trusted.current().roots.len()), (2, 1));

    let before = store.get(&DB.parse().unwrap()).unwrap();
    let next = other.entry(EXPECTED);
    other.say(vec![next.clone(), db]);
    let serial = Some(serial_of(&next));
    until(|| held(&store, EXPECTED) == serial, || held(&store, EXPECTED).is_some()).await;
    assert!(Arc::ptr_eq(&before, &store.get(&DB.parse().unwrap()).unwrap()), "what is the same stays");
    let (web, db) = (store.get(&EXPECTED.parse().unwrap()).unwrap(), before);
    web.client_config(&db.identity, Alpn::Enforcer).unwrap();
}

#[tokio::test]
async fn a_new_bundle_counts_at_once() {
    let mut other = Other::new();
    other.say(vec![other.entry(EXPECTED)]);
    other.serve();
    let (store, trusted) = other.start().await;
    assert_eq!(held(&store, DB), None, "there is no entry for it");

    let old = other.bundle();
    other.root = Root::new();
    let mut next = other.entry(EXPECTED);
    next.bundle = [old, other.bundle()].concat();
    other.say(vec![next.clone()]);
    let serial = Some(serial_of(&next));
    until(|| held(&store, EXPECTED) == serial, || true).await;
    assert_eq!(trusted.current().roots.len(), 2);
    let credentials = store.get(&EXPECTED.parse().unwrap()).unwrap();
    assert_eq!(credentials.trusted.current().roots, trusted.current().roots);
}

#[tokio::test]
async fn what_is_revoked_is_known() {
    let mut other = Other::new();
    let revoked = other.entry(DB);
    let response = X509svidResponse {
        svids: vec![other.entry(EXPECTED)],
        crl: vec![other.root.revoke(&[serial_of(&revoked)]).to_vec()],
        ..X509svidResponse::default()
    };
    other.set(Ok(response));
    other.serve();
    let (_store, trusted) = other.start().await;
    assert!(trusted.current().revokes(&serial_of(&revoked)));
}

#[tokio::test]
async fn nobody_there_is_no_reason_to_forget() {
    let mut other = Other::new();
    let (store, trusted) = other.start().await;
    assert_eq!((store.current().len(), trusted.current().roots.len()), (0, 0));

    let first = other.entry(EXPECTED);
    other.say(vec![first.clone()]);
    other.serve();
    let serial = Some(serial_of(&first));
    until(|| held(&store, EXPECTED) == serial, || true).await;

    other.kill().await;
    let next = other.entry(EXPECTED);
    other.say(vec![next.clone()]);
    other.serve();
    let (old, new) = (serial, Some(serial_of(&next)));
    until(|| held(&store, EXPECTED) == new, || held(&store, EXPECTED) == old).await;
}

#[tokio::test]
async fn what_would_not_convince_a_peer_is_refused_and_the_one_before_stays() {
    let mut other = Other::new();
    let good = other.entry(EXPECTED);
    other.say(vec![good.clone()]);
    other.serve();
    let (store, _trusted) = other.start().await;
    let now = OffsetDateTime::now_utc();
    let foreign_root = Root::new();
    let (foreign, foreign_key) = foreign_root.sign(&leaf_of(EXPECTED));
    let bad = [
        ("another identity", other.entry_of(EXPECTED, &leaf_of(DB))),
        ("two identities", other.entry_of(EXPECTED, &leaf(|params| params.subject_alt_names.push(uri(DB))))),
        ("expired", other.entry_of(EXPECTED, &leaf(|params| params.not_after = now - time::Duration::MINUTE))),
        ("not valid yet", other.entry_of(EXPECTED, &leaf(|params| params.not_before = now + time::Duration::HOUR))),
        (
            "the key of another",
            X509svid { x509_svid_key: KeyPair::generate().unwrap().serialize_der(), ..other.entry(EXPECTED) },
        ),
        ("no key", X509svid { x509_svid_key: b"key".to_vec(), ..other.entry(EXPECTED) }),
        (
            "another authority",
            X509svid {
                x509_svid: foreign.to_vec(),
                x509_svid_key: foreign_key.serialize_der(),
                ..other.entry(EXPECTED)
            },
        ),
    ];
    for (what, entry) in bad {
        // That it was looked at is known from the other one, which comes with it.
        let db = other.entry(DB);
        other.say(vec![entry, db.clone()]);
        let serial = Some(serial_of(&db));
        until(|| held(&store, DB) == serial, || true).await;
        assert_eq!(held(&store, EXPECTED), Some(serial_of(&good)), "{what}");
    }
    // Of several the first that passes.
    let (expired, next) = (
        other.entry_of(EXPECTED, &leaf(|params| params.not_after = now - time::Duration::MINUTE)),
        other.entry(EXPECTED),
    );
    other.say(vec![expired, next.clone()]);
    let serial = Some(serial_of(&next));
    until(|| held(&store, EXPECTED) == serial, || held(&store, EXPECTED).is_some()).await;
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_no_answer() {
    let mut other = Other::new();
    let good = other.entry(EXPECTED);
    other.say(vec![good.clone()]);
    other.serve();
    let (store, trusted) = other.start().await;
    for (what, svids) in [
        ("nothing", vec![]),
        ("no certificate", vec![X509svid { x509_svid: vec![], ..other.entry(EXPECTED) }]),
        ("no bundle", vec![X509svid { bundle: vec![], ..other.entry(EXPECTED) }]),
        ("no key", vec![X509svid { x509_svid_key: vec![], ..other.entry(EXPECTED) }]),
        ("garbage", vec![X509svid { x509_svid: vec![0x30, 0x80, 1], ..other.entry(EXPECTED) }]),
        ("a garbled bundle", vec![X509svid { bundle: [other.bundle(), vec![1]].concat(), ..other.entry(EXPECTED) }]),
    ] {
        let response = X509svidResponse { svids, ..X509svidResponse::default() };
        assert!(Answer::read(response.clone(), "example.org").is_err(), "{what}");
        other.set(Ok(response));
    }
    let next = other.entry(EXPECTED);
    other.say(vec![next.clone()]);
    let (old, new) = (Some(serial_of(&good)), Some(serial_of(&next)));
    until(|| held(&store, EXPECTED) == new, || held(&store, EXPECTED) == old).await;
    assert_eq!(trusted.current().roots.len(), 1);
}

#[tokio::test]
async fn what_is_taken_back_is_gone() {
    let mut other = Other::new();
    let (web, db) = (other.entry(EXPECTED), other.entry(DB));
    other.say(vec![web.clone(), db.clone()]);
    other.serve();
    let (store, _trusted) = other.start().await;
    other.say(vec![db.clone()]);
    until(|| held(&store, EXPECTED).is_none(), || held(&store, DB).is_some()).await;
    assert!(held(&store, DB).is_some());

    other.set(Err(Status::permission_denied("no identity issued")));
    until(|| held(&store, DB).is_none(), || true).await;
    // The same ones again.
    other.say(vec![web, db]);
    until(|| store.current().len() == 2, || true).await;
}

#[tokio::test]
async fn the_chain_may_have_issuers_and_the_answer_other_trust_domains() {
    let mut other = Other::new();
    let foreign = Root::new();
    let name = "spiffe://elsewhere.example/ns/default/sa/web";
    let (certificate, key) = foreign.sign(&leaf_of(name));
    let elsewhere = X509svid {
        spiffe_id: name.to_owned(),
        x509_svid: certificate.to_vec(),
        x509_svid_key: key.serialize_der(),
        bundle: foreign.trusted.current().roots[0].to_vec(),
        hint: String::new(),
    };
    let mut web = other.entry(EXPECTED);
    web.x509_svid.extend(other.bundle());
    other.say(vec![elsewhere, web.clone()]);
    other.serve();
    let (store, trusted) = other.start().await;
    assert_eq!(held(&store, EXPECTED), Some(serial_of(&web)));
    assert_eq!(trusted.current().roots, other.root.trusted.current().roots);
}
