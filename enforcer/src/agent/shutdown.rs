//! Stopping: what is asked, and how connections are let go.
//!
//! The programs stay in the kernel and go on refusing: between this agent and the next nothing is in the clear.
//! `enforcer uninstall` takes them out.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::connection::Path;

/// How long open connections may go on after the agent was told to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// Returns when the process is told to stop: SIGTERM or SIGINT.
pub(super) async fn requested() {
    let signals = signal(SignalKind::terminate()).and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
    match signals {
        Ok((mut terminate, mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        Err(error) => {
            // Then the signals keep their default: they end the process at once.
            tracing::error!(%error, "cannot handle signals");
            std::future::pending::<()>().await;
        }
    }
}

/// Stops accepting, gives open connections a little time, then resets the rest.
pub(super) async fn drain(path: &Path, closing: &CancellationToken) {
    closing.cancel();
    path.tasks.close();
    let open = path.tasks.len();
    tracing::info!(open, "stopping; the programs stay in place and refuse new connections");
    if timeout(DRAIN, path.tasks.wait()).await.is_err() {
        tracing::info!(open = path.tasks.len(), "resetting connections that are still open");
    }
    path.stop.cancel();
    path.tasks.wait().await;
}
