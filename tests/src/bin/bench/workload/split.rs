//! Who works for one unit: the applications, the agents or sidecars between them, and the kernel for all of them.
//!
//! Control groups tell for how long their processes ran, and which part of that outside of the kernel. The part is an
//! estimate: at each tick, which is every four milliseconds, the kernel looks where a process is. A run has some hundred
//! of them, so that a share is right within some hundredths. What is not outside of the kernel is inside, whoever it is
//! charged to, for a packet is received on account of whoever happens to run.

use std::collections::BTreeMap;

use crate::path::Path;
use crate::report::table;
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

    /// A table in Markdown for one workload; nothing where nothing was measured.
    pub(crate) fn text(&self, workload: Workload) -> String {
        let splits = self.0.iter().filter(|((of, _), _)| *of == workload);
        let rows: Vec<_> = splits
            .map(|((_, path), split)| {
                let all = split.applications + split.proxies + split.kernel;
                let shares = [split.applications, split.proxies, split.kernel];
                let shares = shares.map(|share| format!("{:.0} %", share / all * 100.0));
                [vec![path.to_string()], shares.to_vec()].concat()
            })
            .collect();
        if rows.is_empty() {
            return String::new();
        }
        let heads = ["path", "applications", "agents or sidecars", "kernel"];
        format!("\nWho needs them, within some hundredths:\n\n{}", table(&heads, rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_did_outside_of_the_kernel_was_done_in_it() {
        let split = Split::of([10.0, 30.0], 100.0);
        assert_eq!(split, Split { applications: 10.0, proxies: 30.0, kernel: 60.0 });
        let mut splits = Splits::default();
        splits.add(Workload::Rt64, Path::Relay, split);
        assert!(splits.text(Workload::Rt64).contains("|         10 % |               30 % |   60 % |"));
        assert_eq!(splits.text(Workload::Rt1k), "");
    }
}
