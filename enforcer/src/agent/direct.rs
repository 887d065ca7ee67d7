//! Pair sessions and the direct path, put together.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Error;
use super::enrol::Enrolment;
use crate::connection::bonds::Bonds;
use crate::connection::direct::{Accepts, Direct, Hosting, Known, Lives, Offers, expire, watch};
use crate::connection::pair::Sessions;
use crate::connection::{Current, Picture};
use crate::control::snapshot::Snapshot;
use crate::identity::store::Store;
use crate::kernel::bpf::Events;
use crate::kernel::process::Processes;
use crate::observe::events::Connections;
use crate::observe::metrics::Metrics;

/// What is there before anything is served.
pub(super) struct Parts<'a> {
    pub(super) current: &'a Current,
    pub(super) enrolment: &'a Enrolment,
    pub(super) store: &'a Arc<Store>,
    pub(super) connections: &'a Connections,
    pub(super) metrics: &'a Arc<Metrics>,
    pub(super) bonds: &'a Bonds,
}

/// Puts together what offers connections and answers offers, until `stop`.
pub(super) fn offers(parts: Parts<'_>, stop: &CancellationToken) -> Arc<Offers> {
    let guard = parts.enrolment.guard();
    let direct = Arc::new(Direct {
        current: parts.current.clone(),
        homes: parts.enrolment.homes().clone(),
        holds: guard.holds.clone(),
        taken: guard.maps.taken(),
        misses: guard.maps.misses(),
        connections: parts.connections.clone(),
        processes: Processes::default(),
        accepts: Accepts::default(),
        lives: Lives::default(),
        bonds: parts.bonds.clone(),
        metrics: Arc::clone(parts.metrics),
        tasks: TaskTracker::new(),
    });
    let hosting = Hosting::new(Arc::clone(&direct));
    let sessions =
        Sessions::new(hosting, Arc::clone(parts.store), parts.enrolment.turns(), (parts.bonds.clone(), stop.clone()));
    Arc::new(Offers { direct, sessions, known: Known::default() })
}

/// Takes on what the kernel holds, until `closing`.
pub(super) fn follow(offers: &Arc<Offers>, events: Events, closing: &CancellationToken) {
    tokio::spawn(expire(Arc::clone(offers), closing.clone()));
    tokio::spawn(watch(Arc::clone(offers), events, closing.clone()));
}

/// Where other agents come to, as long as there are some.
pub(super) struct Pairing {
    offers: Arc<Offers>,
    address: SocketAddr,
    closing: CancellationToken,
    /// Ends the listener that there is.
    listening: Option<CancellationToken>,
}

impl Pairing {
    /// Nobody may come yet.
    pub(super) fn new(offers: &Arc<Offers>, address: SocketAddr, closing: &CancellationToken) -> Self {
        Self { offers: Arc::clone(offers), address, closing: closing.clone(), listening: None }
    }

    /// The listener that this snapshot wants and that is not there.
    pub(super) async fn prepare(&self, snapshot: &Snapshot) -> Result<Option<TcpListener>, Error> {
        if self.listening.is_some() || snapshot.paired().is_empty() {
            return Ok(None);
        }
        let address = self.address;
        TcpListener::bind(address).await.map(Some).map_err(|cause| Error::PairListener { address, cause })
    }

    /// Serves those who may come by this picture, on the listener that was prepared for it.
    pub(super) fn follow(&mut self, picture: &Picture, listener: Option<TcpListener>) {
        if let Some(listener) = listener {
            let closing = self.closing.child_token();
            tracing::info!(address = %self.address, "serving pair sessions");
            tokio::spawn(Arc::clone(&self.offers.sessions).serve(listener, closing.clone()));
            self.listening = Some(closing);
        }
        if picture.paired.is_empty()
            && let Some(listening) = self.listening.take()
        {
            listening.cancel();
            tracing::info!(address = %self.address, "no peer has an agent any more: serving no pair sessions");
        }
    }
}
