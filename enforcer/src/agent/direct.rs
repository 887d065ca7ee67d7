//! The parts of the direct path, put together where some workload may have direct connections.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Error;
use crate::connection::direct::{Accepts, Direct, Hosting, Lives, Offers, expire, watch};
use crate::connection::pair::Sessions;
use crate::connection::{Path, Place};
use crate::identity::store::Store;
use crate::kernel::bpf::{Events, Holds};
use crate::kernel::destroy::Destroyer;
use crate::kernel::process::Processes;
use crate::observe::metrics::Metrics;

/// What is there before anything is served.
pub(super) struct Parts<'a> {
    pub(super) path: &'a Path,
    pub(super) places: &'a [Arc<Place>],
    pub(super) store: &'a Arc<Store>,
    pub(super) metrics: &'a Arc<Metrics>,
    pub(super) holds: Holds,
    pub(super) events: Events,
}

/// Serves pair sessions, and takes on what the kernel holds, until `closing`.
pub(super) async fn start(parts: Parts<'_>, closing: &CancellationToken) -> Result<Arc<Offers>, Error> {
    let address = parts.path.snapshot.node().pair;
    let listener =
        TcpListener::bind(address).await.map_err(|cause| Error::PairListener { address, cause })?;
    let mut places = HashMap::new();
    for place in parts.places {
        let destroyer = Destroyer::open(&place.namespace).map_err(Error::Destroyer)?;
        places.insert(place.namespace.cookie(), (Arc::clone(place), destroyer));
    }
    let direct = Arc::new(Direct {
        snapshot: Arc::clone(&parts.path.snapshot),
        by_cgroup: parts.path.by_cgroup.clone(),
        places,
        holds: parts.holds,
        connections: parts.path.connections.clone(),
        processes: Processes::default(),
        accepts: Accepts::default(),
        lives: Lives::default(),
        metrics: Arc::clone(parts.metrics),
        tasks: TaskTracker::new(),
    });
    let hosting = Hosting::new(Arc::clone(&direct));
    let peers = parts.path.snapshot.paired();
    let sessions = Sessions::new(hosting, Arc::clone(parts.store), peers, parts.path.stop.clone());
    tokio::spawn(Arc::clone(&sessions).serve(listener, closing.clone()));
    let offers = Arc::new(Offers { direct: Arc::clone(&direct), sessions });
    tokio::spawn(expire(Arc::clone(&offers), closing.clone()));
    tokio::spawn(watch(Arc::clone(&offers), parts.events, closing.clone()));
    tracing::info!(%address, "direct path: serving pair sessions");
    Ok(offers)
}
