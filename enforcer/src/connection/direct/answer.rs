//! The end that a connection was opened to: judge the offer, wait until the application has accepted the connection,
//! give the keys to the kernel; open the gate when the other end has its keys too.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use enforcer_ebpf::{Held, Reason};
use tokio::time::timeout;

use super::Direct;
use super::hold::Accepted;
use super::install::{self, Socket};
use super::live::Opened;
use crate::connection::pair::{Connection, Ends, Host, Keys, Offer, Pair, Role, WeakHandle};

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
        Arc::new(Answers { direct: Arc::clone(&self.0), pair: pair.clone(), session, keyed: Mutex::default() })
    }
}

/// The ends of connections that the other agent of one pair session offers.
pub struct Answers {
    direct: Arc<Direct>,
    pair: Pair,
    session: WeakHandle,
    /// Connections whose keys are in, by the numbers of their offers: they wait for the other end.
    keyed: Mutex<HashMap<u64, Keyed>>,
}

struct Keyed {
    socket: Socket,
    held: Held,
}

impl Answers {
    /// Whether the other agent may offer this connection at all: its address must be one that the registry gives to
    /// its identity, and nothing else is believed.
    fn authorize(&self, source: IpAddr) -> Result<(), Reason> {
        match self.direct.snapshot.peer_of(source).and_then(|peer| peer.speaks.identity()) {
            Some(identity) if *identity == self.pair.remote => Ok(()),
            Some(_) => Err(Reason::PeerIdentityMismatch),
            None => Err(Reason::StrictUnknownSource),
        }
    }

    /// Waits until the application has accepted a connection. Programs tell; but the kernel leaves out a program for one
    /// thread that it has preempted for another (on kernels that preempt), so now and then it is asked.
    async fn accepted(&self, connection: Connection) -> Result<Accepted, Reason> {
        let mut told = pin!(self.direct.accepts.wait(connection));
        let mut patience = ASK;
        loop {
            if let Ok(accepted) = timeout(patience, &mut told).await {
                return accepted;
            }
            if let Some(accepted) = self.direct.find_accepted(connection) {
                return Ok(accepted);
            }
            patience *= 2;
        }
    }

    async fn take(&self, offer: Offer, keys: Keys) -> Result<(), Reason> {
        self.authorize(offer.connection.source.ip())?;
        let accepted = self.accepted(offer.connection).await?;
        let (cookie, held) = (accepted.cookie, accepted.held);
        match self.key((cookie, &held), &keys).await {
            Ok(socket) => {
                self.locked().insert(offer.number, Keyed { socket, held });
                Ok(())
            }
            Err(reason) => {
                self.direct.give_up(cookie, &held, reason);
                self.direct.lives.failed(cookie, reason);
                Err(reason)
            }
        }
    }

    async fn key(&self, (cookie, held): (u64, &Held), keys: &Keys) -> Result<Socket, Reason> {
        let workload = self.direct.workload(held).ok_or(Reason::PortUnknown)?;
        if workload.identity != self.pair.local {
            return Err(Reason::PeerIdentityMismatch);
        }
        let record = self.direct.record(held).ok_or(Reason::PortUnknown)?;
        self.direct.lives.begin(cookie, record);
        let _place = workload.place()?;
        let socket = install::fetch(&self.direct, cookie, held).await?;
        socket.key(&self.direct, &keys.back, &keys.forward)?;
        Ok(socket)
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<u64, Keyed>> {
        self.keyed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_up(&self, keyed: &Keyed, reason: Reason) {
        self.direct.give_up(keyed.socket.cookie(), &keyed.held, reason);
        self.direct.lives.failed(keyed.socket.cookie(), reason);
    }
}

impl Ends for Answers {
    async fn answer(&self, offer: Offer, keys: Keys) -> Result<(), Reason> {
        self.take(offer, keys).await
    }

    fn open(&self, offer: &Offer) -> Result<(), Reason> {
        let keyed = self.locked().remove(&offer.number).ok_or(Reason::EndedBeforeKeys)?;
        let cookie = keyed.socket.cookie();
        let opened = Opened { cookie, held: &keyed.held, offer, peer: &self.pair.remote, facts: self.session.facts() };
        let result = self.direct.lives.opened(&self.direct, &opened).and_then(|()| keyed.socket.open(&self.direct));
        result.inspect_err(|reason| self.give_up(&keyed, *reason))
    }

    fn ended(&self, by: Role, number: u64, reason: u32) {
        if by == self.session.role() {
            return;
        }
        if let Some(keyed) = self.locked().remove(&number) {
            self.give_up(&keyed, Reason::try_from(reason).unwrap_or(Reason::PeerRefused));
        }
    }
}

/// The session is over: what it has not opened cannot be opened any more.
impl Drop for Answers {
    fn drop(&mut self) {
        let keyed = std::mem::take(&mut *self.locked());
        for keyed in keyed.values() {
            self.give_up(keyed, Reason::PeerAgentUnreachable);
        }
    }
}
