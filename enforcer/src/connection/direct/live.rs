//! What is open, and what is on its way there: the records of direct connections, in the agent and in the kernel.
//!
//! The kernel's table outlives the agent, and a successor reads it; the kernel removes what is closed. Nobody touches
//! an open connection except to end it: here when the registry does not allow it any more, in [`super::expire`] when a
//! certificate under which it was opened runs out and its identity cannot be proved anew, or is revoked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use enforcer_ebpf::{DIRECTION_OUTBOUND, Event, Held, Live, Missed, Reason, SEEN_CUT};
use rustls::CipherSuite;
use tokio::sync::Notify;

use super::written::{self, Opened, Proof, held, identity};
use super::{Direct, decide, owner_of, peer_of};
use crate::connection::limits::{Limit, Taken};
use crate::connection::pair::Connection;
use crate::connection::{Picture, Workload};
use crate::control::policy::Verdict;
use crate::identity::{Identity, Serial};
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
    /// Until when [`super::expire`] waits, seconds since 1970, if it waits for a moment.
    waiting: Option<u64>,
}

struct Life {
    record: Entry,
    workload: Arc<Workload>,
    /// Among the workload's connections.
    place: Option<Taken>,
    /// What proves its ends; `None`: it is still on its way to being open.
    proof: Option<Proof>,
}

impl Lives {
    /// Whether there is a record already.
    pub(super) fn knows(&self, cookie: u64) -> bool {
        self.locked().lives.contains_key(&cookie)
    }

    /// A connection is on its way to being open.
    pub(super) fn begin(&self, cookie: u64, record: Entry, workload: &Arc<Workload>) {
        let life = Life { record, workload: Arc::clone(workload), place: None, proof: None };
        self.locked().lives.insert(cookie, life);
    }

    /// Gives it a place among its workload's connections, as long as it is here.
    pub(super) fn take_place(&self, cookie: u64, workload: &Workload) -> Result<(), Reason> {
        self.place(cookie, workload.limits.take(Limit::Connections)?);
        Ok(())
    }

    fn place(&self, cookie: u64, place: Taken) {
        if let Some(life) = self.locked().lives.get_mut(&cookie) {
            life.place = Some(place);
        }
    }

    /// Whose connection it is. `None`: there is no record of it.
    pub(super) fn workload(&self, cookie: u64) -> Option<Arc<Workload>> {
        self.locked().lives.get(&cookie).map(|life| Arc::clone(&life.workload))
    }

    /// Lets somebody write into a record.
    pub(super) fn with(&self, cookie: u64, write: impl FnOnce(&Entry)) {
        if let Some(life) = self.locked().lives.get(&cookie) {
            write(&life.record);
        }
    }

    /// It will be open in a moment: written down before, here and in the kernel. After that its bond is asked, because from
    /// then on a revocation finds it here.
    pub(super) fn opened(&self, direct: &Direct, workload: &Workload, opened: &Opened<'_>) -> Result<(), Reason> {
        let live = written::live(opened, &workload.identity)?;
        direct.holds.goes_live(opened.cookie, &live).map_err(|error| {
            tracing::warn!(%error, "direct connection not written down");
            Reason::MapFull
        })?;
        self.with(opened.cookie, |record| {
            record.authenticated(opened.peer, opened.facts.tls(opened.suite));
            record.offloaded(Offloaded::Kernel);
        });
        self.is_proved(opened.cookie, Proof::from(opened.facts));
        opened.bond.check()
    }

    /// It is open, and this proves its ends.
    pub(super) fn is_proved(&self, cookie: u64, proof: Proof) {
        let expires = proof.expires;
        let mut table = self.locked();
        let Table { lives, ends, waiting, .. } = &mut *table;
        let Some(life) = lives.get_mut(&cookie) else { return };
        if let Some(before) = life.proof.replace(proof) {
            ends.remove(&(before.expires, cookie));
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
        if table.lives.get(&cookie).is_none_or(|life| life.proof.is_none()) {
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
        lives.filter(|life| life.proof.is_some()).for_each(|life| life.record.hand_over());
    }

    /// The open connections of which one end is proved by such a certificate.
    pub(super) fn proved_by(&self, is_meant: impl Fn(&Serial) -> bool) -> Vec<u64> {
        let table = self.locked();
        let is_meant = |life: &Life| life.proof.is_some_and(|proof| proof.serials.iter().any(&is_meant));
        table.lives.iter().filter(|(_, life)| is_meant(life)).map(|(&cookie, _)| cookie).collect()
    }

    /// Returns when an end may have come nearer than all others.
    pub(super) async fn sooner(&self) {
        self.sooner.notified().await;
    }

    /// The connections that have run out.
    pub(super) fn due(&self, now: u64) -> Vec<u64> {
        self.locked().ends.iter().take_while(|&&(end, _)| end <= now).map(|&(_, cookie)| cookie).collect()
    }

    /// How long to wait until the first one runs out, or may have.
    pub(super) fn wait(&self, now: u64) -> Duration {
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
        if let Some(proof) = life.proof {
            self.ends.remove(&(proof.expires, cookie));
        }
        Some(life)
    }
}

impl Direct {
    /// Takes over what an earlier agent has left open, and judges it again. What is held too was not open yet when that
    /// one died: it is left to the hold table.
    pub(super) fn adopt(&self) {
        let tables = self.holds.live().and_then(|live| Ok((live, self.holds.held()?)));
        let (live, held_too) = match tables {
            Ok((live, held)) => (live, held.into_iter().map(|(cookie, _)| cookie).collect::<BTreeSet<_>>()),
            Err(error) => return tracing::error!(%error, "cannot read the tables of direct connections"),
        };
        let (unopened, live): (Vec<_>, Vec<_>) = live.into_iter().partition(|(cookie, _)| held_too.contains(cookie));
        unopened.iter().for_each(|(cookie, _)| self.holds.forget_live(*cookie));
        let count = live.len();
        for (cookie, live) in live {
            if let Err(reason) = self.adopt_one(cookie, &live) {
                self.lives.failed(cookie, reason);
                self.destroy(cookie, &held(&live), reason);
                self.holds.forget_live(cookie);
            }
        }
        tracing::info!(count, "direct connections were open already");
    }

    /// An error is why it may not go on.
    fn adopt_one(&self, cookie: u64, live: &Live) -> Result<(), Reason> {
        let ends = identity(&live.local).zip(identity(&live.peer));
        let (local, peer) = ends.ok_or(Reason::PolicyChanged)?;
        let picture = self.current.picture();
        let workload = owner_of(&picture, live, &local).ok_or(Reason::PolicyChanged)?;
        agent_of(&picture, live, &peer).ok_or(Reason::PolicyChanged)?;
        let proof = Proof::from(live);
        let outbound = live.direction == DIRECTION_OUTBOUND;
        let record = self.connections.open(Opening {
            direction: if outbound { Direction::Outbound } else { Direction::Inbound },
            workload: Arc::clone(&workload.name),
            local,
            source: live.source.into(),
            destination: live.destination.into(),
        });
        record.decided(Path::Direct, Reason::PeerEnrolled);
        let decision = decide(&picture, workload, (live.direction, Connection::from(&held(live))), &peer);
        let is_refused = matches!(decision.verdict, Verdict::Refused(_));
        record.ruled(decision);
        let cipher = u16::try_from(live.cipher).ok().map(CipherSuite::from);
        let [local_serial, peer_serial] = proof.serials.map(Some);
        record.authenticated(&peer, Tls { cipher, group: None, local_serial, peer_serial });
        record.offloaded(Offloaded::Kernel);
        self.lives.begin(cookie, record, workload);
        self.lives.place(cookie, workload.limits.adopt(Limit::Connections));
        self.lives.is_proved(cookie, proof);
        if is_refused {
            return Err(Reason::PolicyChanged);
        }
        // As when it was opened.
        if self.bonds.are_revoked(&proof.serials) { Err(Reason::CertificateRevoked) } else { Ok(()) }
    }
}

/// Where the agent is that vouches for the other end, if the registry still has that end there.
pub(super) fn agent_of(picture: &Picture, live: &Live, expected: &Identity) -> Option<SocketAddr> {
    peer_of(picture, &held(live)).filter(|(identity, _)| *identity == expected).map(|(_, agent)| agent)
}

impl Direct {
    /// A program of this workload has closed a connection after MSG_MORE, and kernel TLS has dropped the last of what it
    /// wrote: that is counted. New connections of the workload are relayed, where the path is ours to choose: there nothing is lost.
    pub(super) fn spare(&self, name: &str) {
        let picture = self.current.picture();
        let Some(workload) = picture.workloads.iter().find(|workload| *workload.name == *name) else { return };
        let is_first = self.misses.count(workload.cgroup_id, Missed::More).is_none_or(|count| count == 1);
        let lost =
            "a program has closed a connection after MSG_MORE, and kernel TLS has dropped the last of what it wrote";
        if !workload.loses_the_end(picture.policy_of(workload).path) {
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
                self.destroy(cookie, &written::held(&live), Reason::PlaintextStopped);
                self.lives.failed(cookie, Reason::PlaintextStopped);
            }
            None => {
                let held = self.holds.held_one(cookie).unwrap_or(*held);
                self.destroy(cookie, &held, Reason::MapFull);
            }
        }
    }
}
