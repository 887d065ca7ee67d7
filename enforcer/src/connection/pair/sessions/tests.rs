//! Two agents in one process, over the loopback.

mod unwanted;

use std::io;
use std::sync::Mutex;

use enforcer_ebpf::Reason;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::connection::pair::listen::HANDSHAKES;
use crate::connection::pair::{Answer, Connection, Ended, Gone, Offered, Role};
use crate::identity::fixture::{Root, Shelf, leaf_of};
use crate::identity::pair::server_name;
use crate::identity::reason_of_io;
use crate::identity::tls::Alpn;

const A: &str = "spiffe://example.org/ns/default/sa/a";
const B: &str = "spiffe://example.org/ns/default/sa/b";
const C: &str = "spiffe://example.org/ns/default/sa/c";

fn pair(local: &str, remote: &str) -> Pair {
    Pair { local: local.parse().unwrap(), remote: remote.parse().unwrap() }
}

/// Remembers its sessions, and takes every offer.
#[derive(Clone)]
struct Hall {
    begun: Arc<Mutex<Vec<(Pair, WeakHandle)>>>,
    answers: Arc<Mutex<Answers>>,
    changes: watch::Sender<u64>,
}

/// What it answers.
struct Answers {
    peers: Arc<HashSet<Identity>>,
    is_empty: bool,
    direct: Vec<&'static str>,
}

struct Seat;

impl Host for Hall {
    type Ends = Seat;

    fn ends(&self, pair: &Pair, session: WeakHandle) -> Arc<Seat> {
        self.begun.lock().unwrap().push((pair.clone(), session));
        Arc::new(Seat)
    }

    fn takes(&self, local: &Identity) -> Takes {
        let is_direct = self.answers.lock().unwrap().direct.contains(&local.as_str());
        if is_direct { Takes::Direct } else { Takes::Relayed }
    }

    fn peers(&self) -> Arc<HashSet<Identity>> {
        Arc::clone(&self.answers.lock().unwrap().peers)
    }

    fn has(&self, _local: &Identity) -> bool {
        !self.answers.lock().unwrap().is_empty
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

impl Ends for Seat {
    async fn answer(&self, _offered: Offered) -> Result<(), Reason> {
        Ok(())
    }
}

/// An agent that listens.
struct Agent {
    sessions: Arc<Sessions<Hall>>,
    hall: Hall,
    shelf: Shelf,
    address: SocketAddr,
    stop: CancellationToken,
    bonds: Bonds,
}

impl Agent {
    /// With a certificate for `own`, and open to `peers`.
    async fn start(root: &Root, own: &str, peers: &[&str]) -> Self {
        let (shelf, stop) = (Shelf::new(), CancellationToken::new());
        let peers = peers.iter().map(|peer| peer.parse().unwrap()).collect();
        let answers = Answers { peers: Arc::new(peers), is_empty: false, direct: vec![A] };
        let (answers, changes) = (Arc::new(Mutex::new(answers)), watch::Sender::new(0));
        let hall = Hall { begun: Arc::default(), answers, changes };
        let bonds = Bonds::default();
        shelf.put(root.credentials_of(own, &leaf_of(own)));
        let sessions =
            Sessions::new(hall.clone(), Arc::clone(&shelf.store), &Turns::default(), (bonds.clone(), stop.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(Arc::clone(&sessions).serve(listener, stop.clone()));
        Self { sessions, hall, shelf, address, stop, bonds }
    }

    async fn get(&self, pair: &Pair, at: &Self) -> Result<Handle, Reason> {
        self.sessions.get(pair, at.address).await
    }

    fn begun(&self) -> Vec<Pair> {
        self.hall.begun.lock().unwrap().iter().map(|(pair, _)| pair.clone()).collect()
    }

    /// The sessions that this agent has not ended.
    fn alive(&self) -> usize {
        self.hall.begun.lock().unwrap().iter().filter(|(_, session)| session.upgrade().is_some()).count()
    }
}

async fn two_agents() -> (Root, Agent, Agent) {
    let root = Root::new();
    let (a, b) = (Agent::start(&root, A, &[B]).await, Agent::start(&root, B, &[A]).await);
    (root, a, b)
}

async fn offer(session: &Handle) -> bool {
    offer_in(session).await == Ok(Ok(()))
}

async fn offer_in(session: &Handle) -> Result<Answer, Gone> {
    let connection =
        Connection { source: "10.0.0.1:40000".parse().unwrap(), destination: "10.0.0.2:80".parse().unwrap() };
    session.offer(session.number(connection).unwrap(), None).await
}

async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let started = Instant::now();
    while !reached() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what} never came");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn offers_go_both_ways_and_each_end_knows_whose_they_are() {
    let (_root, a, b) = two_agents().await;
    let to_b = a.get(&pair(A, B), &b).await.unwrap();
    assert_eq!(to_b.role(), Role::Client);
    assert!(offer(&to_b).await);
    assert_eq!((a.begun(), b.begun()), (vec![pair(A, B)], vec![pair(B, A)]));

    let to_a = b.get(&pair(B, A), &a).await.unwrap();
    assert!(offer(&to_a).await);
    assert_eq!((a.begun().len(), b.begun().len()), (2, 2), "each direction has its own session");
    assert_eq!((to_b.facts().takes, to_a.facts().takes), (Takes::Relayed, Takes::Direct));

    let accepted = b.hall.begun.lock().unwrap()[0].1.upgrade().unwrap();
    assert_eq!(accepted.role(), Role::Server);
    assert!(offer(&accepted).await, "the end that accepted can speak through the session");
}

#[tokio::test]
async fn who_ask_at_the_same_time_share_one_session() {
    let (_root, a, b) = two_agents().await;
    let mut asking = JoinSet::new();
    for _ in 0..50 {
        let (sessions, address) = (Arc::clone(&a.sessions), b.address);
        asking.spawn(async move { offer(&sessions.get(&pair(A, B), address).await.unwrap()).await });
    }
    assert_eq!(asking.join_all().await, vec![true; 50]);
    assert_eq!((a.begun().len(), b.begun().len()), (1, 1));
}

#[tokio::test]
async fn the_wrong_server_is_refused_with_its_reason() {
    let (root, a, b) = two_agents().await;
    b.shelf.put(root.credentials_of(B, &leaf_of(C)));
    assert_eq!(a.get(&pair(A, B), &b).await.err(), Some(Reason::PeerIdentityMismatch));
    b.shelf.put(Root::new().credentials_of(B, &leaf_of(B)));
    assert_eq!(a.get(&pair(A, B), &b).await.err(), Some(Reason::PeerCertificateInvalid));
    assert!(a.begun().is_empty() && b.begun().is_empty());
    b.shelf.put(root.credentials_of(B, &leaf_of(B)));
    assert!(a.get(&pair(A, B), &b).await.is_ok(), "a failure is not kept");
}

#[tokio::test]
async fn the_wrong_client_is_refused_and_knows_it() {
    let root = Root::new();
    let (a, b) = (Agent::start(&root, A, &[B]).await, Agent::start(&root, B, &[C]).await);
    assert_eq!(a.get(&pair(A, B), &b).await.err(), Some(Reason::PeerRefused), "not registered");
    let foreign = Agent::start(&Root::new(), C, &[]).await;
    assert!(foreign.get(&pair(C, B), &b).await.is_err(), "another authority");
    assert!(b.begun().is_empty());
}

#[tokio::test]
async fn only_workloads_that_are_here_can_be_asked_for() {
    let (_root, a, b) = two_agents().await;
    assert_eq!(a.get(&pair(A, C), &b).await.err(), Some(Reason::PeerRefused), "no such workload at the other end");
    assert_eq!(a.get(&pair(C, B), &b).await.err(), Some(Reason::NoCertificate), "no such workload at this end");
}

/// What a client that is no agent of ours hears.
async fn stranger(root: &Root, at: &Agent, change: impl FnOnce(&mut ClientConfig)) -> Result<u8, Reason> {
    let remote = B.parse().unwrap();
    let mut config = (*root.credentials_of(A, &leaf_of(A)).client_config(&remote, Alpn::Pair).unwrap()).clone();
    change(&mut config);
    let heard = async {
        let stream = TcpStream::connect(at.address).await?;
        TlsConnector::from(Arc::new(config)).connect(server_name(&remote), stream).await?.read_u8().await
    };
    heard.await.map_err(|error: io::Error| reason_of_io(&error))
}

#[tokio::test]
async fn who_does_not_speak_as_an_agent_is_refused() {
    let (root, a, b) = two_agents().await;
    assert!(stranger(&root, &b, |_| {}).await.is_ok(), "an agent");
    until("the session of the agent", || b.begun().len() == 1).await;
    let refused = Err(Reason::PeerRefused);
    assert_eq!(stranger(&root, &b, |it| it.client_auth_cert_resolver = Arc::new(Nobody)).await, refused);
    assert_eq!(stranger(&root, &b, |it| it.alpn_protocols = vec![b"enforcer/1".to_vec()]).await, refused);
    assert_eq!(stranger(&root, &b, |it| it.alpn_protocols.clear()).await, refused);
    assert_eq!(stranger(&root, &b, |it| it.enable_sni = false).await, refused);
    assert_eq!(b.begun().len(), 1);
    assert!(a.get(&pair(A, B), &b).await.is_ok());
}

/// Has no certificate.
#[derive(Debug)]
struct Nobody;

impl ResolvesClientCert for Nobody {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn a_server_that_is_no_agent_is_not_taken_for_one() {
    let (root, a, _b) = two_agents().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let ordinary = root.credentials_of(B, &leaf_of(B)).server_config(&A.parse().unwrap(), Alpn::None).unwrap();
    tokio::spawn(async move {
        let mut stream = TlsAcceptor::from(ordinary).accept(listener.accept().await.unwrap().0).await.unwrap();
        stream.read_u8().await
    });
    assert_eq!(a.sessions.get(&pair(A, B), address).await.err(), Some(Reason::PeerIncompatible));
}

#[tokio::test]
async fn an_agent_that_is_not_there_has_its_reason_and_is_tried_again() {
    let (_root, a, b) = two_agents().await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    assert_eq!(a.sessions.get(&pair(A, B), address).await.err(), Some(Reason::PeerAgentUnreachable));
    let back = TcpListener::bind(address).await.unwrap();
    tokio::spawn(Arc::clone(&b.sessions).serve(back, b.stop.clone()));
    assert!(a.sessions.get(&pair(A, B), address).await.is_ok());

    // The kernel accepts, and nobody answers.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let answer = a.sessions.get(&pair(A, B), mute.local_addr().unwrap()).await;
    assert_eq!(answer.err(), Some(Reason::HandshakeTimeout));
}

#[tokio::test]
async fn a_renewed_certificate_makes_a_new_session_and_leaves_the_old_to_its_holders() {
    let (root, a, b) = two_agents().await;
    let old = a.get(&pair(A, B), &b).await.unwrap();
    a.shelf.put(root.credentials_of(A, &leaf_of(A)));
    let new = a.get(&pair(A, B), &b).await.unwrap();
    assert_eq!((a.begun().len(), b.begun().len()), (2, 2));
    assert!(offer(&old).await && offer(&new).await);
    drop(old);
    until("the end of the old session", || b.alive() == 1).await;
    drop(new);
    let again = a.get(&pair(A, B), &b).await.unwrap();
    assert!(offer(&again).await);
    assert_eq!(a.begun().len(), 2, "it keeps its place without holders");
}

#[tokio::test]
async fn a_session_takes_no_new_offers_after_its_time() {
    let (_root, a, b) = two_agents().await;
    let old = a.get(&pair(A, B), &b).await.unwrap();
    tokio::time::pause();
    sleep(RENEWAL + Duration::from_secs(1)).await;
    tokio::time::resume();
    let new = a.get(&pair(A, B), &b).await.unwrap();
    assert_eq!(a.begun().len(), 2);
    assert!(offer(&old).await && offer(&new).await);
}

#[tokio::test]
async fn a_session_ends_with_the_first_certificate() {
    let (root, a, b) = two_agents().await;
    let short = |name: &str| {
        let mut params = leaf_of(name);
        // In whole seconds, as certificates have it.
        params.not_after = (OffsetDateTime::now_utc() + Duration::from_secs(3)).replace_nanosecond(0).unwrap();
        root.credentials_of(name, &params)
    };
    b.shelf.put(short(B));
    let session = a.get(&pair(A, B), &b).await.unwrap();
    assert!(offer(&session).await);
    until("the end of the session", || session.is_gone()).await;
    assert_eq!(a.get(&pair(A, B), &b).await.err(), Some(Reason::PeerRefused), "the other end has none any more");

    a.shelf.put(short(A));
    b.shelf.put(root.credentials_of(B, &leaf_of(B)));
    let session = a.get(&pair(A, B), &b).await.unwrap();
    until("the end of the session", || session.is_gone()).await;
    assert_eq!(a.get(&pair(A, B), &b).await.err(), Some(Reason::NoCertificate));
}

/// The bonds of either end see the certificates of both.
#[tokio::test]
async fn a_session_ends_when_a_certificate_of_either_end_is_revoked() {
    let (root, a, b) = two_agents().await;
    for revoking in [&a, &b] {
        let session = a.get(&pair(A, B), &b).await.unwrap();
        assert!(offer(&session).await);
        let [own, other] = session.facts().serials();
        assert_eq!(own, a.sessions.store.get(&A.parse().unwrap()).unwrap().serial);
        revoking.bonds.revoke(Arc::new(|_serial| false));
        assert!(offer(&session).await, "nothing is revoked");
        assert_eq!(revoking.bonds.revoke(Arc::new(move |serial| *serial == other)), 1);
        until("the end of the session", || session.is_gone()).await;
        assert_eq!(offer_in(&session).await, Err(Gone));
        let refused = a.get(&pair(A, B), &b).await.err();
        assert!(matches!(refused, Some(Reason::CertificateRevoked | Reason::PeerClosedInHandshake)), "{refused:?}");
        b.shelf.put(root.credentials_of(B, &leaf_of(B)));
        assert!(offer(&a.get(&pair(A, B), &b).await.unwrap()).await, "a new certificate makes a new session");
    }
}

#[tokio::test]
async fn a_session_that_was_lost_is_opened_again() {
    let (root, a, b) = two_agents().await;
    let session = a.get(&pair(A, B), &b).await.unwrap();
    b.stop.cancel();
    b.sessions.ended().await;
    until("the end of the session", || session.is_gone()).await;
    assert!(!offer(&session).await);
    let other = Agent::start(&root, B, &[A]).await;
    assert!(offer(&a.get(&pair(A, B), &other).await.unwrap()).await);
    a.stop.cancel();
    a.sessions.ended().await;
    assert_eq!(a.get(&pair(A, B), &other).await.err(), Some(Reason::AgentStopped));
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_dropped_at_the_deadline() {
    let (_root, _a, b) = two_agents().await;
    let started = Instant::now();
    let mut silent = TcpStream::connect(b.address).await.unwrap();
    assert!(matches!(silent.read(&mut [0]).await, Ok(0) | Err(_)));
    assert_eq!(started.elapsed().as_secs(), 5);
}

#[tokio::test]
async fn no_more_than_so_many_shake_hands_at_once() {
    let (_root, _a, b) = two_agents().await;
    let mut silent = Vec::new();
    for _ in 0..HANDSHAKES {
        silent.push(TcpStream::connect(b.address).await.unwrap());
    }
    until("the turns", || b.sessions.tasks.len() == HANDSHAKES).await;
    let mut next = TcpStream::connect(b.address).await.unwrap();
    next.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut heard = [0; 1];
    assert!(timeout(Duration::from_millis(300), next.read(&mut heard)).await.is_err(), "it is not its turn");
    drop(silent.pop());
    // Well before any of the silent ones is dropped.
    let answered = timeout(Duration::from_secs(3), next.read(&mut heard)).await;
    assert!(answered.is_ok(), "it is its turn, and what it says is nothing");
    assert!(b.begun().is_empty());
}

#[test]
fn an_end_is_told_with_its_cause() {
    assert_eq!(cause(&Ended::Expired), None);
    assert!(cause(&Ended::Lost(io::ErrorKind::UnexpectedEof.into())).is_some());
}
