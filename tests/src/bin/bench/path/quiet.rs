//! Waiting for the kernel to be done with what was there before.
//!
//! When agents are taken down the kernel frees their maps and programs later, for some seconds, and whoever is measured
//! meanwhile pays for it: a round trip with kernel TLS by hand, right after a node with an agent, came out 8 % dearer (6.12).

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use enforcer_tests::{settings, wait};

/// For how long it must have been quiet.
const WINDOW: Duration = Duration::from_secs(1);
/// The part of it in which a quiet machine works at most. Its clock has ticks of a hundredth.
const QUIET: f64 = 0.025;

/// Returns when the machine has nothing to do. Only where the processor is emulated: nobody else works on such a machine.
pub(crate) fn settle() -> Result<()> {
    if settings::is_quick() {
        return Ok(());
    }
    let (mut since, mut before) = (Instant::now(), Ticks::now()?);
    wait::until("the machine to be quiet", wait::patience(), || {
        if since.elapsed() < WINDOW {
            return Ok(None);
        }
        let now = Ticks::now()?;
        let is_quiet = now.busy_since(before) <= QUIET;
        (since, before) = (Instant::now(), now);
        Ok(is_quiet.then_some(()))
    })
}

/// How often the processors were found at work, and in all, since the machine started.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Ticks {
    busy: f64,
    all: f64,
}

impl Ticks {
    fn now() -> Result<Ticks> {
        let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        Ticks::read(&text).with_context(|| format!("no ticks in /proc/stat: {:?}", text.lines().next()))
    }

    /// From the first line of proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal; what comes after is in
    /// these already.
    fn read(text: &str) -> Option<Ticks> {
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<f64> = line.split_whitespace().take(8).map(|word| word.parse().ok()).collect::<Option<_>>()?;
        let idle = ticks.get(3)? + ticks.get(4)?;
        let all: f64 = ticks.iter().sum();
        Some(Ticks { busy: all - idle, all })
    }

    /// The part of the time since then in which they worked.
    fn busy_since(self, before: Ticks) -> f64 {
        (self.busy - before.busy) / (self.all - before.all).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_idle_nor_waiting_is_work() {
        let before = Ticks::read("cpu  100 0 50 800 50 0 0 0 7 7\ncpu0 1 1 1 1\n").unwrap();
        assert_eq!(before, Ticks { busy: 150.0, all: 1000.0 });
        let after = Ticks::read("cpu  101 0 52 890 55 1 1 0 9 9\n").unwrap();
        assert_eq!(after.busy_since(before), 0.05);
        assert_eq!(before.busy_since(before), 0.0);
        assert_eq!([Ticks::read(""), Ticks::read("cpu 1 2 3\n"), Ticks::read("cpu 1 2 3 x 5 6 7 8\n")], [None; 3]);
    }
}
