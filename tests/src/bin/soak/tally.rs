//! What became of everything: counted, and what was wrong kept to be shown.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use enforcer_tests::onlooker::Seen;

use crate::model::{Expected, Flow};

/// So many of what was wrong are shown, and so many actions before each.
const SHOWN: usize = 10;

/// The counts of one soak.
#[derive(Debug)]
pub(crate) struct Tally {
    started: Instant,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Counts {
    pub(crate) attempts: u64,
    pub(crate) succeeded: u64,
    pub(crate) refused: u64,
    /// In the window of a change, whatever came of them.
    pub(crate) either: u64,
    /// Questions on connections that are kept open.
    pub(crate) asked: u64,
    pub(crate) wrongly_refused: u64,
    pub(crate) wrongly_allowed: u64,
    /// What came is not what was sent.
    pub(crate) corrupt: u64,
    pub(crate) actions: BTreeMap<&'static str, u64>,
    history: VecDeque<String>,
    /// Not shown yet.
    unshown: Vec<String>,
}

/// How a connection ended, or a question on an open one.
#[derive(Debug)]
pub(crate) enum Ended {
    /// All that was sent has come.
    Well,
    /// It was refused or broke, and how.
    Refused(String),
    /// Something else has come.
    Corrupt(String),
}

impl Tally {
    pub(crate) fn new() -> Tally {
        Tally { started: Instant::now(), counts: Mutex::default() }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whatever the load has finished until now.
    pub(crate) fn progress(&self) -> u64 {
        let counts = self.counts();
        counts.attempts + counts.asked
    }

    pub(crate) fn action(&self, kind: &'static str, what: &str) {
        let mut counts = self.counts();
        *counts.actions.entry(kind).or_default() += 1;
        let line = self.line(what);
        counts.history.push_back(line);
        while counts.history.len() > SHOWN {
            counts.history.pop_front();
        }
    }

    /// Something about the action under way.
    pub(crate) fn remark(&self, what: &str) {
        let line = self.line(what);
        self.counts().history.push_back(line);
    }

    /// A connection from its beginning to its end.
    pub(crate) fn attempt(&self, (flow, what): (Flow, &str), expected: Expected, ended: &Ended, since: Instant) {
        self.counts().attempts += 1;
        self.judge((flow, what), expected, ended, since);
    }

    /// A question on an open connection.
    pub(crate) fn question(&self, (flow, what): (Flow, &str), expected: Expected, ended: &Ended, since: Instant) {
        self.counts().asked += 1;
        self.judge((flow, what), expected, ended, since);
    }

    fn judge(&self, (flow, what): (Flow, &str), expected: Expected, ended: &Ended, since: Instant) {
        let mut counts = self.counts();
        let wrong = match (expected, ended) {
            (_, Ended::Corrupt(how)) => {
                counts.corrupt += 1;
                Some(("corrupt", how.as_str()))
            }
            (Expected::Success, Ended::Refused(how)) => {
                counts.wrongly_refused += 1;
                Some(("wrongly refused", how.as_str()))
            }
            (Expected::Refusal, Ended::Well) => {
                counts.wrongly_allowed += 1;
                Some(("wrongly allowed", ""))
            }
            (Expected::Success, Ended::Well) => {
                counts.succeeded += 1;
                None
            }
            (Expected::Refusal, Ended::Refused(_)) => {
                counts.refused += 1;
                None
            }
            (Expected::Either, _) => {
                counts.either += 1;
                None
            }
        };
        if let Some((verdict, how)) = wrong {
            let took = since.elapsed().as_secs_f64();
            let history: Vec<_> = counts.history.iter().cloned().collect();
            let text = format!("{verdict}: {flow:?} {what}, after {took:.2} s {how}\n  {}", history.join("\n  "));
            let text = self.line(&text);
            counts.unshown.push(text);
        }
    }

    /// What was wrong and was not shown yet; beyond the first ones it is only counted.
    pub(crate) fn unshown(&self) -> Vec<String> {
        let mut counts = self.counts();
        let wrong = counts.wrongly_refused + counts.wrongly_allowed + counts.corrupt;
        let unshown = std::mem::take(&mut counts.unshown);
        if wrong > unshown.len() as u64 + SHOWN as u64 { Vec::new() } else { unshown }
    }

    fn line(&self, what: &str) -> String {
        format!("{:7.2} s  {what}", self.elapsed().as_secs_f64())
    }
}

impl Counts {
    /// One line about all until now.
    pub(crate) fn summary(&self, seen: &Seen) -> String {
        let actions: u64 = self.actions.values().sum();
        format!(
            "{} connections and {} questions on open ones: {} succeeded, {} refused as they had to be, {} during a change; {actions} \
             actions; {} packets, {} MiB seen; wrongly refused {}, wrongly allowed {}, corrupt {}, plaintext packets {}",
            self.attempts,
            self.asked,
            self.succeeded,
            self.refused,
            self.either,
            seen.packets,
            seen.octets >> 20,
            self.wrongly_refused,
            self.wrongly_allowed,
            self.corrupt,
            seen.plaintext,
        )
    }
}
