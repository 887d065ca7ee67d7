//! The agent's one composition root: builds the parts in order, binds everything before anything is served, then
//! serves until it is told to stop.
//!
//! The order is what makes a start safe. Certificates come first, so that no workload is enrolled that could not be
//! served; then the listeners; then the programs. Where an earlier agent's programs are in place, they refuse until
//! the listeners are known to them.

mod direct;
mod enrol;
mod identities;
mod own_addresses;
mod public;
mod reload;
mod revoke;
mod shutdown;
mod status;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection::bonds::Bonds;
use crate::connection::{self, Listener};
use crate::control::file::{LoadError, load};
use crate::control::snapshot::Snapshot;
use crate::identity::client;
use crate::identity::source::Source;
use crate::identity::trust::Malformed;
use crate::identity::workload_api::{self, Endpoint, Member};
use crate::kernel::bpf::{self, Guard};
use crate::kernel::probe::{Abilities, probe};
use crate::observe::admin;
use crate::observe::events::Connections;
use crate::observe::metrics::Metrics;
use crate::observe::ready::Readiness;
use crate::{ca, identity, kernel};
use identities::Identities;
use reload::Occasions;
use shutdown::Signals;

/// The agent could not start. A failed start opens nothing: where an earlier agent's programs are in place, they stay
/// and refuse.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration has mistakes.
    #[error(transparent)]
    Config(#[from] LoadError),
    /// Others could look into the memory of this process.
    #[error("forbid other processes to look into this one, which holds keys")]
    Harden(#[source] io::Error),
    /// Signals cannot be handled.
    #[error("watch signals")]
    Signals(#[source] io::Error),
    /// Another agent runs with the same state directory.
    #[error("lock {path}: another agent runs with this state directory; stop it first")]
    AlreadyRunning {
        /// The lock file.
        path: PathBuf,
    },
    /// A file, directory or namespace cannot be used.
    #[error("{operation} {path}")]
    Path {
        /// What was tried.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The agent would intercept itself.
    #[error("the agent itself runs in cgroup {cgroup}, which is guarded; start it in a cgroup of its own")]
    OwnCgroup {
        /// A workload's, or one of `guard`.
        cgroup: PathBuf,
    },
    /// The CA in the state directory cannot be opened or made.
    #[error("open certificate authority")]
    Authority(#[from] ca::Error),
    /// The trust bundle cannot be read.
    #[error("read trust bundle")]
    Bundle(#[from] Malformed),
    /// The bundle of another trust domain cannot be used.
    #[error(transparent)]
    Federation(#[from] identity::federation::Error),
    /// Control issues nothing to this node.
    #[error("use control")]
    Control(#[from] client::Error),
    /// Certificates of public names cannot be kept.
    #[error("keep certificates of public names")]
    Public(#[from] identity::acme::Error),
    /// There is no first certificate.
    #[error("issue first certificates")]
    Identity(#[from] identity::Error),
    /// The kernel does not take the programs.
    #[error("put eBPF programs in place")]
    Guard(#[from] bpf::Error),
    /// A listener in a workload's namespace cannot be made.
    #[error("listen inside the network namespace of workload {workload}")]
    Listen {
        /// The workload.
        workload: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// Other agents could not reach this one.
    #[error("listen for pair sessions on {address}")]
    PairListener {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// What stays in a namespace could not be told from what leaves it.
    #[error("list the addresses of a network namespace")]
    Addresses(#[source] io::Error),
    /// Connections could not be ended.
    #[error("open a socket-diagnosis socket in a network namespace")]
    Destroyer(#[source] io::Error),
    /// Workloads could not ask for identities of their own.
    #[error("offer the Workload API")]
    WorkloadApi(#[from] workload_api::Error),
    /// The admin address cannot be used.
    #[error("open admin socket")]
    Admin(#[from] admin::Error),
}

/// Runs an agent until SIGTERM or SIGINT.
///
/// # Errors
///
/// [`Error`], when it cannot start. Once it serves it does not fail.
pub async fn run(config: &Path) -> Result<(), Error> {
    kernel::harden::protect().map_err(Error::Harden)?;
    let signals = Signals::watch().map_err(Error::Signals)?;
    let occasions = Occasions::of(config)?;
    let snapshot = Arc::new(load(config)?);
    let _lock = lock(&snapshot.node().state_directory)?;
    let abilities = probe();
    report(&abilities);
    let stop = CancellationToken::new();
    let Identities { store, trusted, source } = identities::start(&snapshot, &stop).await?;
    let public = public::open(&snapshot)?;
    let admin = admin::bind(snapshot.node().admin).await?;
    let workload_api = snapshot.node().workload_api.as_deref().map(Endpoint::bind).transpose()?;
    let mut guard = Guard::open(&snapshot.node().bpf_directory)?;
    let mut enrolled = enrol::enrol(&snapshot, &abilities, (&store, public.names()), &mut guard)?;

    let sources = status::sources(&store, &guard, &enrolled.workloads);
    let metrics = Arc::new(Metrics::new(sources).with_public_names(public.names()));
    let connections = Connections::new(Arc::clone(&metrics));
    let (closing, bonds) = (CancellationToken::new(), Bonds::default());
    let parts = direct::Parts {
        snapshot: &snapshot,
        enrolled: &mut enrolled,
        store: &store,
        connections: &connections,
        metrics: &metrics,
        holds: guard.holds.clone(),
        taken: guard.maps.taken(),
        misses: guard.maps.misses(),
        bonds: bonds.clone(),
    };
    let offers = direct::start(parts, (&closing, &stop)).await?;
    let path = Arc::new(connection::Path {
        snapshot: Arc::clone(&snapshot),
        by_cgroup: enrolled.by_cgroup,
        flows: guard.maps.flows(),
        sources: guard.maps.sources(),
        connections: connections.clone(),
        offers,
        bonds,
        rules: watch::Sender::new(0),
        stop: stop.clone(),
        tasks: TaskTracker::new(),
    });
    tokio::spawn(revoke::watch(Arc::clone(&path), trusted.clone(), closing.clone()));
    offer(workload_api, source, (enrolled.members, &metrics), (&snapshot, &stop));
    accept(enrolled.listeners, &path, &closing);
    public.keep(&stop);
    let readiness = Readiness::default();
    let terms = (guard.maps.taken(), guard.maps.outside());
    let in_force = reload::start((config, occasions), (&enrolled.workloads, terms), (&path, &closing));
    let counts = (guard.maps.misses(), guard.maps.outside());
    let known = (store, trusted, counts, in_force);
    let status = status::status(Arc::clone(&snapshot), enrolled.workloads, known, abilities);
    let state = admin::State { connections, metrics, readiness: readiness.clone(), status };
    let served = tokio::spawn(admin.serve(state, stop));
    tracing::info!(workloads = snapshot.workloads().len(), peers = snapshot.peers().len(), "ready");

    signals.requested().await;
    let _stopping = readiness.wait_for("the end");
    shutdown::drain(&path, &closing).await;
    let _ended = served.await;
    Ok(())
}

/// Holds the state directory as long as the result lives.
///
/// # Errors
///
/// [`Error::AlreadyRunning`], and [`Error::Path`] where it cannot be made or locked.
pub fn lock(directory: &Path) -> Result<fs::File, Error> {
    let path = directory.join("agent.lock");
    ca::prepare_directory(directory)?;
    let file = fs::File::create(&path).map_err(|cause| Error::Path { operation: "open", path: path.clone(), cause })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Error::AlreadyRunning { path }),
        Err(fs::TryLockError::Error(cause)) => Err(Error::Path { operation: "lock", path, cause }),
    }
}

/// Takes connections until `closing`.
fn accept(listeners: Vec<(Arc<Listener>, TcpListener)>, path: &Arc<connection::Path>, closing: &CancellationToken) {
    for (listener, socket) in listeners {
        tokio::spawn(connection::serve(Arc::clone(path), listener, socket, closing.clone()));
    }
}

/// Offers the Workload API, if it is wanted, until `stop`.
fn offer(
    endpoint: Option<Endpoint>,
    source: Option<Arc<dyn Source>>,
    (members, metrics): (HashMap<u64, Member>, &Arc<Metrics>),
    (snapshot, stop): (&Snapshot, &CancellationToken),
) {
    if let (Some(endpoint), Some(source)) = (endpoint, source) {
        let trust_domain = snapshot.node().trust_domain.clone();
        let parts = workload_api::Parts { source, trust_domain, members, metrics: Arc::clone(metrics) };
        tokio::spawn(endpoint.serve(parts, stop.clone()));
    }
}

fn report(abilities: &Abilities) {
    match kernel::limits::raise_descriptors() {
        Ok(limit) => tracing::info!(limit, "descriptors"),
        Err(error) => tracing::warn!(%error, "cannot raise the number of descriptors"),
    }
    match abilities.ktls() {
        Ok(()) => tracing::info!("kernel TLS: usable"),
        Err(why) => tracing::info!(why, "kernel TLS: not usable, records stay in user space"),
    }
}
