//! What something cost: the time it took, and how much of it the processors had nothing to do.
//!
//! The time of all processors less their idle time is the work of all processes and the kernel together, on a machine that
//! does nothing else.

use std::fs;
use std::thread::available_parallelism;
use std::time::Instant;

use serde_json::{Value, json};

/// Runs from its start until it is read.
#[derive(Debug)]
pub struct Stopwatch {
    idle: u64,
    started: Instant,
}

impl Stopwatch {
    /// From now on.
    #[must_use]
    pub fn start() -> Stopwatch {
        // The list of timers is long: what it costs to read it belongs outside.
        Stopwatch { idle: idle(), started: Instant::now() }
    }

    /// Nanoseconds since the start, on how many processors, and those of all processors without work.
    #[must_use]
    pub fn read(&self) -> Value {
        let elapsed = self.started.elapsed();
        let idle = idle().saturating_sub(self.idle);
        let processors = available_parallelism().map_or(1, usize::from);
        json!({ "nanoseconds": elapsed.as_secs_f64() * 1e9, "processors": processors, "idle": idle })
    }
}

/// Nanoseconds that processors have been idle since the start of the machine; 0 where the kernel does not tell.
fn idle() -> u64 {
    let told = |file| fs::read_to_string(file).unwrap_or_default();
    // Linux 7.2 does not tell it there any more, and elsewhere by the hundredth of a second.
    idle_in(&told("/proc/timer_list")).or_else(|| idle_since(&told("/proc/stat"))).unwrap_or_default()
}

/// The sum of all processors in a `/proc/timer_list`; one that waits for a disk is idle too.
fn idle_in(timers: &str) -> Option<u64> {
    let nanoseconds = |line: &str| {
        let (name, value) = line.trim().split_once(':')?;
        let idle = matches!(name.trim(), ".idle_sleeptime" | ".iowait_sleeptime");
        value.trim().strip_suffix(" nsecs").filter(|_| idle)?.parse::<u64>().ok()
    };
    timers.lines().filter_map(nanoseconds).reduce(u64::saturating_add)
}

/// The same in the first line of a `/proc/stat`, whose fourth and fifth number it is (proc(5)).
fn idle_since(start: &str) -> Option<u64> {
    const HUNDREDTH: u64 = 10_000_000;
    let numbers = start.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let idle: Option<u64> = numbers.skip(3).take(2).map(|number| number.parse::<u64>().ok()).sum();
    Some(idle? * HUNDREDTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_found_among_the_timers() {
        let timers = "cpu: 0\n  .idle_sleeps    : 3431\n  .idle_sleeptime : 999970856 nsecs\n\
                      \x20 .iowait_sleeptime: 144 nsecs\n  .last_jiffies   : 4295\n";
        assert_eq!(idle_in(timers), Some(999_971_000));
        assert_eq!(idle_in("cpu: 0\n  .idle_sleeps    : 0\n"), None);
    }

    #[test]
    fn idle_time_is_found_in_the_statistics() {
        assert_eq!(idle_since("cpu  2 0 292 82 1 0 0 0 0 0\ncpu0 2 0 292 82 1 0 0 0 0 0\n"), Some(830_000_000));
        assert_eq!(idle_since("cpu  2 0 292 82 x"), None);
        assert_eq!(idle_since(""), None);
    }
}
