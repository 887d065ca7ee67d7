//! The end that opened a connection: offer it to the other agent, give the keys to the kernel, open the gate.

use std::sync::Arc;
use std::time::Duration;

use enforcer_ebpf::{Held, Reason};
use tokio::time::{Instant, sleep, timeout_at};

use super::install::{self, Socket};
use super::live::Opened;
use super::{Direct, Hosting};
use crate::connection::pair::{Connection, Handle, Keys, Offer, Pair, Sessions};
use crate::identity::Identity;

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
}

impl Offers {
    /// Takes a held connection to the end of being held, in a task of its own. One that is under way already is left
    /// alone.
    pub(super) fn start(self: &Arc<Self>, cookie: u64, held: Held) {
        let direct = &self.direct;
        if direct.lives.knows(cookie) {
            return;
        }
        let Some(record) = direct.record(&held) else {
            return direct.destroy(cookie, &held, Reason::WorkloadUnknown);
        };
        direct.lives.begin(cookie, record);
        let shared = Arc::clone(self);
        direct.tasks.spawn(async move {
            if let Err(reason) = carry(&shared, cookie, &held).await {
                shared.direct.give_up(cookie, &held, reason);
                shared.direct.lives.failed(cookie, reason);
            }
        });
    }
}

/// From held to open.
async fn carry(offers: &Offers, cookie: u64, held: &Held) -> Result<(), Reason> {
    let direct = &*offers.direct;
    let started = Instant::now();
    let workload = direct.workload(held).ok_or(Reason::WorkloadUnknown)?;
    let _place = workload.place()?;
    let (_, remote) = direct.peer(held).ok_or(Reason::DestinationUnknown)?;
    let socket = install::fetch(direct, cookie, held).await?;
    let (handle, offer, keys) = agreed(offers, held, started + DEADLINE).await?;
    direct.lives.with(cookie, |record| record.handshake_took(started.elapsed()));
    let opened = Opened { cookie, held, offer: &offer, peer: remote, facts: handle.facts() };
    let result = open(direct, &socket, (&handle, &keys, &opened)).await;
    if let Err(reason) = result {
        // A session that has ended has told the other end already.
        let _told = handle.abort(&offer, reason).await;
    }
    result
}

/// Gives our end its keys, lets the other end be opened first, and opens ours: an application that answers what it has
/// just read finds its gate open.
async fn open(
    direct: &Direct,
    socket: &Socket,
    (handle, keys, opened): (&Handle, &Keys, &Opened<'_>),
) -> Result<(), Reason> {
    socket.key(direct, &keys.forward, &keys.back)?;
    match handle.installed(opened.offer.number).await {
        Ok(Ok(())) => {}
        Ok(Err(number)) => return Err(Reason::try_from(number).unwrap_or(Reason::PeerRefused)),
        Err(_gone) => return Err(Reason::PeerAgentUnreachable),
    }
    // Written down first: as soon as it is open the application may close it.
    direct.lives.opened(direct, opened)?;
    socket.open(direct)
}

/// A session with the other agent, and what it has agreed to there.
async fn agreed(offers: &Offers, held: &Held, deadline: Instant) -> Result<(Handle, Offer, Keys), Reason> {
    let direct = &*offers.direct;
    let (peer, remote) = direct.peer(held).ok_or(Reason::DestinationUnknown)?;
    let agent = peer.agent.ok_or(Reason::DestinationUnknown)?;
    let local: &Identity = &direct.workload(held).ok_or(Reason::WorkloadUnknown)?.identity;
    let pair = Pair { local: local.clone(), remote: remote.clone() };
    loop {
        let attempt = timeout_at(deadline, offers.sessions.get(&pair, agent)).await;
        let reason = match attempt.map_err(|_elapsed| Reason::PeerAgentUnreachable)? {
            Ok(handle) => match handle.offer(Connection::from(held)).await {
                Ok(Ok((offer, keys))) => return Ok((handle, offer, keys)),
                Ok(Err(number)) => return Err(Reason::try_from(number).unwrap_or(Reason::PeerRefused)),
                // The session ended with our offer in it: the other agent is being replaced.
                Err(_gone) => Reason::PeerAgentUnreachable,
            },
            Err(reason) => reason,
        };
        if reason != Reason::PeerAgentUnreachable || Instant::now() + RETRY > deadline {
            return Err(reason);
        }
        sleep(RETRY).await;
    }
}
