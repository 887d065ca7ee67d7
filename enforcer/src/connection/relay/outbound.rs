//! A connection that the workload opened: reach the peer, shake hands, carry.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use enforcer_ebpf::Reason;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::handshake::Turn;
use super::{carry_plain, carry_session, handshake, keyed};
use crate::connection::direct::Offers;
use crate::connection::{Choice, Expected, Request};
use crate::kernel::socket::{self, Side};
use crate::observe::events::{Entry, Path};

/// How long a peer may take to accept. The application's own `connect` has returned already.
const DEADLINE: Duration = Duration::from_secs(30);
/// What a peer that is there needs at most.
const PROMPT: Duration = Duration::from_secs(1);

/// Carries one connection from its start to its end, and says how it ended.
pub(in crate::connection) async fn carry(
    application: TcpStream,
    request: &Request,
    (choice, offers): (&Choice, &Offers),
    record: &Entry,
) -> Reason {
    let ended = match choice {
        Choice::Refuse(reason) => Err(*reason),
        Choice::Plain(_) => plain(application, request, record).await,
        Choice::Relay(expected, _) => relay(application, request, (expected, offers), record).await,
    };
    ended.unwrap_or_else(|reason| reason)
}

async fn plain(application: TcpStream, request: &Request, record: &Entry) -> Result<Reason, Reason> {
    let peer = timeout(DEADLINE, connect(request)).await.map_err(|_elapsed| Reason::DestinationUnreachable)??;
    name_source(&peer, record);
    Ok(carry_plain(application, peer, record).await)
}

async fn relay(
    application: TcpStream,
    request: &Request,
    (expected, offers): (&Expected, &Offers),
    record: &Entry,
) -> Result<Reason, Reason> {
    let wants_offer = keyed::wants_offer(offers, request, expected).await?;
    let (peer, turn) = connect_in_turn(request).await?;
    name_source(&peer, record);
    if stays_in_namespace(&peer, request.destination) {
        drop(turn);
        record.decided(Path::Plain, Reason::SameNamespace);
        return Ok(carry_plain(application, peer, record).await);
    }
    let session = match wants_offer {
        Some(addressee) => {
            drop(turn);
            keyed::offer(peer, addressee, (&request.bond, record)).await?
        }
        None => {
            let session = handshake::as_client(peer, request, expected, record).await?;
            drop(turn);
            session
        }
    };
    Ok(carry_session(application, session, record).await)
}

/// Connects when it is this connection's turn to shake hands, so that the peer does not wait for us once it has
/// accepted. A peer that is slow to accept gives its turn to others meanwhile.
async fn connect_in_turn(request: &Request) -> Result<(TcpStream, Turn<'_>), Reason> {
    let (workload, turns) = (&request.workload, &request.workload.opening);
    let turn = handshake::counted_turn(workload, turns).await?;
    let mut connecting = pin!(connect(request));
    if let Ok(connected) = timeout(PROMPT, &mut connecting).await {
        return Ok((connected?, turn));
    }
    drop(turn);
    let peer = timeout(DEADLINE, connecting).await.map_err(|_elapsed| Reason::DestinationUnreachable)??;
    Ok((peer, handshake::counted_turn(workload, turns).await?))
}

async fn connect(request: &Request) -> Result<TcpStream, Reason> {
    let connect = async {
        let socket = socket::open(&request.namespace, request.destination, chosen_source(request.source), Side::Peer)?;
        socket.connect(request.destination).await
    };
    connect.await.map_err(|error: io::Error| {
        tracing::debug!(%error, destination = %request.destination, "peer not reached");
        Reason::DestinationUnreachable
    })
}

/// The address that the application has bound its socket to, if it has: then the peer must see that one.
fn chosen_source(source: SocketAddr) -> Option<IpAddr> {
    (!source.ip().is_loopback()).then_some(source.ip())
}

/// What the record shows: on the wire the connection comes from here, and not from the loopback.
fn name_source(peer: &TcpStream, record: &Entry) {
    if let Ok(source) = peer.local_addr() {
        record.leaves_from(source);
    }
}

/// True when the destination is an address of the workload's own namespace. Nothing leaves the host then, and what
/// arrives over the loopback is not ours to take, so there would be nobody to shake hands with.
fn stays_in_namespace(peer: &TcpStream, destination: SocketAddr) -> bool {
    peer.local_addr().is_ok_and(|own| own.ip() == destination.ip())
}
