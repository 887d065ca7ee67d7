//! Accepting: one task for each listener, one for each connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::yield_now;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bonds::Bonds;
use super::direct::Offers;
use super::picture::Current;
use super::run;
use crate::kernel::bpf::{Flows, Sources};
use crate::kernel::netns::Namespace;
use crate::observe::events::{Connections, Direction};

/// What all connections share.
pub struct Path {
    /// What is in force.
    pub current: Current,
    /// What `connect` was asked for.
    pub flows: Flows,
    /// The true clients of inbound connections.
    pub sources: Sources,
    /// The records.
    pub connections: Connections,
    /// Pair sessions.
    pub offers: Arc<Offers>,
    /// Of connections to the certificates under which they are carried.
    pub bonds: Bonds,
    /// Ends every connection.
    pub stop: CancellationToken,
    /// Every connection's task.
    pub tasks: TaskTracker,
}

/// One of the agent's listeners.
pub struct Listener {
    /// Who opens the connections that arrive here.
    pub direction: Direction,
    /// The listener's own address.
    pub address: SocketAddr,
    /// The namespace that it is in.
    pub namespace: Arc<Namespace>,
}

/// Accepts until the agent stops accepting.
pub async fn serve(path: Arc<Path>, listener: Arc<Listener>, socket: TcpListener, closing: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = closing.cancelled() => return,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, _source)) => {
                path.tasks.spawn(run(Arc::clone(&path), Arc::clone(&listener), stream));
                // Whoever else is ready comes before the next one: a crowd that is here waits in the kernel, and not in
                // front of what arrives at other listeners.
                yield_now().await;
            }
            Err(error) => recover(&error).await,
        }
    }
}

/// accept(2) hands on errors of connections that ended before they were taken; those cost nothing. Without
/// descriptors or memory there is no event to wait for, only that somebody gives some back.
pub(super) async fn recover(error: &io::Error) {
    if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)) {
        tracing::error!(%error, "cannot accept connections");
        sleep(Duration::from_millis(100)).await;
    } else {
        tracing::debug!(%error, "connection lost before it was accepted");
    }
}
