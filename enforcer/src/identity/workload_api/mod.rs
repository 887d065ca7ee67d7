//! The SPIFFE Workload API, for workloads that want a certificate of their own, to do TLS themselves or to sign.
//!
//! ```text
//! door      who connects, and how many of them
//! attest    which enrolled workload a process is
//! desk      a key and a certificate for each workload that asks
//! calls     what is asked and answered: `proto/workload.proto`
//! ```
//!
//! Everybody may connect; who one is decides. A process gets the identity of the enrolled workload whose control group
//! and network namespace it is in, found out anew before each message that has a key in it. No key that the agent itself
//! uses ever leaves it: what is given away is made for that.
//!
//! What is not offered: JWT-SVIDs, bundles of other trust domains, and revocation lists.

mod attest;
mod calls;
mod desk;
mod door;

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::source::Source;
use crate::kernel::caller::Caller;
use crate::observe::metrics::Metrics;
use crate::protocol::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer;

use attest::Members;
pub use attest::{Member, Roll};

/// Calls at once on one connection. A client has one or two.
const CALLS: u32 = 16;
/// Octets of a request: those that are answered are empty.
const LONGEST_REQUEST: usize = 64 * 1024;
/// Octets of a request's header fields.
const LONGEST_HEADER: u32 = 16 * 1024;
/// Until a call is answered at all; a stream then goes on.
const DEADLINE: Duration = Duration::from_secs(20);
/// A connection on which nothing arrives is asked for a sign of life after this, and given up after as much again.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// How long callers may take to hear that the agent stops.
const FAREWELL: Duration = Duration::from_secs(1);

/// The Workload API cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket cannot be made.
    #[error("listen for workloads on {path}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// Somebody else offers it.
    #[error("listen for workloads on {path}: another process answers there; stop it, or write another `workloadApi`")]
    Running {
        /// The socket.
        path: PathBuf,
    },
    /// The kernel does not tell who connects.
    #[error(
        "offer the Workload API: the kernel does not tell who connects; before Linux 6.5 it needs the module unix_diag, \
         and the agent CAP_NET_ADMIN and CAP_SYS_PTRACE"
    )]
    Callers(#[source] io::Error),
}

/// What it is made of.
pub struct Parts {
    /// Where certificates come from.
    pub source: Arc<dyn Source>,
    /// The trust domain whose bundle this is.
    pub trust_domain: String,
    /// Who is served.
    pub members: Roll,
    /// Where answers are counted.
    pub metrics: Arc<Metrics>,
}

/// The socket, on which nobody is served yet.
#[derive(Debug)]
pub struct Endpoint {
    listener: UnixListener,
}

impl Endpoint {
    /// Makes the socket, for everybody, and its directory where there is none. A socket that nobody answers on any more is
    /// replaced.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn bind(path: &Path) -> Result<Self, Error> {
        let (own, _other) = UnixStream::pair().map_err(Error::Callers)?;
        Caller::of(&own).map_err(Error::Callers)?;
        if UnixStream::connect(path).is_ok() {
            return Err(Error::Running { path: path.to_owned() });
        }
        let failed = |cause| Error::Socket { path: path.to_owned(), cause };
        if let Some(directory) = path.parent().filter(|directory| !directory.exists()) {
            DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(failed)?;
            // What was asked for is cut by the umask.
            fs::set_permissions(directory, Permissions::from_mode(0o755)).map_err(failed)?;
        }
        remove_socket(path).map_err(failed)?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(failed)?;
        Ok(Self { listener })
    }

    /// Serves until `stop`.
    pub async fn serve(self, parts: Parts, stop: CancellationToken) {
        let members = Arc::new(Members::new(parts.members));
        let entered = door::open(self.listener, Arc::clone(&members), Arc::clone(&parts.metrics), stop.clone());
        let desk = desk::Desk::new(parts.source, parts.trust_domain, stop.clone());
        let calls = calls::Calls::new(members, Arc::new(desk), Arc::clone(&parts.metrics), stop.clone());
        let service = SpiffeWorkloadApiServer::new(calls).max_decoding_message_size(LONGEST_REQUEST);
        let service = tonic::service::interceptor::InterceptedService::new(service, calls::header(parts.metrics));
        let serving = Server::builder()
            .timeout(DEADLINE)
            .max_concurrent_streams(CALLS)
            .http2_max_header_list_size(LONGEST_HEADER)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .add_service(service)
            .serve_with_incoming_shutdown(ReceiverStream::new(entered), stop.clone().cancelled_owned());
        let late = async {
            stop.cancelled().await;
            sleep(FAREWELL).await;
        };
        tokio::select! {
            served = serving => if let Err(error) = served {
                tracing::error!(%error, "serving the Workload API ended with an error");
            },
            // Who does not read is not waited for.
            () = late => {}
        }
    }
}

/// Removes what an earlier agent has left, and nothing else.
fn remove_socket(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path),
        Ok(_other) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is something that is no socket")),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(cause) => Err(cause),
    }
}

#[cfg(test)]
mod tests;
