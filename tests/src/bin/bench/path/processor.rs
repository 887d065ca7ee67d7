//! Processor time of control groups.

use std::fs;

use anyhow::{Context, Result};
use enforcer_tests::cgroup::Cgroup;

/// Nanoseconds that the processes of these groups have run outside of the kernel, those that have ended too.
pub(super) fn user_time(groups: &[&Cgroup]) -> Result<f64> {
    let times = groups.iter().map(|group| {
        let file = group.path().join("cpu.stat");
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        user(&text).with_context(|| format!("no user time in {}", file.display()))
    });
    times.sum()
}

fn user(stat: &str) -> Option<f64> {
    let microseconds: u32 = stat.lines().find_map(|line| line.strip_prefix("user_usec "))?.parse().ok()?;
    Some(f64::from(microseconds) * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_time_is_given_in_microseconds() {
        assert_eq!(user("usage_usec 5000\nuser_usec 1234\nsystem_usec 3766\n"), Some(1_234_000.0));
        assert_eq!(user("usage_usec 5000\n"), None);
    }
}
