//! The end that opened a connection: give the keys to the kernel, offer it to the other agent, open the gate when the
//! other end is open.
//!
//! The keys come from the session in which it is offered. A session may be lost before the answer: the other agent is
//! replaced, or this one was. The socket keeps its keys then (kernels before 7.2 take no others), and the next offer
//! brings them along.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use enforcer_ebpf::{Held, Reason};
use rustls::CipherSuite;
use tokio::time::{Instant, sleep, timeout_at};

use super::install;
use super::known::Known;
use super::written::Opened;
use super::{Direct, Ends, Hosting, peer_of, workload_of};
use crate::connection::bonds::Bond;
use crate::connection::limits::Limit;
use crate::connection::pair::{self, Connection, Handle, Keys, Offer, Pair, Sessions};

/// How long the application's first bytes may wait for the other agent to be there: one that is being replaced is back
/// much sooner.
const DEADLINE: Duration = Duration::from_secs(30);
/// Between two attempts to reach it.
const RETRY: Duration = Duration::from_millis(100);

/// Offers the connections that this node's workloads open.
pub struct Offers {
    /// What all direct connections share.
    pub direct: Arc<Direct>,
    /// Sessions with other agents.
    pub sessions: Arc<Sessions<Hosting>>,
    /// What other agents have said of themselves.
    pub known: Known,
}

impl Offers {
    /// Takes a held connection to the end of being held, in a task of its own. One that is under way already is left
    /// alone.
    pub(super) fn start(self: &Arc<Self>, cookie: u64, held: Held) {
        let direct = &self.direct;
        if direct.lives.knows(cookie) {
            return;
        }
        // Before it is judged, so that no change is missed.
        let changes = direct.current.changes();
        let picture = direct.current.picture();
        let Some(workload) = workload_of(&picture, &held).map(Arc::clone) else {
            return direct.destroy(cookie, &held, Reason::WorkloadUnknown);
        };
        direct.lives.begin(cookie, direct.record(&workload, &held), &workload);
        let places = direct.lives.take_place(cookie, &workload).and_then(|()| workload.limits.take(Limit::Held));
        let place = match places {
            Ok(place) => place,
            Err(reason) => {
                direct.give_up(cookie, &held, reason);
                return direct.lives.failed(cookie, reason);
            }
        };
        let shared = Arc::clone(self);
        direct.tasks.spawn(async move {
            let _place = place;
            let bond = shared.direct.bonds.bond();
            let lane = Arc::clone(&workload.lane);
            let carry = async {
                let (remote, agent) = peer_of(&picture, &held).ok_or(Reason::DestinationUnknown)?;
                let (picture, remote) = (Arc::clone(&picture), remote.clone());
                let ends = Ends { picture, workload, remote };
                tokio::select! {
                    biased;
                    () = shared.direct.forbidden(changes, &held, &ends) => Err(Reason::PolicyChanged),
                    () = bond.broken() => Err(Reason::CertificateRevoked),
                    ended = carry(&shared, (cookie, &held), (&ends, agent), &bond) => ended,
                }
            };
            let ended = lane.in_turns(carry).await;
            if let Err(reason) = ended {
                shared.direct.give_up(cookie, &held, reason);
                shared.direct.lives.failed(cookie, reason);
            }
        });
    }
}

/// From held to open.
async fn carry(
    offers: &Offers,
    (cookie, held): (u64, &Held),
    (ends, agent): (&Ends, SocketAddr),
    bond: &Bond,
) -> Result<(), Reason> {
    let direct = &*offers.direct;
    let Ends { workload, remote, .. } = ends;
    let started = Instant::now();
    direct.judge((cookie, held), ends)?;
    let socket = install::fetch(direct, workload, (cookie, held)).await?;
    let whose = Pair { local: workload.identity.clone(), remote: remote.clone() };
    let key = |keys: &Keys| socket.key(direct, &keys.forward, &keys.back);
    let connection = (Connection::from(held), bond);
    let Agreed { session, offer, suite } =
        offers.agree((&whose, agent), connection, socket.keys_from_before(), key).await?;
    direct.lives.with(cookie, |record| record.handshake_took(started.elapsed()));
    // Written down first: as soon as it is open the application may close it.
    let opened = Opened { cookie, held, offer: &offer, peer: remote, suite, facts: session.facts(), bond };
    direct.lives.opened(direct, workload, &opened)?;
    direct.still_stands((cookie, held), ends)?;
    socket.open(direct, cookie)
}

/// The other end is open.
pub(in crate::connection) struct Agreed {
    /// The session in which it was said.
    pub(in crate::connection) session: Handle,
    /// What was offered there.
    pub(in crate::connection) offer: Offer,
    /// What the keys are for.
    pub(in crate::connection) suite: CipherSuite,
}

impl Offers {
    /// Gives our end its keys, by `key`, and offers the connection, in as many sessions as it takes until there is an
    /// answer. `earlier` are keys that our end has from before. The bond is tied to the certificates of each of these
    /// sessions; who has it ends this when it breaks.
    ///
    /// # Errors
    ///
    /// Why the other end is not open, or there is no session, or no keys.
    pub(in crate::connection) async fn agree(
        &self,
        (whose, agent): (&Pair, SocketAddr),
        (connection, bond): (Connection, &Bond),
        mut earlier: Option<Keys>,
        mut key: impl FnMut(&Keys) -> Result<(), Reason>,
    ) -> Result<Agreed, Reason> {
        loop {
            let session = self.session(whose, agent).await?;
            if bond.tie(&session.facts().serials()).is_err() {
                // Its own bond is about to end it: the next one is made under other certificates, or there is none.
                sleep(RETRY).await;
                continue;
            }
            let offer = session.number(connection).ok_or(Reason::Internal)?;
            let (keys, again) = match earlier.take() {
                Some(keys) => (keys, true),
                None => (session.keys(&offer).map_err(no_keys)?, false),
            };
            if !again {
                key(&keys)?;
            }
            let suite = keys.forward.suite;
            match session.offer(offer, again.then(|| keys.clone())).await {
                Ok(Ok(())) => return Ok(Agreed { session, offer, suite }),
                Ok(Err(number)) => return Err(Reason::try_from(number).unwrap_or(Reason::PeerRefused)),
                Err(_gone) => earlier = Some(keys),
            }
            sleep(RETRY).await;
        }
    }

    /// A session with the other agent, which may take a while to be there.
    async fn session(&self, whose: &Pair, agent: SocketAddr) -> Result<Handle, Reason> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let attempt = timeout_at(deadline, self.sessions.get(whose, agent)).await;
            match attempt.map_err(|_elapsed| Reason::PeerAgentUnreachable)? {
                Ok(session) => return Ok(session),
                Err(Reason::PeerAgentUnreachable) if Instant::now() + RETRY < deadline => sleep(RETRY).await,
                Err(reason) => return Err(reason),
            }
        }
    }
}

fn no_keys(error: pair::Error) -> Reason {
    tracing::error!(%error, "no keys for an offer");
    Reason::Internal
}
