//! Stopping: what is asked, and how connections are let go.
//!
//! The programs stay in the kernel and go on refusing or holding: between this agent and the next nothing is in the
//! clear.
//! `enforcer uninstall` takes them out.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::connection::Path;

/// How long open connections may go on after the agent was told to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// The signals that stop an agent. From the moment they are watched, none ends the process by itself.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Starts watching.
    pub(super) fn watch() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Returns when the process is told to stop.
    pub(super) async fn requested(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Stops accepting, gives open connections a little time, then resets the rest. Direct connections are left alone: what
/// is open goes on, and what is held waits for the next agent.
pub(super) async fn drain(path: &Path, closing: &CancellationToken) {
    let offers = &path.offers;
    closing.cancel();
    path.tasks.close();
    let open = path.tasks.len();
    tracing::info!(open, "stopping; the programs stay in place and refuse new connections");
    let settling = async {
        offers.direct.tasks.close();
        offers.direct.tasks.wait().await;
        path.tasks.wait().await;
    };
    if timeout(DRAIN, settling).await.is_err() {
        tracing::info!(open = path.tasks.len(), "resetting connections that are still open");
    }
    path.stop.cancel();
    path.tasks.wait().await;
    offers.sessions.ended().await;
    offers.direct.lives.hand_over();
}
