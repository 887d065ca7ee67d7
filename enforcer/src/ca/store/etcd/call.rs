//! Requests with a deadline: which may be sent again, and what their errors mean.
//!
//! With several endpoints one that is down fails every so many requests, and a cluster that elects a leader fails all for
//! a while; so what was certainly not sent is tried again until the deadline, and a read whatever happened to it. A
//! write that was sent is never sent again.

use std::error::Error as Cause;
use std::future::Future;
use std::time::Duration;

use etcd_client::{Error as Refusal, KvClient};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, ConnectError, Status};

use super::{ANSWERED_WITHIN, Error};

/// Before a request is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// Whoever asks etcd.
pub(super) struct Calls {
    name: String,
    client: KvClient,
}

/// Why a request has no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// It was refused, or never sent: nothing was changed.
    Refused(Box<dyn Cause + Send + Sync>),
    /// It was sent, and nobody knows what became of it.
    Lost(Box<dyn Cause + Send + Sync>),
}

impl Calls {
    pub(super) fn new(name: String, client: KvClient) -> Self {
        Self { name, client }
    }

    /// For requests that change nothing.
    pub(super) async fn read<T, F>(&self, attempt: impl FnMut(KvClient) -> F + Send) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Refusal>> + Send,
    {
        self.call(attempt, is_undecided).await
    }

    /// For requests that change something.
    pub(super) async fn write<T, F>(&self, attempt: impl FnMut(KvClient) -> F + Send) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Refusal>> + Send,
    {
        self.call(attempt, is_unsent).await
    }

    async fn call<T, F>(
        &self,
        mut attempt: impl FnMut(KvClient) -> F + Send,
        may_repeat: fn(&Refusal) -> bool,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Refusal>> + Send,
    {
        let deadline = Instant::now() + ANSWERED_WITHIN;
        loop {
            let refusal = match timeout_at(deadline, attempt(self.client.clone())).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(refusal)) => refusal,
                Err(_elapsed) => return Err(Failure::Lost(late(ANSWERED_WITHIN))),
            };
            if !may_repeat(&refusal) || Instant::now() + PAUSE >= deadline {
                let lost = !is_unsent(&refusal) && is_undecided(&refusal);
                let kind = if lost { Failure::Lost } else { Failure::Refused };
                return Err(kind(cause(refusal)));
            }
            sleep(PAUSE).await;
        }
    }

    /// The error of a request that changes nothing.
    pub(super) fn error(&self, operation: &'static str, failure: Failure) -> Error {
        let (Failure::Refused(cause) | Failure::Lost(cause)) = failure;
        Error::Failed { operation, store: self.name.clone(), cause }
    }

    /// The error of a request that changes something.
    pub(super) fn unanswered(&self, failure: Failure) -> Error {
        match failure {
            Failure::Refused(cause) => Error::Failed { operation: "commit to", store: self.name.clone(), cause },
            Failure::Lost(cause) => Error::Unanswered { store: self.name.clone(), cause },
        }
    }
}

impl std::fmt::Debug for Calls {
    /// Without the client, which may hold a password.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Calls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Failure {
    /// Whether etcd has forgotten the revision that was asked for (`ErrCompacted`). An answer that is too long has the
    /// same code.
    pub(super) fn is_compacted(&self) -> bool {
        let (Self::Refused(cause) | Self::Lost(cause)) = self;
        cause
            .downcast_ref::<Status>()
            .is_some_and(|status| status.code() == Code::OutOfRange && status.message().contains("compacted"))
    }
}

fn code(refusal: &Refusal) -> Option<Code> {
    match refusal {
        Refusal::GRpcStatus(status) => Some(status.code()),
        _ => None,
    }
}

/// Whether the connection could not be made, so that nothing was sent.
fn is_unsent(refusal: &Refusal) -> bool {
    let Refusal::GRpcStatus(status) = refusal else { return false };
    let mut causes = std::iter::successors(status.source(), |cause| (*cause).source());
    causes.any(<dyn Cause>::is::<ConnectError>)
}

/// Whether a transaction may have been made all the same, and a read may succeed when it is tried again. With the other
/// codes etcd refuses before it does anything.
fn is_undecided(refusal: &Refusal) -> bool {
    !matches!(
        code(refusal),
        Some(
            Code::InvalidArgument
                | Code::NotFound
                | Code::PermissionDenied
                | Code::Unauthenticated
                | Code::ResourceExhausted
                | Code::FailedPrecondition
                | Code::OutOfRange
                | Code::Unimplemented
        )
    )
}

/// That there was no answer in time.
pub(super) fn late(limit: Duration) -> Box<dyn Cause + Send + Sync> {
    format!("no answer within {limit:?}").into()
}

/// The innermost error that says something: those of etcd-client do not tell their causes.
pub(super) fn cause(refusal: Refusal) -> Box<dyn Cause + Send + Sync> {
    match refusal {
        Refusal::GRpcStatus(status) => Box::new(status),
        Refusal::TransportError(error) => Box::new(error),
        other => Box::new(other),
    }
}
