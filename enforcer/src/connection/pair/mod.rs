//! What two agents say to each other, beside the connections of their workloads.
//!
//! A pair session is mutual TLS between two agents for one pair of workload identities. Its story:
//!
//! ```text
//! sessions    an offer wants a session: there is one, or it is opened      the table; what others call
//! listen      the other agent accepts it                                   bounded, whoever comes
//! handshake   both prove their workloads and learn that they are believed  the only public-key operations
//! session     offers and answers, both ways                                spoken in `message`
//! secrets     the keys of each offered connection                          what all of it is for
//! lifetime    it ends with the first certificate, when one is revoked, or when it is unwanted
//! ```
//!
//! So a new connection costs one message each way and no public-key operation. No key comes from an unfinished handshake,
//! none is in a message but for an offer that has lost its session, and no session outlives what proved its ends. Nothing here knows what a connection is in the
//! kernel: [`Ends`] does, and whoever implements it decides whether a connection may be.

mod sessions;

mod listen;

mod handshake;

mod session;

mod message;

mod secrets;

mod lifetime;

pub use message::{LONGEST, Malformed, Message, decode, encode};
pub use secrets::{Error, Keys, Secret, TrafficKey};
pub use session::{Answer, Ended, Ends, Gone, Handle, Offered, WeakHandle, start};
pub use sessions::{Host, Sessions};

#[cfg(fuzzing)]
pub(crate) use session::fuzz;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::{CipherSuite, NamedGroup};
use time::OffsetDateTime;

use crate::identity::{Identity, Serial};
use crate::observe::events::Tls;

/// Who a session is with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    /// The workload of this node.
    pub local: Identity,
    /// The workload of the other agent's node.
    pub remote: Identity,
}

/// What the handshake of a session has settled.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The key exchange.
    pub group: Option<NamedGroup>,
    /// Of the certificate of this node's workload.
    pub local_serial: Serial,
    /// Of the peer's certificate.
    pub peer_serial: Serial,
    /// When the first of both certificates runs out.
    pub expires: OffsetDateTime,
    /// How connections are taken that are opened to the workload of the session's server.
    pub takes: Takes,
}

impl Facts {
    /// For the record of a connection that was offered in the session, and has keys for this cipher suite.
    pub(super) fn tls(&self, suite: CipherSuite) -> Tls {
        let [local_serial, peer_serial] = self.serials().map(Some);
        Tls { cipher: Some(suite), group: self.group, local_serial, peer_serial }
    }

    /// The certificates that the session was made with, that of this node's workload first.
    pub(super) fn serials(&self) -> [Serial; 2] {
        [self.local_serial, self.peer_serial]
    }
}

/// How an agent takes connections that others open to a workload of its node. An offer is taken in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// They go to the application's own socket, and have to be offered.
    Direct,
    /// They go to the agent, which also shakes hands in the connection itself.
    Relayed,
}

/// Which end of a pair session an agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The agent that opened the session.
    Client,
    /// The agent that accepted it.
    Server,
}

impl Role {
    /// The other end.
    const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// A connection of two workloads by its addresses, which both ends see alike: nothing between enrolled nodes
/// translates them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection {
    /// The end that opened the connection.
    pub source: SocketAddr,
    /// The end that it was opened to.
    pub destination: SocketAddr,
}

/// What makes an offer the only one of its kind: within a session each role counts its own offers, so no two ever
/// have the same role and number, and another session has other secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Offer {
    /// Who made it. The offering agent is always the one whose workload opened the connection.
    pub by: Role,
    /// Its number.
    pub number: u64,
    /// The connection.
    pub connection: Connection,
}

/// The numbers that this end of a session gives to its offers: none twice.
#[derive(Debug, Default)]
pub struct Numbers(AtomicU64);

impl Numbers {
    /// A number for an offer of our own. `None` when all are given: the session must be renewed.
    pub fn take(&self) -> Option<u64> {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| next.checked_add(1)).ok()
    }

    /// Whether an offer may have had this number.
    fn knows(&self, number: u64) -> bool {
        number < self.0.load(Ordering::Relaxed)
    }
}

/// The numbers that the other end has given to its offers. A number is given before the keys are made and the offer
/// after that, so offers can overtake each other; a window remembers which have come, like the one of RFC 9147 4.5.1.
#[derive(Debug, Default)]
pub struct Admitted {
    /// The one after the highest.
    next: u64,
    /// Of the [`WINDOW`] numbers below it, which have come.
    seen: [u64; 16],
}

/// How far an offer can be overtaken: by many more than there are threads that make some.
const WINDOW: u64 = 1024;

impl Admitted {
    /// Admits a number. False for one that has come before, or that nobody remembers: the offer is a replay or
    /// nonsense, and must be refused.
    #[must_use]
    pub fn admit(&mut self, number: u64) -> bool {
        let Some(next) = number.checked_add(1) else { return false };
        if next > self.next {
            for skipped in self.next.max(next.saturating_sub(WINDOW))..next {
                self.mark(skipped, false);
            }
            self.next = next;
        } else if self.next - number > WINDOW {
            return false;
        }
        !self.mark(number, true)
    }

    /// Notes whether a number has come, and says whether it had.
    fn mark(&mut self, number: u64, has_come: bool) -> bool {
        let (word, bit) = (&mut self.seen[(number % WINDOW / 64) as usize], 1 << (number % 64));
        let had = *word & bit != 0;
        *word = if has_come { *word | bit } else { *word & !bit };
        had
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_given_once_and_the_last_one_never() {
        let numbers = Numbers::default();
        assert_eq!([numbers.take(), numbers.take()], [Some(0), Some(1)]);
        assert!(numbers.knows(1) && !numbers.knows(2));
        assert_eq!(Numbers(u64::MAX.into()).take(), None);
    }

    #[test]
    fn a_number_is_admitted_once_however_late_it_comes() {
        let mut admitted = Admitted::default();
        assert!(admitted.admit(0));
        assert!(!admitted.admit(0), "a replay");
        assert!(admitted.admit(7) && admitted.admit(3), "overtaken");
        assert!(!admitted.admit(7) && !admitted.admit(3), "replays");
        assert!(!admitted.admit(u64::MAX), "nothing could follow");
        assert!(admitted.admit(WINDOW), "0 is remembered no more");
        assert!(!admitted.admit(0) && admitted.admit(1));
        assert!(admitted.admit(10 * WINDOW + 5));
        assert!(!admitted.admit(9 * WINDOW + 5), "nobody knows");
        let late: Vec<_> = (9 * WINDOW + 6..10 * WINDOW + 5).collect();
        assert!(late.iter().all(|&number| admitted.admit(number)));
        assert!(late.iter().all(|&number| !admitted.admit(number)));
    }
}
