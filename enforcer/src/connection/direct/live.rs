//! What is open, and what is on its way there: the records of direct connections, in the agent and in the kernel.
//!
//! The kernel's table outlives the agent, and a successor reads it; the kernel removes what is closed. Nobody touches
//! an open connection here except to end it: when the registry does not allow it any more, or when a certificate under
//! which it was opened runs out and its identity cannot be proved anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use enforcer_ebpf::{DIRECTION_OUTBOUND, Event, Held, IDENTITY, Live, Missed, Reason, SEEN_CUT};
use rustls::CipherSuite;
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Direct, Offers};
use crate::connection::pair::{Connection, Facts, Offer, Pair};
use crate::control::snapshot::Speaks;
use crate::identity::Identity;
use crate::observe::events::{Direction, Entry, Offloaded, Opening, Path, Tls};

/// A wall clock that jumps, or a machine that slept, is noticed this soon.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The records, by the cookies of the sockets.
#[derive(Default)]
pub struct Lives {
    table: Mutex<Table>,
    /// An end has come nearer than all others.
    sooner: Notify,
}

#[derive(Default)]
struct Table {
    lives: BTreeMap<u64, Life>,
    /// When open connections run out, seconds since 1970, and which.
    ends: BTreeSet<(u64, u64)>,
    /// Until when [`expire`] waits, seconds since 1970, if it waits for a moment.
    waiting: Option<u64>,
}

struct Life {
    record: Entry,
    /// When it runs out, seconds since 1970; `None`: it is still on its way to being open.
    expires: Option<u64>,
}

/// A connection both of whose ends have their keys.
pub(super) struct Opened<'a> {
    pub(super) cookie: u64,
    pub(super) held: &'a Held,
    pub(super) offer: &'a Offer,
    pub(super) peer: &'a Identity,
    /// What its keys are for: those of the session in which it was offered first.
    pub(super) suite: CipherSuite,
    pub(super) facts: &'a Facts,
}

impl Lives {
    /// Whether there is a record already.
    pub(super) fn knows(&self, cookie: u64) -> bool {
        self.locked().lives.contains_key(&cookie)
    }

    /// A connection is on its way to being open.
    pub(super) fn begin(&self, cookie: u64, record: Entry) {
        self.locked().lives.insert(cookie, Life { record, expires: None });
    }

    /// Lets somebody write into a record.
    pub(super) fn with(&self, cookie: u64, write: impl FnOnce(&Entry)) {
        if let Some(life) = self.locked().lives.get(&cookie) {
            write(&life.record);
        }
    }

    /// It will be open in a moment: written down before, here and in the kernel.
    pub(super) fn opened(&self, direct: &Direct, opened: &Opened<'_>) -> Result<(), Reason> {
        let workload = direct.workload(opened.held).ok_or(Reason::WorkloadUnknown)?;
        let expires = opened.facts.expires.unix_timestamp().unsigned_abs();
        let live = Live {
            netns: opened.held.netns,
            offer: opened.offer.number,
            opened: OffsetDateTime::now_utc().unix_timestamp().unsigned_abs(),
            expires,
            source: opened.held.source,
            destination: opened.held.destination,
            direction: opened.held.direction,
            cipher: u16::from(opened.suite).into(),
            local: padded(&workload.identity)?,
            peer: padded(opened.peer)?,
        };
        direct.holds.goes_live(opened.cookie, &live).map_err(|error| {
            tracing::warn!(%error, "direct connection not written down");
            Reason::MapFull
        })?;
        self.with(opened.cookie, |record| {
            record.authenticated(opened.peer, opened.facts.tls(opened.suite));
            record.offloaded(Offloaded::Kernel);
        });
        self.expires(opened.cookie, expires);
        Ok(())
    }

    /// It is open, and runs out then.
    fn expires(&self, cookie: u64, expires: u64) {
        let mut table = self.locked();
        let Table { lives, ends, waiting, .. } = &mut *table;
        let Some(life) = lives.get_mut(&cookie) else { return };
        if let Some(before) = life.expires.replace(expires) {
            ends.remove(&(before, cookie));
        }
        ends.insert((expires, cookie));
        if waiting.is_none_or(|moment| expires < moment) {
            self.sooner.notify_one();
        }
    }

    /// It came to nothing, or was ended by us.
    pub(super) fn failed(&self, cookie: u64, reason: Reason) {
        if let Some(life) = self.locked().remove(cookie) {
            life.record.finish(reason);
        }
    }

    /// Its socket is closed. What is not open yet is settled by whoever is at it. The name of the workload
    /// whose stream was cut short.
    pub(super) fn closed(&self, event: &Event) -> Option<Arc<str>> {
        let Event { cookie, seen, sent, received, .. } = *event;
        let mut table = self.locked();
        if table.lives.get(&cookie).is_none_or(|life| life.expires.is_none()) {
            return None;
        }
        let life = table.remove(cookie)?;
        let is_cut = seen & SEEN_CUT != 0;
        let workload = Arc::clone(life.record.workload());
        drop(table);
        let counters = life.record.counters();
        counters.to_peer.store(sent, Ordering::Relaxed);
        counters.from_peer.store(received, Ordering::Relaxed);
        life.record.finish(if is_cut { Reason::OpenRecordLost } else { Reason::Closed });
        is_cut.then_some(workload)
    }

    /// Lets go of all that is open: it goes on without this agent.
    pub fn hand_over(&self) {
        let mut table = self.locked();
        table.ends.clear();
        let lives = std::mem::take(&mut table.lives).into_values();
        lives.filter(|life| life.expires.is_some()).for_each(|life| life.record.hand_over());
    }

    /// The connections that have run out.
    fn due(&self, now: u64) -> Vec<u64> {
        self.locked().ends.iter().take_while(|&&(end, _)| end <= now).map(|&(_, cookie)| cookie).collect()
    }

    /// How long to wait until the first one runs out, or may have.
    fn wait(&self, now: u64) -> Duration {
        let mut table = self.locked();
        let wait = table.ends.first().map(|&(end, _)| Duration::from_secs(end.saturating_sub(now)).min(LONGEST_WAIT));
        table.waiting = wait.map(|wait| now + wait.as_secs());
        wait.unwrap_or(Duration::MAX)
    }

    fn locked(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn remove(&mut self, cookie: u64) -> Option<Life> {
        let life = self.lives.remove(&cookie)?;
        if let Some(expires) = life.expires {
            self.ends.remove(&(expires, cookie));
        }
        Some(life)
    }
}

impl Direct {
    /// Takes over what an earlier agent has left open, and judges it again.
    pub(super) fn adopt(&self) {
        let live = match self.holds.live() {
            Ok(live) => live,
            Err(error) => return tracing::error!(%error, "cannot read the table of direct connections"),
        };
        let count = live.len();
        for (cookie, live) in live {
            if self.adopt_one(cookie, &live).is_none() {
                self.destroy(cookie, &held(&live), Reason::PolicyChanged);
                self.holds.forget_live(cookie);
            }
        }
        tracing::info!(count, "direct connections were open already");
    }

    /// `None`: it may not go on.
    fn adopt_one(&self, cookie: u64, live: &Live) -> Option<()> {
        let (local, peer) = (identity(&live.local)?, identity(&live.peer)?);
        let workload = self.workload_of(&local)?;
        self.agent_of(live, &peer)?;
        let outbound = live.direction == DIRECTION_OUTBOUND;
        let record = self.connections.open(Opening {
            direction: if outbound { Direction::Outbound } else { Direction::Inbound },
            workload: Arc::clone(&workload.name),
            local,
            source: live.source.into(),
            destination: live.destination.into(),
        });
        record.decided(Path::Direct, Reason::PeerEnrolled);
        let cipher = u16::try_from(live.cipher).ok().map(CipherSuite::from);
        record.authenticated(&peer, Tls { cipher, group: None, peer_serial: None });
        record.offloaded(Offloaded::Kernel);
        self.lives.begin(cookie, record);
        self.lives.expires(cookie, live.expires);
        Some(())
    }

    /// Where the agent is that vouches for the other end, if the registry still has that end there.
    fn agent_of(&self, live: &Live, expected: &Identity) -> Option<SocketAddr> {
        let Connection { source, destination } = Connection::from(&held(live));
        let other = if live.direction == DIRECTION_OUTBOUND { destination } else { source };
        let peer = self.snapshot.peer_of(other.ip())?;
        peer.agent.filter(|_| matches!(&peer.speaks, Speaks::Enforcer(identity) if identity == expected))
    }
}

impl Direct {
    /// A program of this workload has closed a connection after MSG_MORE, and kernel TLS has dropped the last of what it
    /// wrote: that is counted. New connections of the workload are relayed, where the path is ours to choose: there nothing is lost.
    pub(super) fn spare(&self, name: &str) {
        let Some(workload) = self.by_cgroup.values().find(|workload| *workload.name == *name) else { return };
        let is_first = self.misses.count(workload.cgroup_id, Missed::More).is_none_or(|count| count == 1);
        let lost =
            "a program has closed a connection after MSG_MORE, and kernel TLS has dropped the last of what it wrote";
        if !workload.loses_the_end() {
            if is_first {
                tracing::warn!(
                    workload = name,
                    "{lost}; if that matters, give this workload `path: relay` or `path: auto`"
                );
            }
            return;
        }
        match self.taken.relay(workload.cgroup_id, &workload.ports) {
            Ok(()) => tracing::warn!(workload = name, "{lost}; its new connections are relayed from now on"),
            Err(error) => tracing::error!(%error, workload = name, "{lost}; and its connections cannot be relayed"),
        }
    }

    /// A program has shut a gate for good: the hold table was full, or what would have left was no TLS record.
    pub(super) fn refused(&self, cookie: u64, held: &Held) {
        match self.holds.live_one(cookie) {
            Some(live) => {
                tracing::error!(cookie, "plaintext was stopped on a direct connection; it is reset");
                self.destroy(cookie, &self::held(&live), Reason::PlaintextStopped);
                self.lives.failed(cookie, Reason::PlaintextStopped);
            }
            None => {
                let held = self.holds.held_one(cookie).unwrap_or(*held);
                self.destroy(cookie, &held, Reason::MapFull);
            }
        }
    }
}

/// Ends connections whose certificates run out, unless both ends can prove themselves anew; until `stop`.
pub async fn expire(offers: Arc<Offers>, stop: CancellationToken) {
    let lives = &offers.direct.lives;
    loop {
        let wait = lives.wait(now());
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = lives.sooner.notified() => continue,
            () = sleep(wait) => {}
        }
        let due = lives.due(now());
        if !due.is_empty() {
            renew(&offers, &due).await;
        }
    }
}

async fn renew(offers: &Arc<Offers>, due: &[u64]) {
    let direct = &offers.direct;
    let Ok(table) = direct.holds.live() else { return };
    for (cookie, live) in table.into_iter().filter(|(cookie, _)| due.contains(cookie)) {
        match proved_until(offers, &live).await {
            Some(expires) => {
                direct.holds.stays_live(cookie, &Live { expires, ..live });
                direct.lives.expires(cookie, expires);
            }
            None => {
                direct.destroy(cookie, &held(&live), Reason::CertificateExpired);
                direct.lives.failed(cookie, Reason::CertificateExpired);
            }
        }
    }
    // What is due and not in the kernel's table is closed; the event that says so is on its way, or was lost.
    due.iter().filter(|cookie| direct.lives.due(now()).contains(cookie)).for_each(|&cookie| {
        direct.lives.failed(cookie, Reason::Closed);
    });
}

/// Until when both identities are proved now. A session proves them, and is opened for it if there is none.
async fn proved_until(offers: &Offers, live: &Live) -> Option<u64> {
    let pair = Pair { local: identity(&live.local)?, remote: identity(&live.peer)? };
    let agent = offers.direct.agent_of(live, &pair.remote)?;
    let session = offers.sessions.get(&pair, agent).await.ok()?;
    let expires = session.facts().expires.unix_timestamp().unsigned_abs();
    (expires > now()).then_some(expires)
}

fn now() -> u64 {
    OffsetDateTime::now_utc().unix_timestamp().unsigned_abs()
}

/// An open connection as the hold table had it.
pub(super) fn held(live: &Live) -> Held {
    Held {
        netns: live.netns,
        cgroup: 0,
        source: live.source,
        destination: live.destination,
        direction: live.direction,
        stage: 0,
        process: 0,
        descriptor: -1,
    }
}

/// An identity as the kernel's table has it.
fn padded(identity: &Identity) -> Result<[u8; IDENTITY], Reason> {
    let (mut padded, name) = ([0; IDENTITY], identity.to_string());
    let place = padded.get_mut(..name.len()).ok_or(Reason::IdentityTooLong)?;
    place.copy_from_slice(name.as_bytes());
    Ok(padded)
}

/// And back.
pub(super) fn identity(padded: &[u8; IDENTITY]) -> Option<Identity> {
    let name = padded.split(|&octet| octet == 0).next()?;
    str::from_utf8(name).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_come_back_from_the_table_and_long_ones_do_not_fit() {
        let short: Identity = "spiffe://example.org/ns/default/sa/web".parse().unwrap();
        assert_eq!(identity(&padded(&short).unwrap()), Some(short));
        let name = "a".repeat(63);
        let long = format!("spiffe://{name}.{name}.{name}.{name}/ns/{name}/sa/{name}").parse();
        if let Ok(long) = long {
            assert_eq!(padded(&long).err(), Some(Reason::IdentityTooLong));
        }
        assert_eq!(identity(&[0; IDENTITY]), None);
        assert_eq!(identity(&[b'x'; IDENTITY]), None);
    }
}
