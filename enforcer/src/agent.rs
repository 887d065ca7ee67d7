//! The agent's one composition root: builds the parts in order, binds everything before anything is served, then
//! serves until it is told to stop.
//!
//! The order is what makes a start safe. Certificates come first, so that no workload is enrolled that could not be
//! served; then the listeners; then the programs. Where an earlier agent's programs are in place, they refuse until
//! the listeners are known to them.

mod direct;
mod enrol;
mod revoke;
mod shutdown;
mod status;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection;
use crate::connection::bonds::Bonds;
use crate::control::file::{LoadError, load};
use crate::control::snapshot::Snapshot;
use crate::identity::client::{self, Control};
use crate::identity::source::{Local, Source};
use crate::identity::store::Store;
use crate::identity::trust::{Malformed, Trusted};
use crate::kernel::bpf::{self, Guard};
use crate::kernel::probe::{Abilities, probe};
use crate::observe::admin;
use crate::observe::events::Connections;
use crate::observe::metrics::Metrics;
use crate::observe::ready::Readiness;
use crate::{ca, identity, kernel};
use shutdown::Signals;

/// How long a start waits for what control tells.
const TOLD: Duration = Duration::from_secs(5);

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
    #[error("workload {workload}: the agent itself runs in its cgroup; start the agent in a cgroup of its own")]
    OwnCgroup {
        /// The workload.
        workload: String,
    },
    /// The CA in the state directory cannot be opened or made.
    #[error("open certificate authority")]
    Authority(#[from] ca::Error),
    /// The trust bundle cannot be read.
    #[error("read trust bundle")]
    Bundle(#[from] Malformed),
    /// Control issues nothing to this node.
    #[error("use control")]
    Control(#[from] client::Error),
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
    /// Connections could not be ended.
    #[error("open a socket-diagnosis socket in a network namespace")]
    Destroyer(#[source] io::Error),
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
    let snapshot = Arc::new(load(config)?);
    let _lock = lock(&snapshot.node().state_directory)?;
    let abilities = probe();
    report(&abilities);
    let stop = CancellationToken::new();
    let (store, trusted) = start_identities(&snapshot, &stop).await?;
    let admin = admin::bind(snapshot.node().admin).await?;
    let mut guard = Guard::open(&snapshot.node().bpf_directory)?;
    let mut enrolled = enrol::enrol(&snapshot, &abilities, &store, &mut guard)?;

    let metrics = Arc::new(Metrics::new(status::sources(&store, &guard, &enrolled.workloads)));
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
        stop: stop.clone(),
        tasks: TaskTracker::new(),
    });
    tokio::spawn(revoke::watch(Arc::clone(&path), trusted, closing.clone()));
    for (listener, socket) in enrolled.listeners {
        tokio::spawn(connection::serve(Arc::clone(&path), listener, socket, closing.clone()));
    }
    let readiness = Readiness::default();
    let known = (store, guard.maps.misses());
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
fn lock(directory: &Path) -> Result<fs::File, Error> {
    let path = directory.join("agent.lock");
    ca::prepare_directory(directory)?;
    let file = fs::File::create(&path).map_err(|cause| Error::Path { operation: "open", path: path.clone(), cause })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Error::AlreadyRunning { path }),
        Err(fs::TryLockError::Error(cause)) => Err(Error::Path { operation: "lock", path, cause }),
    }
}

async fn start_identities(snapshot: &Snapshot, stop: &CancellationToken) -> Result<(Arc<Store>, Trusted), Error> {
    let node = snapshot.node();
    let identities = snapshot.workloads().iter().map(|workload| workload.identity.clone()).collect();
    let Some(wanted) = &node.control else {
        let authority = ca::open_or_create(&node.state_directory, &node.trust_domain)?;
        let source = Arc::new(Local::new(authority)?);
        let trusted = source.trusted();
        let (store, missing) = identity::start(source, identities, node.cipher, stop.clone()).await;
        // An authority that is a part of this process will not do better later.
        return missing.into_iter().next().map_or(Ok((store, trusted)), |error| Err(error.into()));
    };
    let wanted = client::Wanted {
        address: wanted.address.clone(),
        token: wanted.token.clone(),
        grace: wanted.grace,
        directory: node.state_directory.clone(),
        trust_domain: node.trust_domain.clone(),
        node: node.name.clone(),
    };
    let control = Control::start(wanted, stop).await?;
    if !control.told(TOLD).await {
        tracing::warn!("control has not told whom to trust yet; starting all the same");
    }
    let trusted = control.trusted();
    let (store, missing) = identity::start(control, identities, node.cipher, stop.clone()).await;
    for error in missing {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::error!(%error, cause, "no certificate yet; connections of this workload are refused until there is one");
    }
    Ok((store, trusted))
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
