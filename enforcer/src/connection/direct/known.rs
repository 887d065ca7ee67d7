//! How other agents take connections, as far as this one has heard. The relay has to know: it offers a connection to who
//! wants it offered, and shakes hands in the connection itself with everybody else.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Offers;
use crate::connection::pair::{Pair, Takes};
use crate::identity::Identity;

/// How long an agent that does not answer is not asked again: a connection would wait for it each time.
const SILENCE: Duration = Duration::from_secs(10);

/// What was heard, by identities and agent: hardly more than the registry has.
#[derive(Default)]
pub struct Known(Mutex<HashMap<(Pair, SocketAddr), Heard>>);

#[derive(Clone, Copy)]
enum Heard {
    Takes(Takes),
    /// Nothing, since then.
    Silence(Instant),
}

impl Offers {
    /// Forgets those that the registry has no more.
    pub(in crate::connection) fn forget_unknown(&self) {
        let picture = self.direct.current.picture();
        let registered: HashSet<(&Identity, SocketAddr)> =
            picture.snapshot.peers().iter().filter_map(|peer| peer.speaks.identity().zip(peer.agent)).collect();
        let mut known = self.known.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(whose, agent), _| registered.contains(&(&whose.remote, *agent)));
    }

    /// How the agent takes connections to `whose.remote`. One that is away takes them as it did when it was there; one
    /// that was never there is taken for one without pair sessions.
    pub(in crate::connection) async fn takes(&self, whose: &Pair, agent: SocketAddr) -> Takes {
        let before = self.known.get(whose, agent);
        if let Some(Heard::Silence(since)) = before
            && since.elapsed() < SILENCE
        {
            return Takes::Relayed;
        }
        let heard = match (self.sessions.get(whose, agent).await, before) {
            (Ok(session), _) => Heard::Takes(session.facts().takes),
            (Err(_), Some(Heard::Takes(takes))) => Heard::Takes(takes),
            (Err(_), _) => Heard::Silence(Instant::now()),
        };
        self.known.set(whose, agent, heard);
        match heard {
            Heard::Takes(takes) => takes,
            Heard::Silence(_) => Takes::Relayed,
        }
    }
}

impl Known {
    fn get(&self, whose: &Pair, agent: SocketAddr) -> Option<Heard> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&(whose.clone(), agent)).copied()
    }

    fn set(&self, whose: &Pair, agent: SocketAddr, heard: Heard) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert((whose.clone(), agent), heard);
    }
}
