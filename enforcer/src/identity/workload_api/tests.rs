//! The API as an unmodified client sees it. The client is this process: its own control group and network namespace are
//! enrolled, or are not.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use spiffe::transport::Endpoint as Address;
use spiffe::{WorkloadApiClient, WorkloadApiError, X509Context};
use tempfile::TempDir;
use tokio::net::UnixStream as Stream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Uri};
use tonic::{Code, Request, Status, Streaming};

use super::*;
use crate::ca::{Issued, SigningRequest};
use crate::identity::fixture::{EXPECTED, Root, leaf_of};
use crate::identity::source::{Pending, Refused};
use crate::identity::trust::{Trust, Trusted};
use crate::identity::{Serial, tls, verify_at};
use crate::kernel::{cgroup, netns};
use crate::observe::metrics::tests::unconnected;
use crate::protocol::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use crate::protocol::workload::{JwtsvidRequest, X509BundlesRequest, X509svidRequest, X509svidResponse};

const PATIENCE: Duration = Duration::from_secs(20);

/// An authority that does as it is told.
struct Issuing {
    root: Root,
    trust: watch::Sender<Arc<Trust>>,
    refuses: AtomicBool,
    issued: AtomicUsize,
}

impl Issuing {
    fn tell(&self, change: impl FnOnce(Trust) -> Trust) {
        let roots = self.trust.borrow().roots.clone();
        self.trust.send_replace(Arc::new(change(Trust::of_roots(roots).unwrap())));
    }

    fn revoke(&self, serial: Serial) {
        let list = self.root.revoke(&[serial]);
        self.tell(|trust| trust.with_lists(&[list], Duration::from_secs(60)).unwrap());
    }

    /// Another root is trusted too.
    fn add_root(&self) {
        let roots = [self.trust.borrow().roots.clone(), Root::new().trusted.current().roots.clone()].concat();
        self.trust.send_replace(Arc::new(Trust::of_roots(roots).unwrap()));
    }
}

impl Source for Issuing {
    fn issue(&self, request: SigningRequest) -> Pending<'_> {
        Box::pin(async move {
            if self.refuses.load(Ordering::Relaxed) {
                return Err(Refused::from("not today"));
            }
            self.issued.fetch_add(1, Ordering::Relaxed);
            let params = leaf_of(request.identity.as_str());
            let certificate = self.root.certify(&request.csr, &params);
            let serial = Serial::of(&certificate).unwrap().to_string();
            let (not_before, not_after) = (params.not_before, params.not_after);
            Ok(Issued { chain: vec![certificate], serial, not_before, not_after, issuer: String::new() })
        })
    }

    fn trusted(&self) -> Trusted {
        Trusted::new(self.trust.subscribe())
    }
}

/// A server, and where it is.
struct Served {
    _directory: TempDir,
    path: PathBuf,
    source: Arc<Issuing>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Served {
    /// Serves the workload of this control group and namespace.
    fn to(group: u64, namespace: netns::Id) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/workload.sock");
        let root = Root::new();
        let trust = watch::channel(root.trusted.current()).0;
        let source = Arc::new(Issuing { root, trust, refuses: AtomicBool::new(false), issued: AtomicUsize::new(0) });
        let member = Member { name: "web".into(), identity: EXPECTED.parse().unwrap(), namespace };
        let (metrics, stop) = (unconnected(), CancellationToken::new());
        let parts = Parts {
            source: Arc::clone(&source) as Arc<dyn Source>,
            trust_domain: "example.org".to_owned(),
            members: Roll::new(HashMap::from([(group, member)])),
            metrics: Arc::clone(&metrics),
        };
        let serving = tokio::spawn(Endpoint::bind(&path).unwrap().serve(parts, stop.clone()));
        Self { _directory: directory, path, source, metrics, stop, serving }
    }

    /// Serves this process.
    fn to_this_process() -> Self {
        Self::to(own_groups()[0], own_namespace())
    }

    async fn client(&self) -> WorkloadApiClient {
        WorkloadApiClient::connect(Address::Unix(self.path.clone())).await.unwrap()
    }

    /// A client without manners of its own; `window` is how much it takes unread.
    async fn raw(&self, window: u32) -> SpiffeWorkloadApiClient<Channel> {
        let path = self.path.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, io::Error>(hyper_util::rt::TokioIo::new(Stream::connect(path).await?)) }
        });
        let endpoint = tonic::transport::Endpoint::from_static("http://workload").initial_stream_window_size(window);
        SpiffeWorkloadApiClient::new(endpoint.connect_with_connector(connector).await.unwrap())
    }

    fn counted(&self, answer: &str) -> bool {
        let line = format!("enforcer_workload_api_answers_total{{answer=\"{answer}\"}} ");
        self.metrics.render().unwrap().lines().any(|found| found.starts_with(&line))
    }
}

fn own_groups() -> Vec<u64> {
    cgroup::ids_of(std::process::id()).unwrap()
}

fn own_namespace() -> netns::Id {
    netns::Id::of_process(std::process::id()).unwrap()
}

fn marked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

async fn next<T>(stream: &mut (impl tokio_stream::Stream<Item = T> + Unpin)) -> T {
    timeout(PATIENCE, stream.next()).await.expect("an answer in time").expect("an answer before the end")
}

async fn message(stream: &mut Streaming<X509svidResponse>) -> Result<X509svidResponse, Status> {
    next(stream).await
}

/// Serial number of the one certificate that there is.
fn serial(context: &X509Context) -> Serial {
    Serial::of(&CertificateDer::from(context.default_svid().unwrap().leaf().as_bytes())).unwrap()
}

fn roots(context: &X509Context) -> usize {
    let bundles: Vec<_> = context.bundle_set().iter().collect();
    assert_eq!(bundles.len(), 1);
    assert_eq!(bundles[0].0.to_string(), "example.org");
    bundles[0].1.authorities().len()
}

#[tokio::test]
async fn a_workload_gets_a_certificate_that_its_peers_accept() {
    let served = Served::to_this_process();
    let client = served.client().await;
    let context = client.fetch_x509_context().await.unwrap();
    let svid = context.default_svid().unwrap();
    assert_eq!((context.svids().len(), svid.spiffe_id().to_string().as_str()), (1, EXPECTED));
    let chain: Vec<_> = svid.cert_chain().iter().map(|one| CertificateDer::from(one.as_bytes().to_vec())).collect();
    let trust = served.source.trust.borrow().clone();
    verify_at(&chain, &trust.anchors, &EXPECTED.parse().unwrap(), UnixTime::now()).unwrap();
    let key = PrivatePkcs8KeyDer::from(svid.private_key().as_bytes().to_vec());
    CertifiedKey::from_der(chain, key.into(), &tls::crypto_provider()).expect("the key of the certificate");
    assert_eq!(roots(&context), 1);
    let bundles = client.fetch_x509_bundles().await.unwrap();
    assert_eq!(bundles.iter().next().unwrap().1.authorities()[0].as_bytes(), &*trust.roots[0]);
    assert!(served.counted("certificate") && served.counted("bundle"));
}

#[tokio::test]
async fn a_group_inside_that_of_a_workload_is_the_workloads() {
    let outermost = *own_groups().last().unwrap();
    let served = Served::to(outermost, own_namespace());
    assert_eq!(served.client().await.fetch_x509_svid().await.unwrap().spiffe_id().to_string(), EXPECTED);
}

#[tokio::test]
async fn whoever_is_elsewhere_gets_nothing() {
    let elsewhere = netns::tests::new_namespace();
    for (group, namespace) in [(u64::MAX, own_namespace()), (own_groups()[0], elsewhere.id().unwrap())] {
        let served = Served::to(group, namespace);
        let client = served.client().await;
        let refused = client.fetch_x509_svid().await.unwrap_err();
        assert!(matches!(refused, WorkloadApiError::NoIdentityIssued), "{refused}");
        assert!(matches!(client.fetch_x509_bundles().await, Err(WorkloadApiError::NoIdentityIssued)));
        assert!(served.counted("not-enrolled") && served.source.issued.load(Ordering::Relaxed) == 0);
    }
}

#[tokio::test]
async fn a_request_must_say_what_it_means_and_what_is_not_offered_is_said() {
    let served = Served::to_this_process();
    let mut client = served.raw(65_535).await;
    let mut wrong = Request::new(X509BundlesRequest {});
    wrong.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("True"));
    let refused = [
        client.fetch_x509svid(X509svidRequest {}).await.map(drop),
        client.fetch_x509_bundles(wrong).await.map(drop),
        client.fetch_jwtsvid(JwtsvidRequest::default()).await.map(drop),
    ];
    assert_eq!(refused.map(|refused| refused.unwrap_err().code()), [Code::InvalidArgument; 3]);
    let unimplemented = client.fetch_jwtsvid(marked(JwtsvidRequest::default())).await.unwrap_err();
    assert_eq!(unimplemented.code(), Code::Unimplemented);
    assert!(unimplemented.message().contains("FetchX509SVID"), "{unimplemented}");
    assert!(served.counted("no-header") && served.counted("not-offered"));
}

#[tokio::test]
async fn calls_of_one_workload_share_a_certificate_and_hear_of_changes() {
    let served = Served::to_this_process();
    let (first, second) = (served.client().await, served.client().await);
    let mut streams = [first.stream_x509_contexts().await.unwrap(), second.stream_x509_contexts().await.unwrap()];
    let mut serials = Vec::new();
    for stream in &mut streams {
        serials.push(serial(&next(stream).await.unwrap()));
    }
    assert!(serials[0] == serials[1] && served.source.issued.load(Ordering::Relaxed) == 1, "{serials:?}");

    // A revocation list about somebody else is no change.
    served.source.revoke("0102".parse().unwrap());
    served.source.add_root();
    for stream in &mut streams {
        let context = next(stream).await.unwrap();
        assert_eq!((serial(&context), roots(&context)), (serials[0], 2));
    }

    served.source.revoke(serials[0]);
    let mut renewed = Vec::new();
    for stream in &mut streams {
        renewed.push(serial(&next(stream).await.unwrap()));
    }
    assert!(renewed[0] == renewed[1] && renewed[0] != serials[0], "{serials:?} {renewed:?}");
}

#[tokio::test]
async fn a_revoked_workload_without_another_certificate_is_denied() {
    let served = Served::to_this_process();
    let mut stream = served.client().await.stream_x509_contexts().await.unwrap();
    let serial = serial(&next(&mut stream).await.unwrap());
    served.source.refuses.store(true, Ordering::Relaxed);
    served.source.revoke(serial);
    let ended = next(&mut stream).await.unwrap_err();
    assert!(matches!(ended, WorkloadApiError::NoIdentityIssued), "{ended}");
    assert!(served.counted("no-certificate"));
    // It is tried again, and then it is there.
    served.source.refuses.store(false, Ordering::Relaxed);
    let again = async {
        loop {
            match served.client().await.fetch_x509_context().await {
                Ok(context) => return context,
                Err(_refused) => tokio::task::yield_now().await,
            }
        }
    };
    assert_ne!(self::serial(&timeout(PATIENCE, again).await.unwrap()), serial);
}

#[tokio::test]
async fn an_authority_that_does_not_answer_is_a_reason_to_come_again() {
    let served = Served::to_this_process();
    served.source.refuses.store(true, Ordering::Relaxed);
    let mut stream = served.raw(65_535).await.fetch_x509svid(marked(X509svidRequest {})).await.unwrap().into_inner();
    assert_eq!(message(&mut stream).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn who_does_not_read_keeps_nobody_waiting_and_gets_the_newest() {
    const CHANGES: usize = 100;
    let served = Served::to_this_process();
    // Less than a message: the rest of the first one waits in the server.
    let mut lazy = served.raw(64).await.fetch_x509svid(marked(X509svidRequest {})).await.unwrap().into_inner();
    let mut busy = served.client().await.stream_x509_contexts().await.unwrap();
    next(&mut busy).await.unwrap();
    for change in 1..=CHANGES {
        served.source.add_root();
        // Changes may come together.
        while roots(&next(&mut busy).await.unwrap()) != change + 1 {}
    }
    let octets = served.source.trust.borrow().roots.iter().map(|root| root.len()).sum::<usize>();
    let mut messages = 1;
    while message(&mut lazy).await.unwrap().svids[0].bundle.len() != octets {
        messages += 1;
    }
    assert!(messages <= 5, "{messages} messages were kept for who does not read");
}

#[tokio::test]
async fn calls_and_connections_are_bounded() {
    let served = Served::to_this_process();
    let mut held = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = served.raw(65_535).await;
        for _ in 0..16 {
            held.push(client.fetch_x509_bundles(marked(X509BundlesRequest {})).await.unwrap());
        }
        clients.push(client);
    }
    let mut one_more = served.raw(65_535).await;
    let refused = one_more.fetch_x509_bundles(marked(X509BundlesRequest {})).await.unwrap_err();
    assert_eq!((refused.code(), served.counted("too-many")), (Code::Unavailable, true), "{refused}");
    drop(held);
    let again = async {
        while one_more.fetch_x509_bundles(marked(X509BundlesRequest {})).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, again).await.expect("the places are free again");
}

#[tokio::test]
async fn a_stopping_agent_says_so() {
    let served = Served::to_this_process();
    let mut stream = served.raw(65_535).await.fetch_x509svid(marked(X509svidRequest {})).await.unwrap().into_inner();
    message(&mut stream).await.unwrap();
    // Another one never reads.
    let _lazy = served.raw(64).await.fetch_x509svid(marked(X509svidRequest {})).await.unwrap();
    served.stop.cancel();
    assert_eq!(message(&mut stream).await.unwrap_err().code(), Code::Unavailable);
    timeout(PATIENCE, served.serving).await.expect("the end").unwrap();
}

#[tokio::test]
async fn a_certificate_that_nobody_wants_is_dropped_after_a_while() {
    let issuing = Served::to_this_process().source;
    let desk = Arc::new(desk::Desk::new(
        Arc::clone(&issuing) as Arc<dyn Source>,
        "example.org".to_owned(),
        CancellationToken::new(),
    ));
    let member = Member { name: "web".into(), identity: EXPECTED.parse().unwrap(), namespace: own_namespace() };
    let valid = async |shown: &mut watch::Receiver<desk::Shown>| {
        let shown = shown.wait_for(|shown| matches!(shown, desk::Shown::Valid(..))).await.unwrap();
        let desk::Shown::Valid(svid, _) = &*shown else { panic!("no certificate") };
        svid.serial
    };
    let first = valid(&mut desk.open(&member)).await;
    assert_eq!(valid(&mut desk.open(&member)).await, first, "somebody came back in time");
    tokio::time::pause();
    sleep(desk::LINGER * 2).await;
    tokio::time::resume();
    assert_ne!(valid(&mut desk.open(&member)).await, first);
    assert_eq!(issuing.issued.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_socket_is_everybodys_and_only_a_dead_one_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made/for/it.sock");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let endpoint = Endpoint::bind(&path).unwrap();
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o666, 0o755));
    assert!(matches!(Endpoint::bind(&path), Err(Error::Running { .. })));
    drop(endpoint);
    drop(Endpoint::bind(&path).unwrap());
    assert!(matches!(Endpoint::bind(Path::new("/proc/no/socket")), Err(Error::Socket { .. })));
    let file = directory.path().join("file");
    fs::write(&file, "precious").unwrap();
    assert!(matches!(Endpoint::bind(&file), Err(Error::Socket { .. })));
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}
