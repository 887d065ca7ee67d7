//! How often each node may ask: a bucket of turns that fills up again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Turns that somebody may have saved.
const MOST: f64 = 512.0;
/// Turns that come back each second.
const PER_SECOND: f64 = 32.0;

/// Turns by who takes them. Names come from the configuration, so there are never more than it has.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<String, Bucket>>);

#[derive(Clone, Copy, Debug)]
struct Bucket {
    turns: f64,
    since: Instant,
}

impl Turns {
    /// Takes a turn. False: there is none.
    pub(super) fn take(&self, who: &str, now: Instant) -> bool {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !buckets.contains_key(who) {
            buckets.insert(who.to_owned(), Bucket { turns: MOST, since: now });
        }
        buckets.get_mut(who).is_some_and(|bucket| bucket.take(now))
    }
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        let back = now.saturating_duration_since(self.since).as_secs_f64() * PER_SECOND;
        self.turns = (self.turns + back).min(MOST);
        self.since = now;
        let taken = self.turns >= 1.0;
        if taken {
            self.turns -= 1.0;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn turns_run_out_and_come_back() {
        let (turns, start) = (Turns::default(), Instant::now());
        let taken = (0..1000).filter(|_| turns.take("a", start)).count();
        assert_eq!(taken, 512);
        assert!(turns.take("b", start), "another node has turns of its own");
        let later = start + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| turns.take("a", later)).count(), 32);
    }
}
