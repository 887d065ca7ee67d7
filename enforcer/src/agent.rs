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

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::connection;
use crate::connection::bonds::Bonds;
use crate::control::file::{LoadError, load};
use crate::control::snapshot::Snapshot;
use crate::identity::client;
use crate::identity::source::Source;
use crate::identity::trust::Malformed;
use crate::identity::workload_api::{self, Endpoint, Roll};
use crate::kernel::bpf::{self, Guard};
use crate::kernel::probe::{Abilities, probe};
use crate::observe::admin;
use crate::observe::events::Connections;
use crate::observe::metrics::Metrics;
use crate::observe::ready::Readiness;
use crate::{ca, identity, kernel};
use direct::Pairing;
use enrol::Opened;
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
    let (signals, occasions) = (Signals::watch().map_err(Error::Signals)?, Occasions::of(config)?);
    let snapshot = Arc::new(load(config)?);
    let _lock = lock(&snapshot.node().state_directory)?;
    let (closing, stop) = (CancellationToken::new(), CancellationToken::new());
    let (mut identities, abilities, guard) = begin(&snapshot, &stop).await?;
    let (public, admin) = (public::open(&snapshot)?, admin::bind(snapshot.node().admin).await?);
    let workload_api = snapshot.node().workload_api.as_deref().map(Endpoint::bind).transpose()?;
    let certificates = (Arc::clone(&identities.store), public.names().cloned());
    let (enrolment, current, opened) = enrol::start(&snapshot, (guard, &abilities), certificates, &closing)?;

    let sources = status::sources(&identities.store, enrolment.guard(), &current);
    let metrics = Arc::new(Metrics::new(sources).with_public_names(public.names()));
    let (connections, bonds) = (Connections::new(Arc::clone(&metrics)), Bonds::default());
    let parts = direct::Parts {
        current: &current,
        enrolment: &enrolment,
        store: &identities.store,
        connections: &connections,
        metrics: &metrics,
        bonds: &bonds,
    };
    let offers = direct::offers(parts, &stop);
    let mut pairing = Pairing::new(&offers, snapshot.node().pair, &closing);
    let listener = pairing.prepare(&snapshot).await?;
    let path = Arc::new(connection::Path {
        current: current.clone(),
        flows: enrolment.guard().maps.flows(),
        sources: enrolment.guard().maps.sources(),
        connections: connections.clone(),
        offers,
        bonds,
        stop: stop.clone(),
        tasks: TaskTracker::new(),
    });
    pairing.follow(&current.picture(), listener);
    serve(opened, &path, &closing);
    tokio::spawn(revoke::watch(Arc::clone(&path), identities.trusted.clone(), closing.clone()));
    let roll = Roll::new(enrol::recognised(&current.picture()));
    offer(workload_api, identities.source.take(), (&roll, &metrics), (&snapshot, &stop));
    public.keep(&stop);
    let readiness = Readiness::default();
    let counts = (enrolment.guard().maps.misses(), enrolment.guard().maps.outside());
    let seen = status::seen(&current, &connections, &counts.1);
    let known = (Arc::clone(&identities.store), identities.trusted.clone(), counts);
    let parts = reload::Parts { path: Arc::clone(&path), enrolment, pairing, identities, roll };
    let in_force = reload::start((config, occasions), parts, &closing);
    let status = status::status((current, abilities), known, in_force);
    let state = admin::State { connections, metrics, readiness: readiness.clone(), seen, status };
    let served = tokio::spawn(admin.serve(state, stop));
    tracing::info!(workloads = snapshot.workloads().len(), peers = snapshot.peers().len(), "ready");

    signals.requested().await;
    let _stopping = readiness.wait_for("the end");
    shutdown::drain(&path, &closing).await;
    let _ended = served.await;
    Ok(())
}

/// Certificates and programs, at once: other threads make keys while this one has the kernel take programs. It is this one
/// because memory that another thread has needed for that was not given back (59 MB resident with nothing open, not 23).
async fn begin(snapshot: &Arc<Snapshot>, stop: &CancellationToken) -> Result<(Identities, Abilities, Guard), Error> {
    let (wanted, stop) = (Arc::clone(snapshot), stop.clone());
    let identities = AbortOnDropHandle::new(tokio::spawn(async move { identities::start(&wanted, &stop).await }));
    let abilities = probe();
    report(&abilities);
    let guard = Guard::open(&snapshot.node().bpf_directory)?;
    let identities = identities.await.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()));
    Ok((identities?, abilities, guard))
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

/// Takes connections until they are wanted no more, and what the kernel holds until `closing`.
fn serve(opened: Opened, path: &Arc<connection::Path>, closing: &CancellationToken) {
    for listening in opened.listeners {
        let (listener, socket, closing) = listening.into_parts();
        tokio::spawn(connection::serve(Arc::clone(path), listener, socket, closing));
    }
    if let Some(events) = opened.events {
        direct::follow(&path.offers, events, closing);
    }
}

/// Offers the Workload API, if it is wanted, until `stop`.
fn offer(
    endpoint: Option<Endpoint>,
    source: Option<Arc<dyn Source>>,
    (members, metrics): (&Roll, &Arc<Metrics>),
    (snapshot, stop): (&Snapshot, &CancellationToken),
) {
    if let (Some(endpoint), Some(source)) = (endpoint, source) {
        let trust_domain = snapshot.node().trust_domain.clone();
        let (members, metrics) = (members.clone(), Arc::clone(metrics));
        let parts = workload_api::Parts { source, trust_domain, members, metrics };
        tokio::spawn(endpoint.serve(parts, stop.clone()));
    }
}

fn report(abilities: &Abilities) {
    match abilities.ktls() {
        Ok(()) => tracing::info!("kernel TLS: usable"),
        Err(why) => tracing::info!(why, "kernel TLS: not usable, records stay in user space"),
    }
}
