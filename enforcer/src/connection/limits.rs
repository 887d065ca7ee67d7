//! How much of a workload there may be at once, so that it takes from its own share and not from that of others.
//!
//! What is beyond a bound is refused at once, and counted. Nothing here waits; that is what [`super::turns`] are for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use enforcer_ebpf::Reason;

use crate::control::snapshot;

/// Octets that a relayed connection takes in the agent at most: buffers of 64 and 16 KiB, a record that is read ahead, and what
/// rustls keeps of records that are not whole and of those that a stalled peer does not take. What is in its sockets is the
/// kernel's to bound.
pub const RELAY: u64 = 168 * 1024;

/// What is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Connections of both paths: open, or on their way there.
    Connections,
    /// Sockets on the direct path that are not open yet.
    Held,
    /// Handshakes of relayed connections, with those that wait for their turn.
    Handshakes,
    /// Octets that relayed connections may take in the agent.
    RelayMemory,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Connections, Self::Held, Self::Handshakes, Self::RelayMemory];

    /// The label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Held => "held",
            Self::Handshakes => "handshakes",
            Self::RelayMemory => "relay-memory",
        }
    }
}

/// The bounds of one workload, and what is taken of them.
#[derive(Debug, Default)]
pub struct Limits([Bound; Limit::ALL.len()]);

#[derive(Debug, Default)]
struct Bound {
    most: AtomicU64,
    taken: AtomicU64,
    refused: AtomicU64,
}

/// A part of what a workload may have. It is given back when this is dropped.
#[derive(Debug)]
pub struct Taken {
    limits: Arc<Limits>,
    limit: Limit,
    amount: u64,
}

impl Limits {
    /// As the file has them.
    #[must_use]
    pub fn new(wanted: &snapshot::Limits) -> Arc<Self> {
        let limits = Self::default();
        limits.set(wanted);
        Arc::new(limits)
    }

    /// Others are wanted. What was taken before is left alone.
    pub fn set(&self, wanted: &snapshot::Limits) {
        let snapshot::Limits { connections, held, handshakes, relay_memory } = *wanted;
        let most = [connections.into(), held.into(), handshakes.into(), u64::from(relay_memory) << 20];
        self.0.iter().zip(most).for_each(|(bound, most)| bound.most.store(most, Ordering::Relaxed));
    }

    /// Takes one of these.
    ///
    /// # Errors
    ///
    /// [`Reason::TooManyConnections`], when the workload has as many as it may have.
    pub fn take(self: &Arc<Self>, limit: Limit) -> Result<Taken, Reason> {
        self.take_many(limit, 1)
    }

    /// Takes what a relayed connection needs.
    ///
    /// # Errors
    ///
    /// [`Reason::TooManyConnections`], when there is too little left of something.
    pub fn take_relay(self: &Arc<Self>) -> Result<[Taken; 2], Reason> {
        Ok([self.take(Limit::Connections)?, self.take_many(Limit::RelayMemory, RELAY)?])
    }

    /// Counts one that is there already, whether it may be or not.
    #[must_use]
    pub fn adopt(self: &Arc<Self>, limit: Limit) -> Taken {
        self.bound(limit).taken.fetch_add(1, Ordering::Relaxed);
        Taken { limits: Arc::clone(self), limit, amount: 1 }
    }

    /// How much of this is taken.
    #[must_use]
    pub fn taken(&self, limit: Limit) -> u64 {
        self.bound(limit).taken.load(Ordering::Relaxed)
    }

    /// How much of this there may be.
    #[must_use]
    pub fn most(&self, limit: Limit) -> u64 {
        self.bound(limit).most.load(Ordering::Relaxed)
    }

    /// How often somebody was refused because of this.
    #[must_use]
    pub fn refused(&self, limit: Limit) -> u64 {
        self.bound(limit).refused.load(Ordering::Relaxed)
    }

    fn take_many(self: &Arc<Self>, limit: Limit, amount: u64) -> Result<Taken, Reason> {
        let Bound { most, taken, refused } = self.bound(limit);
        let most = most.load(Ordering::Relaxed);
        let fits = |taken: u64| taken.checked_add(amount).filter(|sum| *sum <= most);
        match taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_before) => Ok(Taken { limits: Arc::clone(self), limit, amount }),
            Err(_full) => {
                refused.fetch_add(1, Ordering::Relaxed);
                Err(Reason::TooManyConnections)
            }
        }
    }

    fn bound(&self, limit: Limit) -> &Bound {
        &self.0[limit as usize]
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.limits.bound(self.limit).taken.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_a_bound_is_refused_and_counted_until_something_is_given_back() {
        let wanted = snapshot::Limits { connections: 2, relay_memory: 1, ..snapshot::Limits::default() };
        let limits = Limits::new(&wanted);
        let [one, _two] = [(); 2].map(|()| limits.take(Limit::Connections).unwrap());
        assert_eq!(limits.take(Limit::Connections).map(drop), Err(Reason::TooManyConnections));
        assert_eq!(limits.take_relay().map(drop), Err(Reason::TooManyConnections));
        assert_eq!((limits.taken(Limit::Connections), limits.refused(Limit::Connections)), (2, 2));
        assert_eq!((limits.taken(Limit::RelayMemory), limits.refused(Limit::RelayMemory)), (0, 0));
        drop(one);
        drop(limits.take(Limit::Connections).unwrap());
        assert_eq!(limits.taken(Limit::Connections), 1);
        assert!(limits.take(Limit::Held).is_ok(), "each bound is for itself");
    }

    #[test]
    fn relays_take_octets() {
        let limits = Limits::new(&snapshot::Limits { relay_memory: 1, ..snapshot::Limits::default() });
        let relays: Vec<_> = std::iter::from_fn(|| limits.take_relay().ok()).collect();
        assert_eq!(relays.len() as u64, (1 << 20) / RELAY);
        assert_eq!(limits.taken(Limit::RelayMemory), relays.len() as u64 * RELAY);
        assert_eq!(limits.refused(Limit::RelayMemory), 1);
        drop(relays);
        assert_eq!((limits.taken(Limit::Connections), limits.taken(Limit::RelayMemory)), (0, 0));
    }

    #[test]
    fn what_was_taken_or_adopted_beyond_a_bound_stays_and_lets_nobody_else_in() {
        let limits = Limits::new(&snapshot::Limits::default());
        let held = [limits.take(Limit::Held).unwrap(), limits.adopt(Limit::Held)];
        limits.set(&snapshot::Limits { held: 1, ..snapshot::Limits::default() });
        let _adopted = limits.adopt(Limit::Held);
        assert_eq!(limits.taken(Limit::Held), 3);
        assert!(limits.take(Limit::Held).is_err());
        drop(held);
        assert!(limits.take(Limit::Held).is_err(), "the adopted one has the place");
    }
}
