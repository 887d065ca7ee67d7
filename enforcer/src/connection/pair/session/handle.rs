//! The side of a pair session that the rest of the agent holds.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::connection::pair::{Connection, Error, Facts, Keys, Numbers, Offer, Role, Secret};

/// Orders to a running session. The session ends when the last handle is dropped.
#[derive(Clone)]
pub struct Handle {
    pub(super) role: Role,
    pub(super) facts: Arc<Facts>,
    pub(super) making: Arc<Making>,
    pub(super) orders: mpsc::Sender<Order>,
}

/// A handle that does not keep its session alive: for the session's own [`Ends`](super::Ends), which would hold
/// themselves otherwise.
#[derive(Clone)]
pub struct WeakHandle {
    role: Role,
    facts: Arc<Facts>,
    making: Arc<Making>,
    orders: mpsc::WeakSender<Order>,
}

impl WeakHandle {
    /// What its handshake has settled.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The session, if somebody still holds it.
    #[must_use]
    pub fn upgrade(&self) -> Option<Handle> {
        let (facts, making) = (Arc::clone(&self.facts), Arc::clone(&self.making));
        Some(Handle { role: self.role, facts, making, orders: self.orders.upgrade()? })
    }
}

/// The session ended, or ends before this is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pair session has ended")]
pub struct Gone;

/// An offer to be made, and its keys if another session made them.
pub(super) struct Order {
    pub(super) offer: Offer,
    pub(super) keys: Option<Keys>,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// What offers are made from, before they are made.
pub(super) struct Making {
    pub(super) secret: Secret,
    pub(super) numbers: Numbers,
}

/// How an offer ended: the other end is open, or the number of the reason why it is not.
pub type Answer = Result<(), u32>;

impl Handle {
    /// Which end of the session this agent is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// What its handshake has settled.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// A handle that does not keep the session alive.
    #[must_use]
    pub fn downgrade(&self) -> WeakHandle {
        let (facts, making) = (Arc::clone(&self.facts), Arc::clone(&self.making));
        WeakHandle { role: self.role, facts, making, orders: self.orders.downgrade() }
    }

    /// Whether the session has ended. One that has not may do so at any moment.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.orders.is_closed()
    }

    /// Gives a connection its place among the offers of this session. `None`: there is none left.
    #[must_use]
    pub fn number(&self, connection: Connection) -> Option<Offer> {
        Some(Offer { by: self.role, number: self.making.numbers.take()?, connection })
    }

    /// The keys of an offer that is about to be made. The other agent makes the same.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn keys(&self, offer: &Offer) -> Result<Keys, Error> {
        self.making.secret.keys(offer)
    }

    /// Offers a connection whose end here has its keys, and says whether the other end is open. `keys` are those of
    /// another session in which it was offered before. Within the session's deadline there is an answer.
    ///
    /// # Errors
    ///
    /// [`Gone`]. Nobody knows then whether the other end is open.
    pub async fn offer(&self, offer: Offer, keys: Option<Keys>) -> Result<Answer, Gone> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order { offer, keys, answer }).await.map_err(|_closed| Gone)?;
        answered.await.map_err(|_dropped| Gone)
    }
}
