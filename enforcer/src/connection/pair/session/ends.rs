//! What a session needs of the agent that it is part of.

use std::future::Future;

use enforcer_ebpf::Reason;

use crate::connection::pair::{Keys, Offer};

/// A connection to one of our workloads, as the other agent offers it.
pub struct Offered {
    /// The connection, and the number that it has in this session.
    pub offer: Offer,
    /// What the other end has already.
    pub keys: Keys,
    /// The offer was made in another session before, which was lost: it may have been taken there.
    pub again: bool,
}

/// What a session asks of its agent about the ends of connections that are this agent's.
pub trait Ends: Send + Sync + 'static {
    /// The other agent offers a connection to one of our workloads. Ready when our end has its keys and is open; an error
    /// refuses the offer. Dropped when the offer is withdrawn, its time is over or the session ends.
    fn answer(&self, offered: Offered) -> impl Future<Output = Result<(), Reason>> + Send;
}
