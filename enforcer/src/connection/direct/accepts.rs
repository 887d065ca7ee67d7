//! Where connections that were accepted and the offers for them meet, whichever comes first.
//!
//! A connection is accepted by the application, whose socket is held, or by the relay, whose socket is the agent's own.
//! The other agent need not know which: it offers, and whoever has accepted takes the offer.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use enforcer_ebpf::{Held, Reason};
use tokio::sync::oneshot;

use crate::connection::limits::Taken;
use crate::connection::pair::{Connection, Facts, Offered, Pair};

/// A held connection that the application has accepted.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) cookie: u64,
    pub(super) held: Held,
    /// Among the held sockets of its workload, if that is known.
    pub(super) _place: Option<Taken>,
}

/// The end that a connection was opened to.
pub(super) enum End {
    /// The application's.
    Application(Accepted),
    /// The relay's, which takes one offer.
    Relay(oneshot::Sender<Put>),
}

/// An offer that is put to the relay.
pub(in crate::connection) struct Put {
    /// What is offered.
    pub(in crate::connection) offered: Offered,
    /// The identities of the session that it comes from.
    pub(in crate::connection) pair: Pair,
    /// What the handshake of that session has settled.
    pub(in crate::connection) facts: Facts,
    /// What becomes of it.
    pub(in crate::connection) answer: oneshot::Sender<Result<(), Reason>>,
}

/// Connections that were accepted and not offered, or offered and not accepted, and those that the relay has taken.
#[derive(Default)]
pub struct Accepts(Mutex<BTreeMap<Connection, Meeting>>);

enum Meeting {
    /// It was offered, and nobody has accepted it.
    Offered(oneshot::Sender<End>),
    /// It was accepted, and not offered.
    Accepted(End),
    /// It was offered, and the relay carries it as long as this is open.
    Carried(oneshot::Sender<()>),
}

impl Accepts {
    /// The application has accepted a connection. False when its offer is still to come.
    pub(super) fn accepted(&self, accepted: Accepted) -> bool {
        self.meet(Connection::from(&accepted.held), End::Application(accepted))
    }

    /// The relay has accepted a connection. Dropping the result withdraws.
    pub(in crate::connection) fn relayed(&self, connection: Connection) -> Relayed<'_> {
        let (put, offers) = oneshot::channel();
        self.meet(connection, End::Relay(put));
        Relayed { accepts: self, connection, offers, carried: None }
    }

    fn meet(&self, connection: Connection, end: End) -> bool {
        let mut meetings = self.locked();
        let end = match meetings.remove(&connection) {
            // An offer that is being withdrawn has left nobody to tell; then the next one finds the end.
            Some(Meeting::Offered(answer)) => match answer.send(end) {
                Ok(()) => return true,
                Err(end) => end,
            },
            // Left by a socket with the same addresses that is gone.
            Some(Meeting::Accepted(_) | Meeting::Carried(_)) | None => end,
        };
        meetings.insert(connection, Meeting::Accepted(end));
        false
    }

    /// Waits until somebody has accepted this connection. Dropping the future withdraws.
    ///
    /// # Errors
    ///
    /// [`Reason::OfferRepeated`], when somebody waits for it already, or has it.
    pub(super) async fn wait(&self, connection: Connection) -> Result<End, Reason> {
        let answer = {
            let mut meetings = self.locked();
            match meetings.remove(&connection) {
                Some(Meeting::Accepted(end)) => return Ok(end),
                Some(met) if !met.is_over() => {
                    meetings.insert(connection, met);
                    return Err(Reason::OfferRepeated);
                }
                _ => {
                    let (tell, answer) = oneshot::channel();
                    meetings.insert(connection, Meeting::Offered(tell));
                    answer
                }
            }
        };
        let _withdraw = Withdraw { accepts: self, connection };
        answer.await.map_err(|_dropped| Reason::Internal)
    }

    /// Whether the relay carries this connection, for which it has taken an offer.
    pub(super) fn is_carried(&self, connection: Connection) -> bool {
        matches!(self.locked().get(&connection), Some(met @ Meeting::Carried(_)) if !met.is_over())
    }

    /// Takes a connection that the application has accepted, and that was not offered. `None`: it was, or it is gone.
    pub(super) fn give_up(&self, connection: Connection, cookie: u64) -> Option<Accepted> {
        let mut meetings = self.locked();
        match meetings.remove(&connection)? {
            Meeting::Accepted(End::Application(accepted)) if accepted.cookie == cookie => Some(accepted),
            other => {
                meetings.insert(connection, other);
                None
            }
        }
    }

    fn remove_over(&self, connection: Connection) {
        let mut meetings = self.locked();
        if let Entry::Occupied(met) = meetings.entry(connection)
            && met.get().is_over()
        {
            met.remove();
        }
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<Connection, Meeting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Meeting {
    /// Whether nobody is there any more.
    fn is_over(&self) -> bool {
        match self {
            Self::Offered(answer) => answer.is_closed(),
            Self::Accepted(End::Relay(put)) => put.is_closed(),
            Self::Accepted(End::Application(_)) => false,
            Self::Carried(carried) => carried.is_closed(),
        }
    }
}

/// A connection that the relay has accepted.
pub(in crate::connection) struct Relayed<'a> {
    accepts: &'a Accepts,
    connection: Connection,
    offers: oneshot::Receiver<Put>,
    carried: Option<oneshot::Receiver<()>>,
}

impl Relayed<'_> {
    /// Waits for the offer.
    pub(in crate::connection) async fn offered(&mut self) -> Result<Put, Reason> {
        let put = (&mut self.offers).await.map_err(|_replaced| Reason::EndedBeforeKeys)?;
        let (carries, carried) = oneshot::channel();
        self.accepts.locked().insert(self.connection, Meeting::Carried(carries));
        self.carried = Some(carried);
        Ok(put)
    }
}

impl Drop for Relayed<'_> {
    fn drop(&mut self) {
        self.offers.close();
        self.carried = None;
        self.accepts.remove_over(self.connection);
    }
}

/// Takes an offer out that nobody waits for any more.
struct Withdraw<'a> {
    accepts: &'a Accepts,
    connection: Connection,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        self.accepts.remove_over(self.connection);
    }
}

#[cfg(test)]
mod tests;
