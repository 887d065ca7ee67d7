//! What was measured.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::path::Path;
use crate::workload::Workload;

/// Nanoseconds, which are instructions where the clock counts those.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cost {
    /// In which the processor worked.
    pub(crate) busy: f64,
    /// In which it waited.
    pub(crate) idle: f64,
}

/// Everything measured so far.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    costs: BTreeMap<(Workload, Path), Cost>,
    /// By how much the same measurement differed when it was made twice, at most.
    repeats: BTreeMap<Workload, f64>,
    /// Bytes of memory that a connection costs the agents of client and server.
    memory: BTreeMap<Path, [f64; 2]>,
}

impl Cost {
    /// From what a client's stopwatch says.
    pub(crate) fn read(watch: &Value) -> Result<Cost> {
        let field = |name: &str| watch[name].as_f64().with_context(|| format!("no {name} in {watch}"));
        let (all, idle) = (field("nanoseconds")?, field("idle")?);
        Ok(Cost { busy: all - idle, idle })
    }

    /// The cost of one of `units`, of which this cost more than `other`.
    pub(crate) fn beyond(self, other: Cost, units: u32) -> Cost {
        let each = |more: f64, less: f64| (more - less) / f64::from(units);
        Cost { busy: each(self.busy, other.busy), idle: each(self.idle, other.idle) }
    }
}

impl Figures {
    pub(crate) fn add(&mut self, workload: Workload, path: Path, cost: Cost) {
        self.costs.insert((workload, path), cost);
    }

    /// Notes that two measurements of the same differed by this part.
    pub(crate) fn repeated(&mut self, workload: Workload, difference: f64) {
        let most = self.repeats.entry(workload).or_default();
        *most = most.max(difference);
    }

    pub(crate) fn remember(&mut self, path: Path, bytes: [f64; 2]) {
        self.memory.insert(path, bytes);
    }

    /// What one unit of a workload costs.
    pub(crate) fn cost(&self, workload: Workload, path: Path) -> Option<Cost> {
        self.costs.get(&(workload, path)).copied()
    }

    /// By how much a workload differed at most when it was measured twice.
    pub(crate) fn repeat(&self, workload: Workload) -> Option<f64> {
        self.repeats.get(&workload).copied()
    }

    /// Memory of a connection on both nodes.
    pub(crate) fn memory(&self, path: Path) -> Option<[f64; 2]> {
        self.memory.get(&path).copied()
    }

    /// The paths with figures for this workload.
    pub(crate) fn paths(&self, workload: Workload) -> Vec<Path> {
        self.costs.keys().filter(|(of, _)| *of == workload).map(|(_, path)| *path).collect()
    }

    /// The paths whose memory was measured.
    pub(crate) fn remembered(&self) -> Vec<Path> {
        self.memory.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_costs_what_the_longer_run_cost_more() {
        let watch = serde_json::json!({ "nanoseconds": 5000.0, "idle": 1000 });
        let long = Cost::read(&watch).unwrap();
        assert_eq!(long, Cost { busy: 4000.0, idle: 1000.0 });
        assert_eq!(long.beyond(Cost { busy: 1000.0, idle: 0.0 }, 10), Cost { busy: 300.0, idle: 100.0 });
    }
}
