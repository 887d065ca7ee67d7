//! Two ends over a pipe, and one end against an agent that does not behave.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use rustls::CipherSuite;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::connection::pair::secrets::tests::configs;
use crate::connection::pair::{Malformed, Takes};

/// Answers by the destination's port, and remembers what it was offered: keys, and whether again.
#[derive(Default)]
struct Recorder(Mutex<HashMap<u64, (Keys, bool)>>);

/// The destination's port says how it is answered.
const WELCOME: u16 = 1;
const REFUSED: u16 = 2;
const NEVER: u16 = 3;

impl Ends for Recorder {
    async fn answer(&self, Offered { offer, keys, again }: Offered) -> Result<(), Reason> {
        self.0.lock().unwrap().insert(offer.number, (keys, again));
        match offer.connection.destination.port() {
            REFUSED => Err(Reason::NoCertificate),
            NEVER => std::future::pending().await,
            _ => Ok(()),
        }
    }
}

struct End {
    handle: Handle,
    ends: Arc<Recorder>,
    session: JoinHandle<Ended>,
}

impl End {
    fn start(stream: TlsStream<DuplexStream>) -> Self {
        let ends = Arc::new(Recorder::default());
        let own = Arc::clone(&ends);
        let (handle, session) = start(stream, facts(), |_handle| own).unwrap();
        Self { handle, ends, session: tokio::spawn(session) }
    }

    async fn ended(self) -> Ended {
        // The handle stays until the session has ended by itself.
        let Self { handle, session, .. } = self;
        let ended = session.await.unwrap();
        drop(handle);
        ended
    }
}

/// A finished handshake over a pipe that holds this many octets.
async fn streams(octets: usize) -> (TlsStream<DuplexStream>, TlsStream<DuplexStream>) {
    let (client, server) = configs(CipherSuite::TLS13_AES_128_GCM_SHA256);
    let (near, far) = duplex(octets);
    let connect = TlsConnector::from(Arc::new(client)).connect("pair.test".try_into().unwrap(), near);
    let (client, server) = tokio::join!(connect, TlsAcceptor::from(Arc::new(server)).accept(far));
    (TlsStream::Client(client.unwrap()), TlsStream::Server(server.unwrap()))
}

fn facts() -> Arc<Facts> {
    let expires = time::OffsetDateTime::now_utc() + Duration::from_secs(3600);
    Arc::new(Facts {
        group: None,
        local_serial: "01".parse().unwrap(),
        peer_serial: "02".parse().unwrap(),
        expires,
        takes: Takes::Direct,
    })
}

async fn pair(octets: usize) -> (End, End) {
    let (client, server) = streams(octets).await;
    (End::start(client), End::start(server))
}

fn to(port: u16) -> Connection {
    let source = "10.0.0.1:40000".parse().unwrap();
    Connection { source, destination: SocketAddr::new("10.0.0.2".parse().unwrap(), port) }
}

async fn offer(handle: &Handle, port: u16) -> Answer {
    handle.offer(handle.number(to(port)).unwrap(), None).await.unwrap()
}

#[tokio::test]
async fn an_offer_gives_both_ends_the_same_keys() {
    let (client, server) = pair(4096).await;
    for (number, (from, at)) in [(0, (&client, &server)), (0, (&server, &client)), (1, (&client, &server))] {
        let offer = from.handle.number(to(WELCOME)).unwrap();
        assert_eq!((offer.by, offer.number, offer.connection), (from.handle.role(), number, to(WELCOME)));
        let keys = from.handle.keys(&offer).unwrap();
        assert_eq!(from.handle.offer(offer, None).await, Ok(Ok(())));
        assert_eq!(at.ends.0.lock().unwrap()[&number], (keys, false));
    }
    drop(client.handle);
    assert!(matches!(client.session.await.unwrap(), Ended::Here));
    assert!(matches!(server.ended().await, Ended::Lost(_)));
}

#[tokio::test]
async fn an_offer_that_lost_its_session_brings_its_keys_along() {
    let (lost, _) = pair(4096).await;
    let keys = lost.handle.keys(&lost.handle.number(to(WELCOME)).unwrap()).unwrap();
    let (client, server) = pair(4096).await;
    let offer = client.handle.number(to(WELCOME)).unwrap();
    assert_ne!(client.handle.keys(&offer).unwrap(), keys);
    assert_eq!(client.handle.offer(offer, Some(keys.clone())).await, Ok(Ok(())));
    assert_eq!(server.ends.0.lock().unwrap()[&0], (keys, true));
}

#[tokio::test]
async fn a_refusal_arrives_with_its_reason() {
    let (client, _server) = pair(4096).await;
    assert_eq!(offer(&client.handle, REFUSED).await, Err(Reason::NoCertificate as u32));
}

/// With a pipe that holds less than two records each way.
#[tokio::test]
async fn both_ends_can_offer_at_the_same_time() {
    const EACH: usize = 2000;
    let (client, server) = pair(128).await;
    let mut offers = JoinSet::new();
    for handle in [&client.handle, &server.handle] {
        for _ in 0..EACH {
            let handle = handle.clone();
            offers.spawn(async move { offer(&handle, WELCOME).await.is_ok() });
        }
    }
    assert_eq!(offers.join_all().await, vec![true; 2 * EACH]);
}

#[tokio::test(start_paused = true)]
async fn an_offer_that_nobody_answers_ends_in_time_at_both_ends() {
    let (client, _server) = pair(4096).await;
    let started = Instant::now();
    assert_eq!(offer(&client.handle, NEVER).await, Err(Reason::HandshakeTimeout as u32));
    assert_eq!(started.elapsed().as_secs(), DEADLINE.as_secs());
    // The session has lived through it.
    assert_eq!(offer(&client.handle, WELCOME).await, Ok(()));
}

/// What the session says to an agent that sends these octets.
async fn against(octets: &[u8]) -> Ended {
    let (mut client, server) = streams(1 << 20).await;
    let end = End::start(server);
    client.write_all(octets).await.unwrap();
    client.flush().await.unwrap();
    end.ended().await
}

fn encoded(messages: &[Message]) -> Vec<u8> {
    let mut out = Vec::new();
    messages.iter().for_each(|message| encode(message, &mut out));
    out
}

#[tokio::test]
async fn what_is_no_message_ends_the_session() {
    assert!(matches!(against(&[0, 0]).await, Ended::Malformed(Malformed::Length(0))));
    assert!(matches!(against(b"GET / HTTP/1.1").await, Ended::Malformed(_)));
}

#[tokio::test]
async fn messages_out_of_place_end_the_session() {
    let offer = |number| Message::Offer { number, connection: to(NEVER) };
    let cases = [
        (vec![offer(3), offer(3)], ("offer", 3)),
        (vec![offer(2), offer(3), offer(2)], ("offer", 2)),
        (vec![offer(u64::MAX)], ("offer", u64::MAX)),
        (vec![Message::Opened { number: 0 }], ("answer to", 0)),
    ];
    for (messages, expected) in cases {
        match against(&encoded(&messages)).await {
            Ended::OutOfPlace(what, number) => assert_eq!((what, number), expected),
            other => panic!("{messages:?}: {other}"),
        }
    }
}

#[tokio::test]
async fn offers_beyond_the_limit_are_refused() {
    let (mut client, server) = streams(1 << 20).await;
    let _end = End::start(server);
    let limit = u64::try_from(ANSWERING).unwrap();
    let offers: Vec<_> = (0..=limit).map(|number| Message::Offer { number, connection: to(NEVER) }).collect();
    client.write_all(&encoded(&offers)).await.unwrap();
    client.flush().await.unwrap();
    let mut frame = [0; 16];
    client.read_exact(&mut frame).await.unwrap();
    let reason = Reason::TooManyConnections as u32;
    assert_eq!(decode(&frame), Ok(Some((Message::Abort { by: Role::Client, number: limit, reason }, frame.len()))));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_reads_nothing_is_left() {
    let (mut client, server) = streams(2048).await;
    let end = End::start(server);
    let offers: Vec<_> = (0..4096).map(|number| Message::Offer { number, connection: to(REFUSED) }).collect();
    let flood = tokio::spawn(async move {
        let sent = client.write_all(&encoded(&offers)).await;
        // Everything went into the pipe, or the session ended first; the stream stays open until then.
        (sent, std::future::pending::<()>().await)
    });
    assert!(matches!(end.ended().await, Ended::Stalled));
    flood.abort();
}
