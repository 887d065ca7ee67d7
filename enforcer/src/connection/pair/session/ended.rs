//! How a pair session comes to its end.

use std::io;

use tokio::task::JoinError;

use crate::connection::pair::{Error, Malformed};

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// This agent let go of it.
    #[error("closed by this agent")]
    Here,
    /// A certificate that it was made with has run out.
    #[error("certificate of one end has expired")]
    Expired,
    /// A certificate that it was made with was revoked.
    #[error("certificate of one end is revoked")]
    Revoked,
    /// The other agent closed it in order, or the connection was lost.
    #[error("receive from or send to other agent")]
    Lost(#[source] io::Error),
    /// The other agent has read nothing for ten seconds, or too much waits for it.
    #[error("other agent does not read what is sent to it")]
    Stalled,
    /// The other agent does not speak as it should.
    #[error("other agent sent what is no message")]
    Malformed(#[from] Malformed),
    /// The other agent answered or opened what was not offered, or gave a number twice.
    #[error("other agent sent a message out of place: {0} {1}")]
    OutOfPlace(&'static str, u64),
    /// No keys can be made.
    #[error("make keys of an offer")]
    Keys(#[from] Error),
    /// Answering panicked.
    #[error("answer an offer")]
    Answer(#[from] JoinError),
}
