//! A connection that somebody opened to the workload: shake hands, reach the application, carry.

use std::net::SocketAddr;
use std::time::Duration;

use enforcer_ebpf::Reason;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::offload::Session;
use super::{carry_plain, carry_session, handshake, keyed};
use crate::connection::direct::Put;
use crate::connection::pair::Connection;
use crate::connection::{Choice, Expected, Path, Request};
use crate::kernel::bpf::{Shown, Sources};
use crate::kernel::socket::{self, Side};
use crate::observe::events::Entry;

/// How long the application may take to accept: it is on the same host, so only a full backlog takes time.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long the other end may take to begin, if it has an agent that may have to be reached first.
const OFFER_DEADLINE: Duration = Duration::from_secs(30);

/// Carries one connection from its start to its end, and says how it ended.
pub(in crate::connection) async fn carry(
    peer: TcpStream,
    request: &Request,
    (choice, path): (&Choice, &Path),
    record: &Entry,
) -> Reason {
    match choice {
        Choice::Plain(_) => match reach(request, &path.sources).await {
            Ok((application, _shown)) => carry_plain(application, peer, record).await,
            Err(reason) => reason,
        },
        Choice::Relay(expected, _) => {
            relay(peer, request, (expected, path), record).await.unwrap_or_else(|reason| reason)
        }
        Choice::Refuse(reason) => *reason,
    }
}

/// The other end shakes hands in the connection, or its agent offers the connection: whichever comes.
async fn relay(
    peer: TcpStream,
    request: &Request,
    (expected, path): (&Expected, &Path),
    record: &Entry,
) -> Result<Reason, Reason> {
    if expected.agent.is_some() {
        let connection = Connection { source: request.source, destination: request.destination };
        let mut relayed = path.offers.direct.accepts.relayed(connection);
        let mut first = [0];
        let begun = timeout(OFFER_DEADLINE, async {
            tokio::select! {
                put = relayed.offered() => put.map(Some),
                // The handshake finds out whether it is one, or the end of the connection.
                _peeked = peer.peek(&mut first) => Ok(None),
            }
        });
        if let Some(put) = begun.await.map_err(|_elapsed| Reason::HandshakeTimeout)?? {
            // It was judged for itself, and perhaps by another registry.
            let answered = match put.pair.remote == expected.identity {
                true => offered(peer, request, (&put, &path.sources), record).await,
                false => Err(Reason::PeerIdentityMismatch),
            };
            // Nobody listens when the session is lost in which it was offered: then it is offered again.
            let _told = put.answer.send(answered.as_ref().map(|_| ()).map_err(|reason| *reason));
            let (session, (application, _shown)) = answered?;
            return Ok(carry_session(application, session, record).await);
        }
    }
    let session = handshake::as_server(peer, request, expected, record).await?;
    let (application, _shown) = reach(request, &path.sources).await?;
    Ok(carry_session(application, session, record).await)
}

/// The application is reached before the other end may send.
async fn offered(
    peer: TcpStream,
    request: &Request,
    (put, sources): (&Put, &Sources),
    record: &Entry,
) -> Result<(Session, (TcpStream, Shown)), Reason> {
    let session = keyed::take(peer, request, put, record)?;
    Ok((session, reach(request, sources).await?))
}

/// Connects to the application where the client wanted to go, so that it sees the client as the other end.
pub(super) async fn reach(request: &Request, sources: &Sources) -> Result<(TcpStream, Shown), Reason> {
    let destination = request.destination;
    let connect = async {
        let socket = socket::open(&request.namespace, destination, Some(destination.ip()), Side::Application)?;
        // Before the first packet, because the application may ask as soon as `accept` returns.
        let shown = show(sources, request, socket.local_addr()?)?;
        Ok::<_, std::io::Error>((socket.connect(destination).await?, shown))
    };
    match timeout(DEADLINE, connect).await {
        Ok(Ok(reached)) => Ok(reached),
        Ok(Err(error)) => {
            tracing::debug!(%error, %destination, "application not reached");
            Err(Reason::DestinationUnreachable)
        }
        Err(_elapsed) => Err(Reason::DestinationUnreachable),
    }
}

fn show(sources: &Sources, request: &Request, own: SocketAddr) -> std::io::Result<Shown> {
    sources.show(request.namespace.cookie(), own, request.source).map_err(std::io::Error::other)
}
