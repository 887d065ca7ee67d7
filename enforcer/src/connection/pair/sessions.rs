//! The pair sessions of an agent: one for each pair and agent, opened when the first offer wants it.
//!
//! Whoever wants to offer a connection asks for the session with [`Sessions::get`]. It opens one if there is none; all
//! who ask meanwhile share that opening and its outcome. A failure is told to those who waited and then forgotten: the
//! next who asks tries again. A session takes new offers for ten minutes, or until our certificate is renewed; then it
//! lives on for those who still hold it, and at most until a certificate ends or is revoked. Each direction has its own: a session
//! that the other agent opened carries that agent's offers.
//!
//! One task opens a session, runs it and takes it out of the table. No lock is held across an await.

mod table;

use std::collections::HashSet;
use std::error::Error;
use std::future::pending;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use enforcer_ebpf::Reason;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::handshake::{Beginning, as_client};
use super::lifetime::live;
use super::listen::Places;
use super::{Ends, Handle, Pair, Takes, WeakHandle, start};
use crate::connection::bonds::{Bond, Bonds};
use crate::connection::turns::{Lane, Turns};
use crate::identity::Identity;
use crate::identity::store::Store;
use table::{Found, Key, Opening, Table};

/// How long a session takes new offers: whoever steals its secrets later gets the connections of this time.
const RENEWAL: Duration = Duration::from_secs(10 * 60);

/// Makes the ends of sessions.
pub trait Host: Send + Sync + 'static {
    /// What answers the offers of one session.
    type Ends: Ends;

    /// The ends of a new session. They speak through it by upgrading the handle, and must not keep an upgraded one for
    /// longer than its connections live: a session that holds itself ends only with its certificates. They are dropped
    /// when the session has ended, which is how they learn it.
    fn ends(&self, pair: &Pair, session: WeakHandle) -> Arc<Self::Ends>;

    /// How connections to this workload are taken.
    fn takes(&self, local: &Identity) -> Takes;

    /// Those who may open sessions: the registered peers that have an agent.
    fn peers(&self) -> Arc<HashSet<Identity>>;

    /// Whether there is a workload with this identity.
    fn has(&self, local: &Identity) -> bool;

    /// Tells when one of these answers may be another one.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// The pair sessions of this agent, both those that it opens and those that it accepts.
pub struct Sessions<H> {
    pub(super) host: H,
    pub(super) store: Arc<Store>,
    pub(super) places: Places,
    pub(super) bonds: Bonds,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) lanes: Lanes,
    opened: Table,
}

/// Turns to shake hands: for those that this agent opens, and for those that anybody may want of it.
pub(super) struct Lanes {
    opened: Lane,
    pub(super) accepted: Lane,
}

impl<H: Host> Sessions<H> {
    /// No sessions yet. All sessions end with `stop`, and each of them when its bond breaks or one of its ends is gone.
    #[must_use]
    pub fn new(host: H, store: Arc<Store>, turns: &Turns, (bonds, stop): (Bonds, CancellationToken)) -> Arc<Self> {
        Arc::new(Self {
            host,
            store,
            places: Places::default(),
            bonds,
            stop,
            tasks: TaskTracker::new(),
            lanes: Lanes { opened: turns.lane(), accepted: turns.lane() },
            opened: Table::default(),
        })
    }

    /// The session for new offers of `pair.local` to `pair.remote`, at the agent there. It may end at any moment; then
    /// an offer fails with [`Gone`](super::Gone), and asking again gives another.
    ///
    /// # Errors
    ///
    /// Why there is none. Whether to try again is the caller's to decide.
    pub async fn get(self: &Arc<Self>, pair: &Pair, agent: SocketAddr) -> Result<Handle, Reason> {
        let credentials = self.store.get(&pair.local).map_err(|unavailable| {
            tracing::warn!(%unavailable, "no pair session");
            Reason::NoCertificate
        })?;
        let mut outcome = match self.opened.find(Key { pair: pair.clone(), agent }, credentials) {
            Found::Open(handle) => return Ok(handle),
            Found::Opening(outcome) => outcome,
            Found::Absent(opening, outcome) => {
                self.tasks.spawn(Arc::clone(self).open(opening));
                outcome
            }
        };
        // The task ends without a word only when it panics.
        let outcome = outcome.wait_for(Option::is_some).await.map_err(|_lost| Reason::Internal)?;
        outcome.clone().unwrap_or(Err(Reason::Internal))
    }

    /// Returns when all sessions have ended, which is soon after `stop`.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Opens a session and takes it to its end.
    async fn open(self: Arc<Self>, opening: Opening) {
        let bond = self.bonds.bond();
        let Beginning { stream, pair, facts } = match self.dial(&opening, &bond).await {
            Ok(beginning) => beginning,
            Err(reason) => return opening.failed(reason),
        };
        let (local, remote, agent) = (&pair.local, &pair.remote, opening.key().agent);
        tracing::debug!(%local, %remote, %agent, "pair session opened");
        let started = start(stream, Arc::clone(&facts), |handle| self.host.ends(&pair, handle.downgrade()));
        let (handle, session) = match started {
            Ok(started) => started,
            Err(error) => {
                tracing::error!(%local, %remote, %agent, %error, cause = cause(&error), "no keys from a pair session");
                return opening.failed(Reason::Internal);
            }
        };
        let offered = opening.opened(handle);
        let unwanted = async {
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = self.unwanted(&pair, None) => {}
            }
        };
        let mut life = pin!(live(session, facts.expires, (unwanted, &bond)));
        let early = timeout(RENEWAL, &mut life).await;
        drop(offered);
        let ended = match early {
            Ok(ended) => ended,
            Err(_aged) => life.await,
        };
        tracing::debug!(%local, %remote, %agent, %ended, cause = cause(&ended), "pair session ended");
    }

    /// Returns when there is no such pair any more, or when the client was told something else by the greeting than it would
    /// be now. Looks at once, because that may be so since the handshake.
    pub(super) async fn unwanted(&self, pair: &Pair, greeted: Option<Takes>) {
        let mut changes = self.host.changes();
        let is_wanted = || {
            let Pair { local, remote } = pair;
            let is_greeted = greeted.is_none_or(|greeted| greeted == self.host.takes(local));
            self.host.has(local) && self.host.peers().contains(remote) && is_greeted
        };
        while is_wanted() {
            if changes.changed().await.is_err() {
                return pending().await;
            }
        }
    }

    async fn dial(&self, opening: &Opening, bond: &Bond) -> Result<Beginning, Reason> {
        let Key { pair: Pair { local, remote }, agent } = opening.key();
        let begun = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(Reason::AgentStopped),
            begun = self.lanes.opened.in_turns(as_client(opening.credentials(), remote, *agent)) => begun,
        };
        begun.and_then(|beginning| beginning.bind(bond)).map_err(|error| {
            let reason = error.reason();
            tracing::info!(%local, %remote, %agent, %reason, %error, cause = cause(&error), "no pair session");
            reason
        })
    }
}

/// What is behind an error, for the log.
pub(super) fn cause(error: &dyn Error) -> Option<String> {
    error.source().map(ToString::to_string)
}

#[cfg(test)]
mod tests;
