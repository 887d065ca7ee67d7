//! A connection that the workload opened: reach the peer, shake hands, carry.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use enforcer_ebpf::Reason;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{carry_plain, carry_session, handshake};
use crate::connection::{Choice, Request};
use crate::kernel::socket::{self, Side};
use crate::observe::events::{Entry, Path};

/// How long a peer may take to accept. The application's own `connect` has returned already.
const DEADLINE: Duration = Duration::from_secs(30);

/// Carries one connection from its start to its end, and says how it ended.
pub(in crate::connection) async fn carry(
    application: TcpStream,
    request: &Request,
    choice: &Choice,
    record: &Entry,
) -> Reason {
    let peer = match timeout(DEADLINE, connect(request)).await {
        Ok(Ok(peer)) => peer,
        Ok(Err(error)) => {
            tracing::debug!(%error, destination = %request.destination, "peer not reached");
            return Reason::DestinationUnreachable;
        }
        Err(_elapsed) => return Reason::DestinationUnreachable,
    };
    if stays_in_namespace(&peer, request.destination) {
        record.decided(Path::Plain, Reason::SameNamespace);
        return carry_plain(application, peer, record).await;
    }
    match choice {
        Choice::Plain(_) => carry_plain(application, peer, record).await,
        Choice::Relay(expected) => match handshake::as_client(peer, &request.workload, expected, record).await {
            Ok(session) => carry_session(application, session, record).await,
            Err(reason) => reason,
        },
        Choice::Refuse(reason) => *reason,
    }
}

async fn connect(request: &Request) -> io::Result<TcpStream> {
    let socket = socket::open(&request.namespace, request.destination, chosen_source(request.source), Side::Peer)?;
    socket.connect(request.destination).await
}

/// The address that the application has bound its socket to, if it has: then the peer must see that one.
fn chosen_source(source: SocketAddr) -> Option<IpAddr> {
    (!source.ip().is_loopback()).then_some(source.ip())
}

/// True when the destination is an address of the workload's own namespace. Nothing leaves the host then, and what
/// arrives over the loopback is not ours to take, so there would be nobody to shake hands with.
fn stays_in_namespace(peer: &TcpStream, destination: SocketAddr) -> bool {
    peer.local_addr().is_ok_and(|own| own.ip() == destination.ip())
}
