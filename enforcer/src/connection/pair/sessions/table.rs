//! Which sessions take new offers, and which are being opened. At most one of each key: whoever finds none gets the
//! right, and the duty, to open it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use enforcer_ebpf::Reason;
use tokio::sync::watch;

use crate::connection::pair::{Handle, Pair};
use crate::identity::store::Credentials;

/// What there is one session for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) pair: Pair,
    pub(super) agent: SocketAddr,
}

/// The sessions by their keys.
#[derive(Clone, Default)]
pub(super) struct Table(Arc<Mutex<Slots>>);

#[derive(Default)]
struct Slots {
    by_key: BTreeMap<Key, Slot>,
    /// The number of the next slot: a slot that took the place of another is not the same.
    next: u64,
}

struct Slot {
    number: u64,
    /// What the session is made with: as long as they are current it takes offers.
    credentials: Arc<Credentials>,
    state: State,
}

enum State {
    Opening(watch::Receiver<Outcome>),
    Open(Handle),
}

/// How an opening went; `None` until it is known.
pub(super) type Outcome = Option<Result<Handle, Reason>>;

/// What there is for a key.
pub(super) enum Found {
    /// A session.
    Open(Handle),
    /// Somebody opens one.
    Opening(watch::Receiver<Outcome>),
    /// Nothing, so that whoever asked must open one.
    Absent(Opening, watch::Receiver<Outcome>),
}

/// The right to open a session.
pub(super) struct Opening {
    // Dropped before `tell`: who is told of a failure and asks again must not find the old slot.
    place: Place,
    credentials: Arc<Credentials>,
    tell: watch::Sender<Outcome>,
}

/// The place of a session among those that take new offers, until it is dropped.
pub(super) struct Place {
    table: Table,
    key: Key,
    number: u64,
}

impl Table {
    /// Looks for a session that was made with these credentials.
    pub(super) fn find(&self, key: Key, credentials: Arc<Credentials>) -> Found {
        let mut slots = self.lock();
        let current = slots.by_key.get(&key).filter(|slot| Arc::ptr_eq(&slot.credentials, &credentials));
        match current.map(|slot| &slot.state) {
            Some(State::Open(handle)) if !handle.is_gone() => return Found::Open(handle.clone()),
            Some(State::Opening(outcome)) => return Found::Opening(outcome.clone()),
            _ => {}
        }
        let number = slots.next;
        slots.next = number.wrapping_add(1);
        let (tell, outcome) = watch::channel(None);
        let slot = Slot { number, credentials: Arc::clone(&credentials), state: State::Opening(outcome.clone()) };
        slots.by_key.insert(key.clone(), slot);
        Found::Absent(Opening { place: Place { table: self.clone(), key, number }, credentials, tell }, outcome)
    }

    /// What it protects stays whole when a holder panics: every change is one insert, removal or assignment.
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Opening {
    /// What is opened.
    pub(super) fn key(&self) -> &Key {
        &self.place.key
    }

    /// In whose name.
    pub(super) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Tells all who wait that there is no session.
    pub(super) fn failed(self, reason: Reason) {
        drop(self.place);
        self.tell.send_replace(Some(Err(reason)));
    }

    /// Gives the session to all who wait, and to those who ask as long as it keeps its place.
    pub(super) fn opened(self, handle: Handle) -> Place {
        let Self { place, tell, .. } = self;
        let mut slots = place.table.lock();
        // With newer credentials another may be in its place already.
        if let Some(slot) = slots.by_key.get_mut(&place.key).filter(|slot| slot.number == place.number) {
            slot.state = State::Open(handle.clone());
        }
        drop(slots);
        tell.send_replace(Some(Ok(handle)));
        place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut slots = self.table.lock();
        if slots.by_key.get(&self.key).is_some_and(|slot| slot.number == self.number) {
            slots.by_key.remove(&self.key);
        }
    }
}
