//! What two agents say to each other, beside the connections of their workloads.
//!
//! A pair session is mutual TLS between two agents for one pair of workload identities. Its story:
//!
//! ```text
//! sessions    an offer wants a session: there is one, or it is opened      the table; what others call
//! listen      the other agent accepts it                                   bounded, whoever comes
//! handshake   both prove their workloads and learn that they are believed  the only public-key operations
//! session     offers, answers and ends, both ways                          spoken in `message`
//! secrets     the keys of each offered connection                          what all of it is for
//! lifetime    it ends with the first certificate, or when it is unwanted
//! ```
//!
//! So a new connection costs messages and no public-key operation. No key is ever in a message, none comes from an
//! unfinished handshake, and no session outlives what proved its ends. Nothing here knows what a connection is in the
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
pub use session::{Answer, Ended, Ends, Gone, Handle, Opening, WeakHandle, start};
pub use sessions::{Host, Sessions};

use std::net::SocketAddr;

use rustls::{CipherSuite, NamedGroup};
use time::OffsetDateTime;

use crate::identity::Identity;

/// Who a session is with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// The workload of this node.
    pub local: Identity,
    /// The workload of the other agent's node.
    pub remote: Identity,
}

/// What the handshake of a session has settled.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The cipher suite, also that of the connections offered in the session.
    pub cipher: Option<CipherSuite>,
    /// The key exchange.
    pub group: Option<NamedGroup>,
    /// Serial number of the peer's certificate, hexadecimal.
    pub peer_serial: Option<String>,
    /// When the first of both certificates runs out.
    pub expires: OffsetDateTime,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

/// The numbers that one role gives to its offers: strictly ascending, so a number is never taken twice, and all that
/// has to be remembered is the last.
#[derive(Debug, Default)]
pub struct Numbers {
    next: u64,
}

impl Numbers {
    /// A number for an offer of our own. `None` after 2^64 offers: the session must be renewed.
    pub fn take(&mut self) -> Option<u64> {
        let number = self.next;
        self.next = number.checked_add(1)?;
        Some(number)
    }

    /// Whether an offer may have had this number.
    fn knows(&self, number: u64) -> bool {
        number < self.next
    }

    /// Admits a number that the other agent has given. False for one that came before, or that leaves out so many
    /// that none would be left: the offer is a replay or nonsense, and must be refused.
    #[must_use]
    pub fn admit(&mut self, number: u64) -> bool {
        match number.checked_add(1) {
            Some(next) if number >= self.next => {
                self.next = next;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_ascend_and_are_taken_once() {
        let mut numbers = Numbers::default();
        assert_eq!([numbers.take(), numbers.take()], [Some(0), Some(1)]);
        let mut seen = Numbers::default();
        assert!(seen.admit(0));
        assert!(!seen.admit(0), "a replay");
        assert!(seen.admit(7), "the offers between were withdrawn before they were sent");
        assert!(!seen.admit(6) && !seen.admit(7), "late or replayed");
        assert!(!seen.admit(u64::MAX), "nothing could follow");
        assert!(seen.admit(8));
    }

    #[test]
    fn the_last_number_is_not_given() {
        assert_eq!(Numbers { next: u64::MAX }.take(), None);
    }
}
