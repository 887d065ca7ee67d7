//! Who works: the applications, the agents or sidecars between them, and the kernel for all of them.
//!
//! Control groups tell for how long their processes ran, and which part of that outside of the kernel. The part is an
//! estimate: at each tick, which is every four milliseconds, the kernel looks where a process is. A run has some hundred
//! of them, so that a share is right within some hundredths.

use std::collections::BTreeMap;
use std::ops::{Add, Sub};
use std::thread;

use crate::path::{Path, Time};
use crate::rows::{PERCENT, Row};
use crate::workload::Workload;

/// Nanoseconds of work.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Split {
    /// Of the applications, outside of the kernel.
    applications: f64,
    /// Of agents or sidecars, outside of the kernel.
    proxies: f64,
    /// In the kernel.
    kernel: f64,
}

/// That of each workload on each path.
#[derive(Debug, Default)]
pub(crate) struct Splits(BTreeMap<(Workload, Path), Split>);

impl Split {
    /// What applications and proxies did in between, and `busy`, the work in all.
    ///
    /// A packet is received, and a tunnel encrypts, on account of whoever happens to run. So where there is one processor,
    /// what is not outside of the kernel is inside. With several, nobody knows the work in all: then it is what the
    /// kernel did on account of these processes.
    pub(super) fn between(before: [Time; 2], after: [Time; 2], busy: f64) -> Split {
        let [applications, proxies] = [0, 1].map(|who: usize| after[who].user - before[who].user);
        let charged: f64 = [0, 1].map(|who: usize| after[who].system - before[who].system).iter().sum();
        let is_alone = thread::available_parallelism().is_ok_and(|processors| processors.get() == 1);
        Split { applications, proxies, kernel: if is_alone { busy - applications - proxies } else { charged } }
    }

    /// In hundredths. As an estimate, what is next to nothing may come out as less.
    fn shares(self) -> [f64; 3] {
        let shares = [self.applications, self.proxies, self.kernel].map(|share| share.max(0.0));
        shares.map(|share| share / shares.iter().sum::<f64>() * 100.0)
    }
}

impl Add for Split {
    type Output = Split;

    fn add(self, other: Split) -> Split {
        Split {
            applications: self.applications + other.applications,
            proxies: self.proxies + other.proxies,
            kernel: self.kernel + other.kernel,
        }
    }
}

impl Sub for Split {
    type Output = Split;

    fn sub(self, other: Split) -> Split {
        Split {
            applications: self.applications - other.applications,
            proxies: self.proxies - other.proxies,
            kernel: self.kernel - other.kernel,
        }
    }
}

impl Splits {
    pub(super) fn add(&mut self, workload: Workload, path: Path, split: Split) {
        self.0.insert((workload, path), split);
    }

    /// As figures, in hundredths of the cost; none where it was not measured.
    pub(crate) fn rows(&self, workload: Workload, path: Path) -> Vec<Row> {
        let shares = self.0.get(&(workload, path)).map(|split| split.shares());
        let named = shares.into_iter().flat_map(|shares| NAMES.into_iter().zip(shares));
        named.map(|(name, share)| Row::new(workload, path, name, share, PERCENT)).collect()
    }
}

/// What shares are called as figures.
const NAMES: [&str; 3] = ["work-applications", "work-proxies", "work-kernel"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_what_was_done_in_all() {
        let split = Split { applications: 10.0, proxies: 30.0, kernel: 160.0 };
        assert_eq!(split.shares(), [5.0, 15.0, 80.0]);
        assert_eq!((split + split - split).shares(), split.shares());
        let estimate = Split { applications: -2.0, proxies: 50.0, kernel: 150.0 };
        assert_eq!(estimate.shares(), [0.0, 25.0, 75.0]);
        let mut splits = Splits::default();
        splits.add(Workload::Rt64, Path::Relay, split);
        let rows = splits.rows(Workload::Rt64, Path::Relay);
        let told: Vec<_> = rows.iter().map(|row| (row.figure.as_str(), row.value)).collect();
        assert_eq!(told, [("work-applications", 5.0), ("work-proxies", 15.0), ("work-kernel", 80.0)]);
        assert_eq!(splits.rows(Workload::Rt1k, Path::Relay), []);
    }

    #[test]
    fn work_is_what_came_between() {
        let before = [Time { user: 5.0, system: 1.0 }, Time::default()];
        let after = [Time { user: 15.0, system: 21.0 }, Time { user: 30.0, system: 40.0 }];
        let split = Split::between(before, after, 100.0);
        assert_eq!([split.applications, split.proxies, split.kernel], [10.0, 30.0, 60.0]);
    }
}
