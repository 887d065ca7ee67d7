//! Pair sessions and the direct path, put together where some peer has an agent.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Error;
use super::enrol::Enrolled;
use crate::connection::bonds::Bonds;
use crate::connection::direct::{Accepts, Direct, Hosting, Known, Lives, Offers, expire, watch};
use crate::connection::pair::Sessions;
use crate::control::snapshot::Snapshot;
use crate::identity::store::Store;
use crate::kernel::bpf::{Holds, Misses, Taken};
use crate::kernel::destroy::Destroyer;
use crate::kernel::process::Processes;
use crate::observe::events::Connections;
use crate::observe::metrics::Metrics;

/// What is there before anything is served.
pub(super) struct Parts<'a> {
    pub(super) snapshot: &'a Arc<Snapshot>,
    pub(super) enrolled: &'a mut Enrolled,
    pub(super) store: &'a Arc<Store>,
    pub(super) connections: &'a Connections,
    pub(super) metrics: &'a Arc<Metrics>,
    pub(super) holds: Holds,
    pub(super) taken: Taken,
    pub(super) misses: Misses,
    pub(super) bonds: Bonds,
}

/// Serves pair sessions, and takes on what the kernel holds, until `closing`. `None`: no peer has an agent.
pub(super) async fn start(
    parts: Parts<'_>,
    (closing, stop): (&CancellationToken, &CancellationToken),
) -> Result<Option<Arc<Offers>>, Error> {
    let peers = parts.snapshot.paired();
    if peers.is_empty() {
        return Ok(None);
    }
    let address = parts.snapshot.node().pair;
    let listener = TcpListener::bind(address).await.map_err(|cause| Error::PairListener { address, cause })?;
    let mut places = HashMap::new();
    for place in &parts.enrolled.places {
        let destroyer = Destroyer::open(&place.namespace).map_err(Error::Destroyer)?;
        places.insert(place.namespace.cookie(), (Arc::clone(place), destroyer));
    }
    let direct = Arc::new(Direct {
        snapshot: Arc::clone(parts.snapshot),
        by_cgroup: parts.enrolled.by_cgroup.clone(),
        places,
        holds: parts.holds,
        taken: parts.taken,
        misses: parts.misses,
        connections: parts.connections.clone(),
        processes: Processes::default(),
        accepts: Accepts::default(),
        lives: Lives::default(),
        bonds: parts.bonds.clone(),
        metrics: Arc::clone(parts.metrics),
        tasks: TaskTracker::new(),
    });
    let hosting = Hosting::new(Arc::clone(&direct));
    let sessions = Sessions::new(hosting, Arc::clone(parts.store), peers, (parts.bonds, stop.clone()));
    tokio::spawn(Arc::clone(&sessions).serve(listener, closing.clone()));
    let offers = Arc::new(Offers { direct: Arc::clone(&direct), sessions, known: Known::default() });
    if let Some(events) = parts.enrolled.events.take() {
        tokio::spawn(expire(Arc::clone(&offers), closing.clone()));
        tokio::spawn(watch(Arc::clone(&offers), events, closing.clone()));
    }
    tracing::info!(%address, "serving pair sessions");
    Ok(Some(offers))
}
