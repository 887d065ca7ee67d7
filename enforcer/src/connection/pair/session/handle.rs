//! The side of a pair session that the rest of the agent holds.

use std::sync::Arc;

use enforcer_ebpf::Reason;
use tokio::sync::{mpsc, oneshot};

use crate::connection::pair::{Connection, Facts, Keys, Message, Offer, Role};

/// Orders to a running session. The session ends when the last handle is dropped.
#[derive(Clone)]
pub struct Handle {
    pub(super) role: Role,
    pub(super) facts: Arc<Facts>,
    pub(super) orders: mpsc::Sender<Order>,
}

/// A handle that does not keep its session alive: for the session's own [`Ends`](super::Ends), which would hold
/// themselves otherwise.
#[derive(Clone)]
pub struct WeakHandle {
    role: Role,
    facts: Arc<Facts>,
    orders: mpsc::WeakSender<Order>,
}

impl WeakHandle {
    /// What its handshake has settled.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Which end of the session this agent is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// The session, if somebody still holds it.
    #[must_use]
    pub fn upgrade(&self) -> Option<Handle> {
        Some(Handle { role: self.role, facts: Arc::clone(&self.facts), orders: self.orders.upgrade()? })
    }
}

/// The session ended, or ends before this is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pair session has ended")]
pub struct Gone;

/// What a handle asks of the session's task.
pub(super) enum Order {
    Offer { connection: Connection, answer: oneshot::Sender<Answer> },
    Install { number: u64, opened: oneshot::Sender<Opening> },
    Say(Message),
}

/// How an installed connection went on: the other end is open, or the number of the reason why it is not.
pub type Opening = Result<(), u32>;

/// How an offer ended: with the keys of the connection, or with the number of the reason why there are none.
pub type Answer = Result<(Offer, Keys), u32>;

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
        WeakHandle { role: self.role, facts: Arc::clone(&self.facts), orders: self.orders.downgrade() }
    }

    /// Whether the session has ended. One that has not may do so at any moment.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.orders.is_closed()
    }

    /// Offers a connection. The keys come when the other end has them; within
    /// the session's deadline there is an answer.
    ///
    /// # Errors
    ///
    /// [`Gone`].
    pub async fn offer(&self, connection: Connection) -> Result<Answer, Gone> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order::Offer { connection, answer }).await.map_err(|_closed| Gone)?;
        answered.await.map_err(|_dropped| Gone)
    }

    /// Says that our end of a connection that we offered has its keys too. The answer comes when the other end is open;
    /// within the session's deadline there is one.
    ///
    /// # Errors
    ///
    /// [`Gone`].
    pub async fn installed(&self, number: u64) -> Result<Opening, Gone> {
        let (opened, answered) = oneshot::channel();
        self.orders.send(Order::Install { number, opened }).await.map_err(|_closed| Gone)?;
        answered.await.map_err(|_dropped| Gone)
    }

    /// Says that a connection ended before it was open.
    ///
    /// # Errors
    ///
    /// [`Gone`].
    pub async fn abort(&self, offer: &Offer, reason: Reason) -> Result<(), Gone> {
        self.say(Message::Abort { by: offer.by, number: offer.number, reason: reason as u32 }).await
    }

    /// Says that our end of an open connection was closed.
    ///
    /// # Errors
    ///
    /// [`Gone`].
    pub async fn closed(&self, offer: &Offer, reason: Reason) -> Result<(), Gone> {
        self.say(Message::Closed { by: offer.by, number: offer.number, reason: reason as u32 }).await
    }

    async fn say(&self, message: Message) -> Result<(), Gone> {
        self.orders.send(Order::Say(message)).await.map_err(|_closed| Gone)
    }
}
