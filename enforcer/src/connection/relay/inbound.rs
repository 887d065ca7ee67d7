//! A connection that somebody opened to the workload: shake hands, reach the application, carry.

use std::net::SocketAddr;
use std::time::Duration;

use enforcer_ebpf::Reason;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{carry_plain, carry_session, handshake};
use crate::connection::{Choice, Request};
use crate::kernel::bpf::{Shown, Sources};
use crate::kernel::socket::{self, Side};
use crate::observe::events::Entry;

/// How long the application may take to accept: it is on the same host, so only a full backlog takes time.
const DEADLINE: Duration = Duration::from_secs(10);

/// Carries one connection from its start to its end, and says how it ended.
pub(in crate::connection) async fn carry(
    peer: TcpStream,
    request: &Request,
    (choice, sources): (&Choice, &Sources),
    record: &Entry,
) -> Reason {
    match choice {
        Choice::Plain(_) => match reach(request, sources).await {
            Ok((application, _shown)) => carry_plain(application, peer, record).await,
            Err(reason) => reason,
        },
        Choice::Relay(expected, _) => {
            let session = match handshake::as_server(peer, &request.workload, expected, record).await {
                Ok(session) => session,
                Err(reason) => return reason,
            };
            match reach(request, sources).await {
                Ok((application, _shown)) => carry_session(application, session, record).await,
                Err(reason) => reason,
            }
        }
        Choice::Refuse(reason) => *reason,
    }
}

/// Connects to the application where the client wanted to go, so that it sees the client as the other end.
async fn reach(request: &Request, sources: &Sources) -> Result<(TcpStream, Shown), Reason> {
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
