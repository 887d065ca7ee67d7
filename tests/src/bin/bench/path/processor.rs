//! Processor time of control groups.

use std::fs;

use anyhow::{Context, Result};
use enforcer_tests::cgroup::Cgroup;

/// Nanoseconds that the processes of these groups have run, those that have ended too.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Time {
    /// Outside of the kernel.
    pub(crate) user: f64,
    /// In the kernel.
    pub(crate) system: f64,
}

impl Time {
    /// Until now.
    pub(super) fn of(groups: &[&Cgroup]) -> Result<Time> {
        groups.iter().try_fold(Time::default(), |sum, group| {
            let file = group.path().join("cpu.stat");
            let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
            let time = Time::read(&text).with_context(|| format!("no times in {}", file.display()))?;
            Ok(Time { user: sum.user + time.user, system: sum.system + time.system })
        })
    }

    fn read(stat: &str) -> Option<Time> {
        let nanoseconds = |name| {
            let microseconds: u32 = stat.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()?;
            Some(f64::from(microseconds) * 1e3)
        };
        Some(Time { user: nanoseconds("user_usec ")?, system: nanoseconds("system_usec ")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_given_in_microseconds() {
        let time = Time::read("usage_usec 5000\nuser_usec 1234\nsystem_usec 3766\n");
        assert_eq!(time, Some(Time { user: 1_234_000.0, system: 3_766_000.0 }));
        assert_eq!(Time::read("usage_usec 5000\n"), None);
    }
}
