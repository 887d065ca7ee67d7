//! Who works for one unit: the applications, the agents or sidecars between them, and the kernel for all of them.
//!
//! Control groups tell for how long their processes ran, and which part of that outside of the kernel. The part is an
//! estimate: at each tick the kernel looks where a process is. What is not outside of the kernel is inside, whoever it
//! is charged to, for a packet is received on account of whoever happens to run.

use std::collections::BTreeMap;

use crate::path::Path;
use crate::rows::Row;
use crate::workload::Workload;

/// Nanoseconds of work.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Split {
    /// Of the applications, outside of the kernel.
    pub(crate) applications: f64,
    /// Of agents or sidecars, outside of the kernel.
    pub(crate) proxies: f64,
    /// All other work.
    pub(crate) kernel: f64,
}

/// That of one unit of each workload on each path.
#[derive(Debug, Default)]
pub(crate) struct Splits(BTreeMap<(Workload, Path), Split>);

impl Split {
    /// From nanoseconds outside of the kernel, of applications and of proxies, and the work in all.
    pub(super) fn of([applications, proxies]: [f64; 2], busy: f64) -> Split {
        Split { applications, proxies, kernel: busy - applications - proxies }
    }
}

impl Splits {
    pub(super) fn add(&mut self, workload: Workload, path: Path, split: Split) {
        self.0.insert((workload, path), split);
    }

    /// As figures; none where it was not measured.
    pub(crate) fn rows(&self, workload: Workload, path: Path, unit: &'static str) -> Vec<Row> {
        let split = self.0.get(&(workload, path));
        let parts = split.map(|split| [split.applications, split.proxies, split.kernel]);
        let named = parts.into_iter().flat_map(|parts| NAMES.into_iter().zip(parts));
        named.map(|(name, part)| Row::new(workload, path, name, part, unit)).collect()
    }
}

/// What the parts are called as figures.
const NAMES: [&str; 3] = ["work-applications", "work-proxies", "work-kernel"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_did_outside_of_the_kernel_was_done_in_it() {
        let split = Split::of([10.0, 30.0], 100.0);
        assert_eq!(split, Split { applications: 10.0, proxies: 30.0, kernel: 60.0 });
        let mut splits = Splits::default();
        splits.add(Workload::Rt64, Path::Relay, split);
        let rows = splits.rows(Workload::Rt64, Path::Relay, "instructions");
        let told: Vec<_> = rows.iter().map(|row| (row.figure.as_str(), row.value)).collect();
        assert_eq!(told, [("work-applications", 10.0), ("work-proxies", 30.0), ("work-kernel", 60.0)]);
        assert_eq!(splits.rows(Workload::Rt1k, Path::Relay, "instructions"), []);
    }
}
