//! How verbs speak to control: over the socket in its state directory.

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};
use tower::service_fn;

use super::ExitCode;
use crate::ca::server::{PATIENCE, SOCKET};
use crate::protocol::operator_client::OperatorClient;

/// Where control is.
#[derive(Debug, ClapArgs)]
pub(super) struct Place {
    /// Control's state directory, on this host; whoever may enter it is an operator.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/enforcer-control")]
    pub(super) state_dir: PathBuf,
}

/// A verb ended without its result.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// Nobody answers.
    #[error("no control answers at {path}: start it with `enforcer control --config FILE`, or give its --state-dir")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        cause: tonic::transport::Error,
    },
    /// It was not done.
    #[error("{0}")]
    Refused(String),
    /// Nobody has said whether it was done.
    #[error(
        "control has not answered for {} s, and may have done it or be about to: look before it is asked again \
         (`enforcer ca show`, `enforcer ca list`)",
        PATIENCE.as_secs()
    )]
    Silent,
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        match status.code() {
            // Who gives up waiting here calls it cancelled.
            Code::Cancelled | Code::DeadlineExceeded => Self::Silent,
            _ => Self::Refused(status.message().to_owned()),
        }
    }
}

pub(super) type Client = OperatorClient<Channel>;

/// Calls control, and says how the process ends when that was of no use.
///
/// # Errors
///
/// What the call's outcome makes of it.
pub(super) fn with_control<T>(
    place: &Place,
    call: impl AsyncFnOnce(Client) -> Result<T, Status>,
    show: impl FnOnce(T) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = runtime.block_on(async {
        let client = connect(&place.state_dir).await?;
        call(client).await.map_err(Failed::from)
    });
    match asked {
        Ok(answer) => show(answer).map(|()| ExitCode::Ok),
        Err(unreachable @ Failed::Unreachable { .. }) => {
            super::complain(&format_args!("{:#}", anyhow::Error::from(unreachable)));
            Ok(ExitCode::Unreachable)
        }
        Err(refused) => Err(refused.into()),
    }
}

async fn connect(state_directory: &Path) -> Result<Client, Failed> {
    let path = state_directory.join(SOCKET);
    let socket = path.clone();
    // The address is for HTTP's sake; the connection is always the socket's.
    let endpoint = Endpoint::from_static("http://control").timeout(PATIENCE).connect_timeout(PATIENCE);
    let connector = service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    let channel = endpoint.connect_with_connector(connector).await;
    let channel = channel.map_err(|cause| Failed::Unreachable { path, cause })?;
    Ok(OperatorClient::new(channel).max_decoding_message_size(usize::MAX))
}

/// A time for people, from seconds since 1970.
pub(super) fn at(seconds: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_else(|| seconds.to_string())
}
