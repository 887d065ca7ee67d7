//! The mutual TLS 1.3 handshake with a peer: within a deadline, and not too many at once.
//!
//! The other identity is pinned by the verifier inside the configuration, so a finished handshake is an authenticated
//! peer; there is nothing left to check here.

use std::future::Future;
use std::io;
use std::time::{Duration, Instant};

use enforcer_ebpf::Reason;
use tokio::net::TcpStream;
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::offload::Session;
use super::records::Records;
use crate::connection::{Expected, Offloading, Workload};
use crate::identity::{reason_of_io, tls};
use crate::observe::events::{Entry, Offloaded, Tls};

/// From the first byte to the last of a handshake.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long a connection may wait for its turn.
const QUEUE_DEADLINE: Duration = Duration::from_secs(30);

/// Shakes hands as the one who opened the connection.
pub(super) async fn as_client(
    stream: TcpStream,
    workload: &Workload,
    expected: &Expected,
    record: &Entry,
) -> Result<Session, Reason> {
    let turn = turn(workload).await?;
    let credentials = workload.credentials()?;
    let config = credentials.client_config(&expected.identity, expected.alpn).map_err(|_config| Reason::Internal)?;
    let connect = TlsConnector::from(config).connect(tls::server_name(), Records::new(stream));
    let stream = within_deadline(connect, record).await?;
    drop(turn);
    settle(TlsStream::Client(stream), workload, expected, record)
}

/// Shakes hands as the one to whom the connection was opened.
pub(super) async fn as_server(
    stream: TcpStream,
    workload: &Workload,
    expected: &Expected,
    record: &Entry,
) -> Result<Session, Reason> {
    let turn = turn(workload).await?;
    let credentials = workload.credentials()?;
    let config = credentials.server_config(&expected.identity, expected.alpn).map_err(|_config| Reason::Internal)?;
    let accept = TlsAcceptor::from(config).accept(Records::new(stream));
    let stream = within_deadline(accept, record).await?;
    drop(turn);
    settle(TlsStream::Server(stream), workload, expected, record)
}

/// Waits until the workload may have one more handshake in flight.
async fn turn(workload: &Workload) -> Result<SemaphorePermit<'_>, Reason> {
    match timeout(QUEUE_DEADLINE, workload.handshakes.acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_closed)) => Err(Reason::AgentStopped),
        Err(_elapsed) => Err(Reason::HandshakeTimeout),
    }
}

async fn within_deadline<T>(handshake: impl Future<Output = io::Result<T>>, record: &Entry) -> Result<T, Reason> {
    let started = Instant::now();
    match timeout(DEADLINE, handshake).await {
        Ok(Ok(stream)) => {
            record.handshake_took(started.elapsed());
            Ok(stream)
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "handshake failed");
            Err(reason_of_io(&error))
        }
        Err(_elapsed) => Err(Reason::HandshakeTimeout),
    }
}

/// Writes down who is there and by what means, and decides where the records are made.
fn settle(
    stream: TlsStream<Records>,
    workload: &Workload,
    expected: &Expected,
    record: &Entry,
) -> Result<Session, Reason> {
    record.authenticated(&expected.identity, facts(&stream));
    match workload.offloading {
        Offloading::UserSpace(why) => {
            record.offloaded(Offloaded::UserSpace(why));
            Ok(Session::in_user_space(stream))
        }
        Offloading::Kernel => {
            let session = Session::in_kernel(stream).map_err(|error| {
                tracing::warn!(%error, "record layer did not go into the kernel; connection refused");
                Reason::Internal
            })?;
            record.offloaded(Offloaded::Kernel);
            Ok(session)
        }
    }
}

fn facts(stream: &TlsStream<Records>) -> Tls {
    let (_, session) = stream.get_ref();
    Tls {
        cipher: session.negotiated_cipher_suite().map(|suite| suite.suite()),
        group: session.negotiated_key_exchange_group().map(|group| group.name()),
        peer_serial: session.peer_certificates().and_then(<[_]>::first).and_then(tls::serial),
    }
}
