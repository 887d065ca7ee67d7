//! The mutual TLS 1.3 handshake with a peer: within a deadline, and not too many at once.
//!
//! The other identity is pinned by the verifier inside the configuration, so a finished handshake is an authenticated
//! peer; there is nothing left to check here.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use enforcer_ebpf::Reason;
use rustls::{CommonState, ServerConfig};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream, server};

use super::offload::Session;
use super::records::Records;
use crate::connection::limits::{Limit, Taken};
use crate::connection::{Expected, Request, Workload};
use crate::identity::{Serial, reason_of_io, tls};
use crate::kernel::ktls;
use crate::kernel::socket::close_in_order;
use crate::observe::events::{Entry, Offloaded, Tls, UserSpace};

/// From the first byte to the last of a handshake.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
/// How long a connection may wait for its turn.
const QUEUE_DEADLINE: Duration = Duration::from_secs(30);

/// Shakes hands as the one who opened the connection. The caller holds a turn among `workload.opening`.
pub(super) async fn as_client(
    stream: TcpStream,
    request: &Request,
    expected: &Expected,
    record: &Entry,
) -> Result<Session, Reason> {
    let workload = &*request.workload;
    let credentials = workload.credentials()?;
    let config = credentials.client_config(&expected.identity, expected.alpn).map_err(|_config| Reason::Internal)?;
    prepare(&stream, workload)?;
    let connect = TlsConnector::from(config).connect(tls::server_name(), Records::new(stream)).into_fallible();
    let stream = within_deadline(connect, record).await?;
    settle(TlsStream::Client(stream), request, (expected, credentials.serial), record)
}

/// Shakes hands as the one to whom the connection was opened. It takes a turn only once there is something to answer:
/// the other node may make its own connections wait.
pub(super) async fn as_server(
    stream: TcpStream,
    request: &Request,
    expected: &Expected,
    record: &Entry,
) -> Result<Session, Reason> {
    let workload = &*request.workload;
    // Not `readable`, which may say so of a socket that was accepted just now and has nothing to read.
    match timeout(DEADLINE, stream.peek(&mut [0])).await {
        Ok(Ok(_any)) => {}
        Ok(Err(_lost)) => return Err(Reason::PeerClosedInHandshake),
        Err(_elapsed) => return Err(Reason::HandshakeTimeout),
    }
    let turn = counted_turn(workload, &workload.answering).await?;
    let credentials = workload.credentials()?;
    let config = credentials.server_config(&expected.identity, expected.alpn).map_err(|_config| Reason::Internal)?;
    prepare(&stream, workload)?;
    let accept = TlsAcceptor::from(config).accept(Records::new(stream)).into_fallible();
    let stream = within_deadline(accept, record).await?;
    drop(turn);
    settle(TlsStream::Server(stream), request, (expected, credentials.serial), record)
}

/// Shakes hands with a client that has no identity and has sent its first message, in its turn. Its records stay in user
/// space: it may speak TLS 1.2, and does not ask to be quicker than that.
pub(super) async fn as_public_server(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    answering: &Semaphore,
    record: &Entry,
) -> Result<server::TlsStream<Records>, Reason> {
    let turn = turn(answering).await?;
    let accept = TlsAcceptor::from(config).accept(Records::new(stream)).into_fallible();
    let stream = within_deadline(accept, record).await?;
    drop(turn);
    record.agreed(facts(stream.get_ref().1));
    record.offloaded(Offloaded::UserSpace(UserSpace::PublicName));
    Ok(stream)
}

/// Does what the kernel wants to be done before a handshake, if it is to take the records after it.
fn prepare(stream: &TcpStream, workload: &Workload) -> Result<(), Reason> {
    if workload.offload != Offloaded::Kernel {
        return Ok(());
    }
    ktls::attach(stream).map_err(|error| {
        // The kernel's abilities are known, so it is the connection that is not fit any more.
        tracing::debug!(%error, "record layer not attached");
        Reason::PeerClosedInHandshake
    })
}

/// A handshake that may be in flight.
pub(super) struct Turn<'a> {
    _permit: SemaphorePermit<'a>,
    _counted: Taken,
}

/// Waits until the workload may have one more handshake in flight. Who would be one too many to wait is refused.
pub(super) async fn counted_turn<'a>(workload: &Workload, turns: &'a Semaphore) -> Result<Turn<'a>, Reason> {
    let counted = workload.limits.take(Limit::Handshakes)?;
    Ok(Turn { _permit: turn(turns).await?, _counted: counted })
}

async fn turn(turns: &Semaphore) -> Result<SemaphorePermit<'_>, Reason> {
    match timeout(QUEUE_DEADLINE, turns.acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_closed)) => Err(Reason::AgentStopped),
        Err(_elapsed) => Err(Reason::HandshakeTimeout),
    }
}

async fn within_deadline<T>(
    handshake: impl Future<Output = Result<T, (io::Error, Records)>>,
    record: &Entry,
) -> Result<T, Reason> {
    let started = Instant::now();
    match timeout(DEADLINE, handshake).await {
        Ok(Ok(stream)) => {
            record.handshake_took(started.elapsed());
            Ok(stream)
        }
        Ok(Err((error, records))) => {
            tracing::debug!(%error, "handshake failed");
            // No data has gone yet, and a reset could overtake the alert that tells the peer why.
            close_in_order(records.stream());
            Err(reason_of_io(&error))
        }
        Err(_elapsed) => Err(Reason::HandshakeTimeout),
    }
}

/// Binds the connection to both certificates, writes down who is there and by what means, and decides where the records
/// are made.
fn settle(
    stream: TlsStream<Records>,
    request: &Request,
    (expected, own): (&Expected, Serial),
    record: &Entry,
) -> Result<Session, Reason> {
    let (workload, tls) = (&request.workload, Tls { local_serial: Some(own), ..facts(stream.get_ref().1) });
    // A certificate that was verified has one.
    let peer = tls.peer_serial.ok_or(Reason::PeerCertificateInvalid)?;
    request.bond.tie(&[own, peer])?;
    record.authenticated(&expected.identity, tls);
    record.offloaded(workload.offload);
    match workload.offload {
        Offloaded::UserSpace(_) => Ok(Session::in_user_space(stream)),
        Offloaded::Kernel => Session::in_kernel(stream).map_err(|error| {
            tracing::warn!(%error, "record layer did not go into the kernel; connection refused");
            Reason::Internal
        }),
    }
}

fn facts(session: &CommonState) -> Tls {
    Tls {
        cipher: session.negotiated_cipher_suite().map(|suite| suite.suite()),
        group: session.negotiated_key_exchange_group().map(|group| group.name()),
        local_serial: None,
        peer_serial: session.peer_certificates().and_then(<[_]>::first).and_then(Serial::of),
    }
}
