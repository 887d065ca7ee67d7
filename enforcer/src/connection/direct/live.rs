//! What is open, and what is on its way there: the records of direct connections, in the agent and in the kernel.
//!
//! The kernel's table outlives the agent, and a successor reads it; the kernel removes what is closed. Nobody touches
//! an open connection here except to end it.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use enforcer_ebpf::{Held, IDENTITY, Live, Reason};
use time::OffsetDateTime;

use super::Direct;
use crate::connection::pair::{Facts, Offer};
use crate::identity::Identity;
use crate::observe::events::{Entry, Offloaded, Tls};

/// The records, by the cookies of the sockets.
#[derive(Default)]
pub struct Lives(Mutex<HashMap<u64, Life>>);

struct Life {
    record: Entry,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// On its way to being open.
    Settling,
    Open,
}

/// A connection both of whose ends have their keys.
pub(super) struct Opened<'a> {
    pub(super) cookie: u64,
    pub(super) held: &'a Held,
    pub(super) offer: &'a Offer,
    pub(super) peer: &'a Identity,
    pub(super) facts: &'a Facts,
}

impl Lives {
    /// Whether there is a record already.
    pub(super) fn knows(&self, cookie: u64) -> bool {
        self.locked().contains_key(&cookie)
    }

    /// A connection is on its way to being open.
    pub(super) fn begin(&self, cookie: u64, record: Entry) {
        self.locked().insert(cookie, Life { record, stage: Stage::Settling });
    }

    /// Lets somebody write into a record.
    pub(super) fn with(&self, cookie: u64, write: impl FnOnce(&Entry)) {
        if let Some(life) = self.locked().get(&cookie) {
            write(&life.record);
        }
    }

    /// It will be open in a moment: written down before, here and in the kernel.
    pub(super) fn opened(&self, direct: &Direct, opened: &Opened<'_>) -> Result<(), Reason> {
        let workload = direct.workload(opened.held).ok_or(Reason::WorkloadUnknown)?;
        let live = Live {
            netns: opened.held.netns,
            offer: opened.offer.number,
            opened: OffsetDateTime::now_utc().unix_timestamp().unsigned_abs(),
            expires: opened.facts.expires.unix_timestamp().unsigned_abs(),
            source: opened.held.source,
            destination: opened.held.destination,
            direction: opened.held.direction,
            cipher: opened.facts.cipher.map_or(0, u16::from).into(),
            local: padded(&workload.identity)?,
            peer: padded(opened.peer)?,
        };
        direct.holds.goes_live(opened.cookie, &live).map_err(|error| {
            tracing::warn!(%error, "direct connection not written down");
            Reason::MapFull
        })?;
        if let Some(life) = self.locked().get_mut(&opened.cookie) {
            life.stage = Stage::Open;
            life.record.authenticated(opened.peer, tls(opened.facts));
            life.record.offloaded(Offloaded::Kernel);
        }
        Ok(())
    }

    /// It came to nothing.
    pub(super) fn failed(&self, cookie: u64, reason: Reason) {
        if let Some(life) = self.locked().remove(&cookie) {
            life.record.finish(reason);
        }
    }

    /// Its socket is closed. What is not open yet is settled by whoever is at it.
    pub(super) fn closed(&self, cookie: u64, (sent, received): (u64, u64)) {
        let mut lives = self.locked();
        if lives.get(&cookie).is_none_or(|life| life.stage != Stage::Open) {
            return;
        }
        let Some(life) = lives.remove(&cookie) else { return };
        drop(lives);
        let counters = life.record.counters();
        counters.to_peer.store(sent, Ordering::Relaxed);
        counters.from_peer.store(received, Ordering::Relaxed);
        life.record.finish(Reason::Closed);
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<u64, Life>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tls(facts: &Facts) -> Tls {
    Tls { cipher: facts.cipher, group: facts.group, peer_serial: facts.peer_serial.clone() }
}

/// An identity as the kernel's table has it.
fn padded(identity: &Identity) -> Result<[u8; IDENTITY], Reason> {
    let (mut padded, name) = ([0; IDENTITY], identity.to_string());
    let place = padded.get_mut(..name.len()).ok_or(Reason::IdentityTooLong)?;
    place.copy_from_slice(name.as_bytes());
    Ok(padded)
}
