//! `enforcer control`: the authority of a trust domain as a server.
//!
//! ```text
//! own        control's own certificate
//! teller     what everybody is told, fresh
//! door       agents come in over mutual TLS
//! nodes      what they ask; `limits` is how often
//! operator   what operators ask, over a Unix socket; `lasting` is what goes on when they have gone
//! ```
//!
//! What is asked and answered is in `proto/control.proto`; what may be is the [`Domain`]'s to say. Nothing here is
//! remembered: several servers on one store are one control.

mod door;
mod lasting;
mod limits;
mod nodes;
mod operator;
mod own;
mod teller;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Server;

use super::directory;
use super::domain::{self, Domain, Trust};
use super::keys::pkcs11::{self, Pkcs11};
use super::keys::sealed::Sealed;
use super::keys::{self, Keys, Passphrase, PassphraseError};
use super::store::embedded::Embedded;
use super::store::etcd::{self, Etcd};
use super::store::{self, Store};
use crate::control::file::LoadError;
use crate::control::issuing::{self, Issuing, KeyPlace, Secret, StorePlace};
use crate::identity::trust::{self, Trusted};
use crate::kernel::harden;
use crate::protocol::LONGEST_MESSAGE;
use crate::protocol::nodes_server::NodesServer;
use crate::protocol::operator_server::OperatorServer;
use limits::Turns;

/// The socket for operators, in the state directory.
pub const SOCKET: &str = "control.sock";
/// The audit log, in the state directory.
const AUDIT: &str = "audit.log";
/// The embedded store, in the state directory.
const STORE: &str = "control.redb";
/// For one call of an agent.
const DEADLINE: Duration = Duration::from_secs(20);
/// For one call of an operator. A token may take seconds for a signature, and sealing a key takes long on purpose.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Calls at once on one connection.
const CALLS: usize = 32;
/// A connection on which nothing arrives is asked for a sign of life after this, and given up after as much again.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Between two times that the journal is tidied.
const TIDY: Duration = Duration::from_secs(60);

/// Control could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration has mistakes.
    #[error(transparent)]
    Config(#[from] LoadError),
    /// The state directory cannot be used.
    #[error(transparent)]
    Directory(#[from] super::Error),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The keys cannot be opened.
    #[error(transparent)]
    Keys(#[from] keys::Error),
    /// The passphrase or the PIN cannot be had.
    #[error(transparent)]
    Passphrase(#[from] PassphraseError),
    /// The authority cannot be opened or made.
    #[error(transparent)]
    Domain(#[from] domain::Error),
    /// A key for control's own certificate cannot be made.
    #[error("make a key for control's own certificate")]
    Key(#[source] rcgen::Error),
    /// TLS cannot be set up.
    #[error("set up TLS for agents")]
    Tls(#[source] rustls::Error),
    /// What everybody is told cannot be read.
    #[error("read the trust bundle")]
    Trust(#[from] trust::Malformed),
    /// Agents could not come in.
    #[error("listen for agents on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// Operators could not come in.
    #[error("listen for operators on {path}")]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// Another control runs with the same state directory.
    #[error("listen for operators on {path}: another control answers there; stop it first")]
    Running {
        /// The socket.
        path: PathBuf,
    },
    /// Others could look into this process, which has keys.
    #[error("forbid others to look into this process")]
    Harden(#[source] io::Error),
    /// Signals cannot be handled.
    #[error("watch signals")]
    Signals(#[source] io::Error),
}

/// Runs control until `requested` returns.
///
/// # Errors
///
/// [`Error`], when it cannot start. Once it serves it does not fail.
pub async fn run(config: &Path, requested: impl Future<Output = ()>) -> Result<(), Error> {
    let wanted = issuing::load(config)?;
    harden::protect().map_err(Error::Harden)?;
    directory::prepare(&wanted.state_directory)?;
    let socket = operators(&wanted.state_directory.join(SOCKET))?;
    let domain = open(&wanted).await?;
    let listener = TcpListener::bind(wanted.listen).await;
    let listener = listener.map_err(|cause| Error::Listen { address: wanted.listen, cause })?;
    let stop = CancellationToken::new();
    let told = teller::start(Arc::clone(&domain)).await?;
    let own = own::start(Arc::clone(&domain), told.clone()).await?;
    let config = door::config(own, trusted(told.clone())?, domain.trust_domain())?;
    let entered = ReceiverStream::new(door::open(listener, config, stop.clone()));
    let nodes =
        nodes::Nodes { domain: Arc::clone(&domain), told, turns: Arc::new(Turns::default()), stop: stop.clone() };
    let nodes = NodesServer::new(nodes).max_decoding_message_size(64 * 1024).max_encoding_message_size(LONGEST_MESSAGE);
    let operator = OperatorServer::new(operator::Operator::new(Arc::clone(&domain)));
    let agents =
        server(DEADLINE).add_service(nodes).serve_with_incoming_shutdown(entered, stop.clone().cancelled_owned());
    let operators = server(PATIENCE)
        .add_service(operator.max_encoding_message_size(usize::MAX))
        .serve_with_incoming_shutdown(UnixListenerStream::new(socket), stop.clone().cancelled_owned());
    let tidying = tokio::spawn(tidy(Arc::clone(&domain), stop.clone()));
    tracing::info!(address = %wanted.listen, trust_domain = domain.trust_domain(), "ready");
    let asked = async {
        requested.await;
        stop.cancel();
    };
    let (agents, operators, ()) = tokio::join!(agents, operators, asked);
    for (error, whom) in [(agents.err(), "agents"), (operators.err(), "operators")] {
        if let Some(error) = error {
            tracing::error!(%error, whom, "serving ended with an error");
        }
    }
    let _ended = tidying.await;
    Ok(())
}

fn server(deadline: Duration) -> Server {
    Server::builder()
        .timeout(deadline)
        .concurrency_limit_per_connection(CALLS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
}

/// A socket that an earlier control has left is no reason not to start; one that answers is.
fn operators(path: &Path) -> Result<UnixListener, Error> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(Error::Running { path: path.to_owned() });
    }
    let failed = |cause| Error::Socket { path: path.to_owned(), cause };
    match std::fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(failed(cause)),
        _ => {}
    }
    // The directory is its owner's alone, so nobody else comes in before the mode is set either.
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

async fn open(wanted: &Issuing) -> Result<Arc<Domain>, Error> {
    let store = open_store(wanted).await?;
    let keys = open_keys(wanted, &store).await?;
    let parts = domain::Parts {
        trust_domain: wanted.trust_domain.clone(),
        store,
        keys,
        audit: domain::Audit::new(&wanted.state_directory.join(AUDIT)),
        terms: domain::Terms {
            workload: wanted.workload_lifetime,
            node: wanted.node_lifetime,
            list: wanted.list_lifetime,
            algorithm: wanted.algorithm,
        },
        placements: wanted.placements.clone(),
    };
    Ok(Domain::open(parts).await?)
}

async fn open_store(wanted: &Issuing) -> Result<Arc<dyn Store>, Error> {
    Ok(match &wanted.store {
        StorePlace::Embedded => Arc::new(Embedded::open(&wanted.state_directory.join(STORE))?),
        StorePlace::Etcd { endpoints, prefix, tls } => {
            let tls = tls.clone().map(|[ca, certificate, key]| etcd::Tls { ca, certificate, key });
            let config = etcd::Config { endpoints: endpoints.clone(), prefix: prefix.clone(), tls, user: None };
            Arc::new(Etcd::connect(config).await?)
        }
    })
}

async fn open_keys(wanted: &Issuing, store: &Arc<dyn Store>) -> Result<Arc<dyn Keys>, Error> {
    Ok(match &wanted.keys {
        KeyPlace::Sealed(passphrase) => Arc::new(Sealed::new(Arc::clone(store), secret(passphrase)?)),
        KeyPlace::Pkcs11 { module, token, pin } => {
            let config = pkcs11::Config { module: module.clone(), token: token.clone(), pin: secret(pin)? };
            Arc::new(Pkcs11::open(config).await?)
        }
    })
}

fn secret(place: &Secret) -> Result<Passphrase, PassphraseError> {
    match place {
        Secret::File(path) => Passphrase::from_file(path),
        Secret::Environment(name) => Passphrase::from_variable(name),
        Secret::Credential(name) => Passphrase::from_credential(name),
    }
}

/// What control itself trusts: nodes of its own trust domain. What is revoked is asked with each call.
fn trusted(mut told: watch::Receiver<Arc<Trust>>) -> Result<Trusted, Error> {
    let read = |trust: &Trust| trust::Trust::of_roots(trust.roots.clone()).map(Arc::new);
    let first = read(&told.borrow_and_update())?;
    let (sender, receiver) = watch::channel(first);
    tokio::spawn(async move {
        while told.changed().await.is_ok() {
            let next = read(&told.borrow_and_update());
            match next {
                Ok(next) => drop(sender.send_replace(next)),
                Err(error) => tracing::error!(%error, "the trust bundle cannot be read; the one before stays"),
            }
            if sender.is_closed() {
                return;
            }
        }
    });
    Ok(Trusted::new(receiver))
}

async fn tidy(domain: Arc<Domain>, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = sleep(TIDY) => {}
        }
        if let Err(error) = domain.tidy().await {
            tracing::error!(%error, "journal not tidied; trying again");
        }
    }
}

/// An error as a caller is told it: all of it, because it says what to do.
fn status(error: &domain::Error) -> Status {
    use domain::Error as Why;
    let text = domain::explained(error);
    match error {
        Why::NotPlaced { .. } | Why::UnknownNode { .. } | Why::Banned { .. } | Why::Revoked { .. } => {
            Status::permission_denied(text)
        }
        Why::Token => Status::unauthenticated(text),
        Why::NothingToRevoke { .. } => Status::not_found(text),
        Why::OutOfStep(_) | Why::TooEarly { .. } | Why::Upstream { .. } => Status::failed_precondition(text),
        Why::Authority(super::Error::Request(_) | super::Error::LongRequest) => Status::invalid_argument(text),
        Why::Busy | Why::Store(_) => Status::unavailable(text),
        _ => Status::internal(text),
    }
}
