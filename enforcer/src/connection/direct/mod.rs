//! The direct path: the application's own socket carries kernel TLS, and the agent steps out.
//!
//! Programs in the kernel hold a connection at both ends from its first packet on, and tell the agent (`hold`). The
//! agent of the end that opened it gives its socket the keys and offers it in the pair session of both identities
//! (`offer`); the other one decides whether that may be, waits until its application has accepted the connection, and
//! gives its socket the same keys (`answer`). Each end fetches the application's socket, gives the keys to the kernel,
//! makes threads that wait inside a call start it again, and opens the gate (`install`). From then on no agent is
//! involved: `live` keeps the record of what is open, and `expire` ends what may not go on.
//!
//! ```text
//! held        offer                         answer                     offerer           answerer
//! CONNECTED   keys in                                                  HELD -> KEYED     HELD
//!             offer(number) --------------> may it? accepted?          KEYED             HELD
//!                                           keys in, open              KEYED             HELD -> KEYED -> OPEN
//!             open <----------------------- opened                     KEYED -> OPEN     OPEN
//! ```
//!
//! Neither end sends before both have their keys, and the answerer is open before the offerer: a server that answers
//! what it has just read must not find its gate shut (PostgreSQL takes that for a broken connection). An agent that dies
//! on the way loses nothing: the sockets keep their keys, and what was offered is offered again with them. Whatever
//! fails ends the connection with a reset at both ends, with its reason in the record; nothing here ever opens a gate
//! without keys.

mod accepts;
mod answer;
mod expire;
mod hold;
mod install;
mod known;
mod live;
mod offer;
mod weigh;
mod written;

pub use accepts::Accepts;
pub(super) use accepts::Put;
pub use answer::{Answers, Hosting};
pub use expire::expire;
pub use hold::watch;
pub use known::Known;
pub use live::Lives;
pub use offer::Offers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use enforcer_ebpf::{DIRECTION_OUTBOUND, Held, Live, Reason, STAGE_ENDED};
use time::OffsetDateTime;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use super::bonds::Bonds;
use super::pair::Connection;
use super::{Current, Homes, Picture, Workload, refused};
use crate::control::policy::{Attempt, Decision, Verdict};
use crate::control::snapshot::Speaks;
use crate::identity::Identity;
use crate::kernel::bpf::{Holds, Misses, Taken};
use crate::kernel::destroy::Destroyed;
use crate::kernel::process::Processes;
use crate::observe::events::{Connections, Direction, Entry, Opening, Path};
use crate::observe::metrics::Metrics;

/// How long a connection that ended before it was open may take to end in order.
const ORDERLY: Duration = Duration::from_secs(2);

/// What all direct connections share.
pub struct Direct {
    /// What is in force.
    pub current: Current,
    /// Namespaces whose connections it ends.
    pub homes: Homes,
    /// The tables in the kernel.
    pub holds: Holds,
    /// Which connections programs take, and how.
    pub taken: Taken,
    /// What programs miss.
    pub misses: Misses,
    /// The records.
    pub connections: Connections,
    /// Processes whose sockets were asked for.
    pub processes: Processes,
    /// Connections and offers that have not met yet.
    pub accepts: Accepts,
    /// What is open, and what is on its way there.
    pub lives: Lives,
    /// Of what is on its way there to the certificates of its session.
    pub bonds: Bonds,
    /// Counts of what should be rare.
    pub metrics: Arc<Metrics>,
    /// Tasks of connections that are on their way.
    pub tasks: TaskTracker,
}

impl Direct {
    /// A record for a connection that is on its way.
    fn record(&self, workload: &Workload, held: &Held) -> Entry {
        let Connection { source, destination } = Connection::from(held);
        let outbound = held.direction == DIRECTION_OUTBOUND;
        let record = self.connections.open(Opening {
            direction: if outbound { Direction::Outbound } else { Direction::Inbound },
            workload: Arc::clone(&workload.name),
            local: workload.identity.clone(),
            source,
            destination,
        });
        record.decided(Path::Direct, Reason::PeerEnrolled);
        record
    }

    /// Whether the workload may have a connection with this identity: rules let it, and their record says so; and it would
    /// be known if the other end had been revoked, since the session that vouches for it is an earlier one.
    fn judge(&self, (cookie, held): (u64, &Held), ends: &Ends) -> Result<(), Reason> {
        let Ends { picture, workload, remote } = ends;
        let decision = decide(picture, workload, (held.direction, Connection::from(held)), remote);
        let verdict = decision.verdict;
        self.lives.with(cookie, |record| {
            record.ruled(decision);
            if let Verdict::Refused(refusal) = verdict {
                record.decided(Path::Refused, refused(refusal));
            }
        });
        if let Verdict::Refused(refusal) = verdict {
            return Err(refused(refusal));
        }
        let trusted = &workload.credentials()?.trusted;
        match trusted.knows_revocations_of(remote, OffsetDateTime::now_utc()) {
            true => Ok(()),
            false => Err(Reason::PeerCertificateInvalid),
        }
    }

    /// Ends a connection that will not be open. What the application has ended already may end in order, as it would
    /// without us; everything else is reset.
    fn give_up(self: &Arc<Self>, cookie: u64, held: &Held, reason: Reason) {
        if reason != Reason::EndedBeforeKeys {
            return self.destroy(cookie, held, reason);
        }
        self.holds.set_stage(cookie, held, STAGE_ENDED);
        let (direct, held) = (Arc::clone(self), *held);
        tokio::spawn(async move {
            sleep(ORDERLY).await;
            if direct.holds.held_one(cookie).is_some() {
                direct.destroy(cookie, &held, reason);
            }
        });
    }

    /// Ends a connection with a reset, whoever has its socket.
    fn destroy(&self, cookie: u64, held: &Held, reason: Reason) {
        let Connection { source, destination } = Connection::from(held);
        let ends = if held.direction == DIRECTION_OUTBOUND { (source, destination) } else { (destination, source) };
        let Some(home) = self.homes.of(held.netns) else { return };
        match home.destroyer.destroy(ends, cookie) {
            Ok(Destroyed::Destroyed) => tracing::debug!(%source, %destination, %reason, "connection ended"),
            Ok(Destroyed::NotFound) => {
                tracing::debug!(%source, %destination, %reason, "connection has ended");
                // It may have been written down since.
                self.holds.forget_live(cookie);
            }
            // Its gate stays shut: it cannot do harm, and ends when the application gives it up.
            Err(error) => tracing::warn!(%error, %source, %destination, %reason, "connection not ended"),
        }
    }
}

/// The ends of a connection that is on its way, and by what they were judged.
struct Ends {
    picture: Arc<Picture>,
    workload: Arc<Workload>,
    remote: Identity,
}

/// The workload whose connection this is.
fn workload_of<'a>(picture: &'a Picture, held: &Held) -> Option<&'a Arc<Workload>> {
    if held.direction == DIRECTION_OUTBOUND {
        return picture.workload_of(held.cgroup);
    }
    picture.workload_at(held.netns, u16::try_from(held.destination.port).ok()?)
}

/// The workload whose open connection this is. The table does not say which of those with one identity in one namespace
/// has opened it.
fn owner_of<'a>(picture: &'a Picture, live: &Live, local: &Identity) -> Option<&'a Arc<Workload>> {
    if live.direction != DIRECTION_OUTBOUND {
        return workload_of(picture, &written::held(live)).filter(|workload| workload.identity == *local);
    }
    let mut there = picture.workloads.iter().filter(|workload| workload.home.namespace.cookie() == live.netns);
    there.find(|workload| workload.identity == *local)
}

/// Who the registry says is at the other end, if it has an agent, and where that is.
fn peer_of<'a>(picture: &'a Picture, held: &Held) -> Option<(&'a Identity, SocketAddr)> {
    let peer = picture.peer_of(other_end(held.direction, Connection::from(held)).ip())?;
    match (&peer.speaks, peer.agent) {
        (Speaks::Enforcer(identity), Some(agent)) => Some((identity, agent)),
        _ => None,
    }
}

fn other_end(direction: u32, Connection { source, destination }: Connection) -> SocketAddr {
    if direction == DIRECTION_OUTBOUND { destination } else { source }
}

/// What rules say of a direct connection.
fn decide(
    picture: &Picture,
    workload: &Workload,
    (direction, connection): (u32, Connection),
    remote: &Identity,
) -> Decision {
    picture.policy_of(workload).decide(&Attempt {
        direction: if direction == DIRECTION_OUTBOUND { Direction::Outbound } else { Direction::Inbound },
        identity: Some(remote),
        address: other_end(direction, connection).ip(),
        port: connection.destination.port(),
    })
}

/// Whether what is in force lets a connection of these ends be, that was let be before.
fn is_let_be(
    picture: &Picture,
    workload: &Workload,
    (direction, connection): (u32, Connection),
    remote: &Identity,
) -> bool {
    let decision = decide(picture, workload, (direction, connection), remote);
    picture.has(workload)
        && picture.is_at(remote, other_end(direction, connection).ip())
        && !matches!(decision.verdict, Verdict::Refused(_))
}

impl From<&Held> for Connection {
    fn from(held: &Held) -> Self {
        Self { source: held.source.into(), destination: held.destination.into() }
    }
}
