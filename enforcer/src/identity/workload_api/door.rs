//! Where callers come in: who connected is found out before a byte is read, and has its share of connections at most.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::attest::{Members, Share};
use crate::identity::request::blocking;
use crate::kernel::caller::Caller;
use crate::observe::metrics::{Answer, Metrics};
use crate::protocol;

/// Callers that are looked at, at once. Others wait in the kernel.
const ARRIVALS: usize = 32;
/// After an accept that failed for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection of a caller.
pub(super) type Entered = protocol::Entered<UnixStream, Arc<Caller>, Share>;

/// Accepts callers until `stop`.
pub(super) fn open(
    listener: UnixListener,
    members: Arc<Members>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> mpsc::Receiver<Result<Entered, io::Error>> {
    let (sender, entered) = mpsc::channel(ARRIVALS);
    tokio::spawn(async move {
        let turns = Arc::new(Semaphore::new(ARRIVALS));
        let accepting = async {
            // A semaphore that nobody closes.
            while let Ok(turn) = Arc::clone(&turns).acquire_owned().await {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let (members, metrics, sender) = (Arc::clone(&members), Arc::clone(&metrics), sender.clone());
                        tokio::spawn(async move {
                            if let Some(entered) = enter(stream, &members, &metrics).await {
                                let _served = sender.send(Ok(entered)).await;
                            }
                            drop(turn);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection of a workload");
                        sleep(PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = accepting => {}
        }
    });
    entered
}

async fn enter(stream: UnixStream, members: &Members, metrics: &Metrics) -> Option<Entered> {
    let socket = stream.as_fd().try_clone_to_owned();
    let found = match socket {
        Ok(socket) => blocking(move || Caller::of(&socket)).await,
        Err(error) => Err(error),
    };
    let caller = match found {
        Ok(caller) => Arc::new(caller),
        Err(error) => {
            tracing::debug!(%error, "a connection to the Workload API without a caller");
            metrics.answered(Answer::NotEnrolled);
            return None;
        }
    };
    let resident = members.find(&caller).await.ok();
    let Some(share) = members.connection(resident.as_deref()) else {
        let workload = resident.as_ref().map(|resident| &*resident.member.name);
        tracing::debug!(workload, pid = caller.pid(), "too many connections to the Workload API");
        metrics.answered(Answer::TooMany);
        return None;
    };
    Some(Entered::new(stream, caller, share))
}
