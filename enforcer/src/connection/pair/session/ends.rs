//! What a session needs of the agent that it is part of.

use std::future::Future;

use enforcer_ebpf::Reason;

use crate::connection::pair::{Keys, Offer, Role};

/// What a session asks of its agent about the ends of connections that are this agent's.
pub trait Ends: Send + Sync + 'static {
    /// The other agent offers a connection to one of our workloads. Ready when our end has its keys; an error refuses
    /// the offer. Dropped when the offer is withdrawn, its time is over or the session ends.
    fn answer(&self, offer: Offer, keys: Keys) -> impl Future<Output = Result<(), Reason>> + Send;

    /// Both ends of a connection that the other agent offered have their keys: ours is to be opened, before the other
    /// one is.
    ///
    /// # Errors
    ///
    /// Why it is not open. The other agent is told.
    fn open(&self, offer: &Offer) -> Result<(), Reason>;

    /// A connection that was accepted, or is open, is over: the other agent has ended it, or its time was over before
    /// it was open. The reason is a number of [`Reason`], as the agent that gives it knows it. May also name one that
    /// never came so far, when both agents give it up at once.
    fn ended(&self, by: Role, number: u64, reason: u32);
}
