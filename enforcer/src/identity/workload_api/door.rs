//! Where callers come in: who connected is found out before a byte is read, and has its share of connections at most.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::attest::{Members, Share};
use crate::identity::request::blocking;
use crate::kernel::caller::Caller;
use crate::observe::metrics::{Answer, Metrics};

/// Callers that are looked at, at once. Others wait in the kernel.
const ARRIVALS: usize = 32;
/// After an accept that failed for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection whose caller is known.
pub(super) struct Entered {
    stream: UnixStream,
    caller: Arc<Caller>,
    _share: Share,
}

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
    Some(Entered { stream, caller, _share: share })
}

impl Connected for Entered {
    type ConnectInfo = Arc<Caller>;

    fn connect_info(&self) -> Arc<Caller> {
        Arc::clone(&self.caller)
    }
}

impl AsyncRead for Entered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Entered {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
