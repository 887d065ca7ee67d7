//! Another agent that says whatever it likes, whenever it likes, while ours makes offers of its own.

use std::collections::HashSet;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;

use super::*;
use crate::connection::pair::Takes;
use crate::fuzzing::{Input, run};

/// What the two do, at most.
const STEPS: usize = 64;
/// Longer than all that a session waits for.
const PATIENCE: Duration = Duration::from_secs(1000);

/// A frame has one meaning.
pub(crate) fn message(mut data: &[u8]) {
    while let Ok(Some((message, taken))) = decode(data) {
        let mut again = Vec::new();
        encode(&message, &mut again);
        assert_eq!(again, data[..taken], "{message:?}");
        data = &data[taken..];
    }
}

/// Answers by the destination's port.
struct Answers;

impl Ends for Answers {
    async fn answer(&self, offered: Offered) -> Result<(), Reason> {
        match offered.offer.connection.destination.port() % 4 {
            0 => Err(Reason::NoCertificate),
            1 => std::future::pending().await,
            2 => {
                sleep(Duration::from_secs(30)).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// A session, from its beginning to its end.
pub(crate) fn session(data: &[u8]) {
    run(converse(Input(data)));
}

async fn converse(mut input: Input<'_>) {
    let setting = input.octet().unwrap_or_default();
    let role = if setting & 1 == 0 { Role::Client } else { Role::Server };
    let (near, mut far) = duplex(if setting & 2 == 0 { 64 * 1024 } else { 100 });
    let (handle, session) = speak(near, (role, Secret::known()), facts(), |_handle| Arc::new(Answers));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(session.await) });
    let mut offers: JoinSet<Option<u64>> = JoinSet::new();
    let (mut sent, mut received) = (Vec::new(), Vec::new());
    for _ in 0..STEPS {
        let Some(step) = input.octet() else { break };
        match step % 8 {
            0 | 1 => say(&mut far, input.part().unwrap_or_default(), &mut sent).await,
            2 | 3 => drop(offers.spawn(offer(handle.clone(), step))),
            4 => sleep(Duration::from_secs(input.octet().unwrap_or_default().into())).await,
            5 => offers.abort_all(),
            6 => drop(timeout(Duration::from_millis(1), far.read_buf(&mut received)).await),
            _ => say(&mut far, input.take(16), &mut sent).await,
        }
    }
    drop(handle);
    let ending = async {
        while far.read_buf(&mut received).await.is_ok_and(|count| count > 0) {}
        while tasks.join_next().await.is_some_and(|ended| ended.is_ok()) {}
    };
    // Offers that wait are answered when their time is over.
    timeout(PATIENCE, ending).await.expect("a session ends");
    let mut opened = Vec::new();
    while let Some(offered) = offers.join_next().await {
        // An error: nobody waited any more.
        opened.extend(offered.unwrap_or_default());
    }
    check(&sent, &received, &opened);
}

/// The other agent opens what it was offered, and nothing else is open. What was said to it are messages.
fn check(mut sent: &[u8], mut received: &[u8], opened: &[u64]) {
    let mut answers = HashSet::new();
    while let Ok(Some((message, taken))) = decode(sent) {
        sent = &sent[taken..];
        if let Message::Opened { number } = message {
            answers.insert(number);
        }
    }
    assert!(opened.iter().all(|number| answers.contains(number)), "open without an answer");
    while let Some((_, taken)) = decode(received).expect("what a session sends is a message") {
        received = &received[taken..];
    }
}

/// What does not fit is not waited for long.
async fn say(far: &mut DuplexStream, octets: &[u8], sent: &mut Vec<u8>) {
    sent.extend_from_slice(octets);
    drop(timeout(Duration::from_millis(1), far.write_all(octets)).await);
}

/// The number of the offer, if its other end is open.
async fn offer(handle: Handle, step: u8) -> Option<u64> {
    let source = SocketAddr::from(([10, 0, 0, 1], 40_000));
    let destination = SocketAddr::from(([10, 0, 0, 2], 1 + u16::from(step)));
    let offer = handle.number(Connection { source, destination })?;
    let keys = handle.keys(&offer).expect("a known secret has keys");
    let answer = handle.offer(offer, (step & 8 != 0).then_some(keys)).await;
    matches!(answer, Ok(Ok(()))).then_some(offer.number)
}

fn facts() -> Arc<Facts> {
    let serial = crate::identity::Serial::from([1; 20]);
    let expires = time::OffsetDateTime::UNIX_EPOCH;
    Arc::new(Facts { group: None, local_serial: serial, peer_serial: serial, expires, takes: Takes::Direct })
}
