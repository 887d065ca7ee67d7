//! How other agents take connections, as far as this one has heard. The relay has to know: it offers a connection to who
//! wants it offered, and shakes hands in the connection itself with everybody else.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use enforcer_ebpf::Reason;
use tokio::time::Instant;

use super::Offers;
use crate::connection::pair::{Pair, Takes};
use crate::identity::Identity;

/// How long an agent that does not answer is not asked again, at least and at most: a connection would wait for it each time.
const SILENCE: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(10)];
/// So many times longer than it has let a connection wait. One whose machine refuses at once may be about to start.
const PATIENCE: u32 = 10;

/// What was heard, by identities and agent: hardly more than the registry has.
#[derive(Default)]
pub struct Known(Mutex<HashMap<(Pair, SocketAddr), Heard>>);

#[derive(Clone, Copy)]
enum Heard {
    Takes(Takes),
    /// Nothing, and it is not asked until then.
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
    ///
    /// # Errors
    ///
    /// [`Reason::PeerRefused`]: it is there, and does not want this pair. It would not in the connection either, and is asked
    /// anew for each: from one moment to the next it may want all of them offered.
    pub(in crate::connection) async fn takes(&self, whose: &Pair, agent: SocketAddr) -> Result<Takes, Reason> {
        let before = self.known.get(whose, agent);
        let asked = Instant::now();
        if let Some(Heard::Silence(until)) = before
            && asked < until
        {
            return Ok(Takes::Relayed);
        }
        let heard = match (self.heard(whose, agent).await, before) {
            (Err(Reason::PeerRefused), _) => return Err(Reason::PeerRefused),
            (Ok(takes), _) | (Err(_), Some(Heard::Takes(takes))) => Heard::Takes(takes),
            (Err(_), _) => Heard::Silence(Instant::now() + silence(asked.elapsed())),
        };
        self.known.set(whose, agent, heard);
        match heard {
            Heard::Takes(takes) => Ok(takes),
            Heard::Silence(_) => Ok(Takes::Relayed),
        }
    }

    /// What it says now. When it refuses it is asked once more: the first answer may be to somebody who asked before.
    async fn heard(&self, whose: &Pair, agent: SocketAddr) -> Result<Takes, Reason> {
        let session = match self.sessions.get(whose, agent).await {
            Err(Reason::PeerRefused) => self.sessions.get(whose, agent).await,
            answered => answered,
        };
        Ok(session?.facts().takes)
    }
}

/// How long an agent is left alone that has let somebody wait in vain for so long.
fn silence(waited: Duration) -> Duration {
    let [least, most] = SILENCE;
    waited.saturating_mul(PATIENCE).clamp(least, most)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_keeps_nobody_waiting_is_soon_asked_again() {
        let seconds = |waited: f64| silence(Duration::from_secs_f64(waited)).as_secs_f64();
        assert_eq!([0.0, 0.001, 0.05, 0.5, 5.0, 1e9].map(seconds), [0.1, 0.1, 0.5, 5.0, 10.0, 10.0]);
    }
}
