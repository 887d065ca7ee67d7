//! The end that a connection was opened to: judge the offer, wait until the application has accepted the connection,
//! give the keys to the kernel and open the gate. The other end has its keys already.

use std::collections::HashSet;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use enforcer_ebpf::Reason;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::Direct;
use super::accepts::{Accepted, End, Put};
use super::install;
use super::written::{self, Opened};
use super::{Ends, workload_of};
use crate::connection::bonds::Bond;
use crate::connection::pair::{self, Connection, Host, Offered, Pair, Takes, WeakHandle};
use crate::connection::{Means, Picture};
use crate::identity::Identity;

/// After this time the kernel is asked whether a connection is accepted, and then after twice as long each time.
const ASK: Duration = Duration::from_secs(1);

/// Gives each pair session its own ends.
pub struct Hosting(Arc<Direct>);

impl Hosting {
    /// For the sessions of this agent.
    #[must_use]
    pub fn new(direct: Arc<Direct>) -> Self {
        Self(direct)
    }
}

impl Host for Hosting {
    type Ends = Answers;

    fn ends(&self, pair: &Pair, session: WeakHandle) -> Arc<Answers> {
        Arc::new(Answers { direct: Arc::clone(&self.0), pair: pair.clone(), session })
    }

    fn takes(&self, local: &Identity) -> Takes {
        let picture = self.0.current.picture();
        let mut workloads = picture.workloads.iter().filter(|workload| workload.identity == *local);
        if workloads.any(|workload| picture.means(workload) == Means::Direct) { Takes::Direct } else { Takes::Relayed }
    }

    fn peers(&self) -> Arc<HashSet<Identity>> {
        Arc::clone(&self.0.current.picture().paired)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.current.changes()
    }

    fn has(&self, local: &Identity) -> bool {
        self.0.current.picture().workloads.iter().any(|workload| workload.identity == *local)
    }
}

/// The ends of connections that the other agent of one pair session offers.
pub struct Answers {
    direct: Arc<Direct>,
    pair: Pair,
    session: WeakHandle,
}

impl Answers {
    /// Whether the other agent may offer this connection at all: its address must be one that the registry gives to
    /// its identity, and nothing else is believed.
    fn authorize(&self, picture: &Picture, source: IpAddr) -> Result<(), Reason> {
        match picture.peer_of(source).and_then(|peer| peer.speaks.identity()) {
            Some(identity) if *identity == self.pair.remote => Ok(()),
            Some(_) => Err(Reason::PeerIdentityMismatch),
            None => Err(Reason::StrictUnknownSource),
        }
    }

    /// Waits until a connection is accepted, by the application or by the relay. Programs tell; but the kernel leaves out
    /// a program for one thread that it has preempted for another (on kernels that preempt), so now and then it is asked.
    async fn accepted(&self, connection: Connection) -> Result<End, Reason> {
        let mut told = pin!(self.direct.accepts.wait(connection));
        let mut patience = ASK;
        loop {
            if let Ok(end) = timeout(patience, &mut told).await {
                return end;
            }
            if let Some(accepted) = self.direct.find_accepted(connection) {
                return Ok(End::Application(accepted));
            }
            patience *= 2;
        }
    }

    /// Whether an offer that is made again was taken before, in the session that was lost.
    fn is_open(&self, connection: Connection) -> bool {
        self.direct.accepts.is_carried(connection)
            || self.direct.find_open(connection).is_some_and(|live| {
                let ends = (written::identity(&live.local), written::identity(&live.peer));
                ends == (Some(self.pair.local.clone()), Some(self.pair.remote.clone()))
            })
    }

    /// Leaves an offer to the relay.
    async fn put(&self, relay: oneshot::Sender<Put>, offered: Offered) -> Result<(), Reason> {
        let (answer, answered) = oneshot::channel();
        let put = Put { offered, pair: self.pair.clone(), facts: self.session.facts().clone(), answer };
        relay.send(put).map_err(|_ended| Reason::EndedBeforeKeys)?;
        answered.await.unwrap_or(Err(Reason::EndedBeforeKeys))
    }

    async fn open(&self, attempt: &Attempt<'_>, offered: &Offered) -> Result<(), Reason> {
        let Accepted { cookie, held, .. } = &attempt.accepted;
        // Another may be in force since it was offered.
        let picture = self.direct.current.picture();
        self.authorize(&picture, offered.offer.connection.source.ip())?;
        let workload = workload_of(&picture, held).map(Arc::clone).ok_or(Reason::PortUnknown)?;
        if workload.identity != self.pair.local {
            return Err(Reason::PeerIdentityMismatch);
        }
        self.direct.lives.begin(*cookie, self.direct.record(&workload, held), &workload);
        let ends = Ends { picture, workload, remote: self.pair.remote.clone() };
        ends.workload.lane.in_turns(self.install(attempt, &ends, offered)).await
    }

    async fn install(
        &self,
        attempt: &Attempt<'_>,
        ends: &Ends,
        Offered { offer, keys, .. }: &Offered,
    ) -> Result<(), Reason> {
        let (bond, Accepted { cookie, held, .. }) = (&attempt.bond, &attempt.accepted);
        let cookie = *cookie;
        self.direct.judge((cookie, held), ends)?;
        bond.tie(&self.session.facts().serials())?;
        self.direct.lives.take_place(cookie, &ends.workload)?;
        let socket = install::fetch(&self.direct, &ends.workload, (cookie, held)).await?;
        socket.key(&self.direct, &keys.back, &keys.forward)?;
        socket.settle().await;
        let (peer, suite, facts) = (&self.pair.remote, keys.back.suite, self.session.facts());
        let opened = Opened { cookie, held, offer, peer, suite, facts, bond };
        self.direct.lives.opened(&self.direct, &ends.workload, &opened)?;
        self.direct.still_stands((cookie, held), ends)?;
        socket.open(&self.direct, cookie)
    }
}

impl pair::Ends for Answers {
    async fn answer(&self, offered: Offered) -> Result<(), Reason> {
        let connection = offered.offer.connection;
        self.authorize(&self.direct.current.picture(), connection.source.ip())?;
        if offered.again && self.is_open(connection) {
            return Ok(());
        }
        let accepted = match self.accepted(connection).await? {
            End::Application(accepted) => accepted,
            End::Relay(relay) => return self.put(relay, offered).await,
        };
        let attempt = Attempt { direct: &self.direct, accepted, bond: self.direct.bonds.bond() };
        self.open(&attempt, &offered).await.inspect_err(|&reason| attempt.failed(reason))
    }
}

/// An accepted connection that is being given its keys. When the session ends on the way, the connection is left to the
/// next one, unless a certificate of the session is revoked: then its keys are worth nothing.
struct Attempt<'a> {
    direct: &'a Arc<Direct>,
    accepted: Accepted,
    bond: Bond,
}

impl Attempt<'_> {
    fn failed(&self, reason: Reason) {
        let Accepted { cookie, held, .. } = &self.accepted;
        self.direct.give_up(*cookie, held, reason);
        self.direct.lives.failed(*cookie, reason);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if let Err(reason) = self.bond.check() {
            self.failed(reason);
        }
    }
}
