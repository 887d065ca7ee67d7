//! What was measured.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::path::Path;
use crate::rows::{PERCENT, Row};
use crate::workload::Workload;
use crate::workload::idle::Held;
use crate::workload::split::Splits;

/// Nanoseconds, which are instructions where the clock counts those.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cost {
    /// In which the processor worked.
    pub(crate) busy: f64,
    /// In which it waited.
    pub(crate) idle: f64,
}

/// The same measured once more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Twice(pub(crate) [Cost; 2]);

/// Everything measured so far.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    costs: BTreeMap<(Workload, Path), Twice>,
    /// Bytes of memory that a connection costs the agents of client and server.
    memory: BTreeMap<Path, [f64; 2]>,
    /// Their memory with so many connections.
    pub(crate) held: Held,
    /// Who works.
    pub(crate) splits: Splits,
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

impl Twice {
    fn mean(self) -> Cost {
        let [one, other] = self.0;
        Cost { busy: f64::midpoint(one.busy, other.busy), idle: f64::midpoint(one.idle, other.idle) }
    }

    /// By which part the second differs from the first.
    fn difference(self) -> f64 {
        let [one, other] = self.0;
        (other.busy - one.busy).abs() / one.busy
    }
}

impl Figures {
    pub(crate) fn add(&mut self, workload: Workload, path: Path, cost: Twice) {
        self.costs.insert((workload, path), cost);
    }

    pub(crate) fn remember(&mut self, path: Path, bytes: [f64; 2]) {
        self.memory.insert(path, bytes);
    }

    /// What one unit of a workload costs.
    pub(crate) fn cost(&self, workload: Workload, path: Path) -> Option<f64> {
        self.costs.get(&(workload, path)).map(|cost| cost.mean().busy)
    }

    /// All of them, workload by workload; `unit` is what a nanosecond of this clock is.
    pub(crate) fn rows(&self, unit: &'static str) -> Vec<Row> {
        let costs = self.costs.iter().flat_map(|((workload, path), cost)| self.of_cost(*workload, *path, *cost, unit));
        let memory = self.memory.iter().flat_map(|(path, bytes)| {
            let names = ["memory-client", "memory-server"];
            names.into_iter().zip(bytes).map(|(name, bytes)| Row::new(Workload::Idle, *path, name, *bytes, "bytes"))
        });
        costs.chain(memory).chain(self.held.rows()).collect()
    }

    fn of_cost(&self, workload: Workload, path: Path, cost: Twice, unit: &'static str) -> Vec<Row> {
        let row = |figure, value, unit| Row::new(workload, path, figure, value, unit);
        let Cost { busy, idle } = cost.mean();
        let over = |base| Some(busy / self.cost(workload, base)?);
        let mut rows = vec![
            Row { ratios: [Path::Plain, Path::Floor].map(over), ..row(unit, busy, unit) },
            row("apart", cost.difference() * 100.0, PERCENT),
        ];
        rows.extend(self.splits.rows(workload, path));
        if idle > busy * WORTH_SAYING {
            rows.push(row("waiting", idle, "nanoseconds"));
        }
        rows
    }

    /// What differed too much to be a figure, and by which part.
    pub(crate) fn unsteady(&self) -> Vec<(Workload, Path, f64)> {
        let parts = self.costs.iter().map(|((workload, path), cost)| (*workload, *path, cost.difference()));
        parts.filter(|(workload, _, part)| *part > workload.tolerance()).collect()
    }
}

/// Idle time is a figure where it is more than this part of the cost.
const WORTH_SAYING: f64 = 0.01;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_too_much_is_named() {
        let cost = |busy| Cost { busy, idle: 0.0 };
        let mut figures = Figures::default();
        figures.add(Workload::Rt64, Path::Plain, Twice([cost(100.0), cost(101.0)]));
        assert_eq!(figures.unsteady(), []);
        figures.add(Workload::Rt64, Path::Relay, Twice([cost(100.0), cost(75.0)]));
        assert_eq!(figures.unsteady(), [(Workload::Rt64, Path::Relay, 0.25)]);
    }

    #[test]
    fn a_cost_is_the_mean_and_compared_with_what_was_measured() {
        let cost = |busy, idle| Cost { busy, idle };
        let mut figures = Figures::default();
        figures.add(Workload::Rt64, Path::Plain, Twice([cost(50.0, 0.0); 2]));
        figures.add(Workload::Rt64, Path::Relay, Twice([cost(100.0, 9.0), cost(75.0, 9.0)]));
        figures.remember(Path::Relay, [600.0, 700.0]);
        let row = |path, figure, value, unit| Row::new(Workload::Rt64, path, figure, value, unit);
        let compared = |row, x_plain| Row { ratios: [Some(x_plain), None], ..row };
        let memory = |figure, bytes| Row::new(Workload::Idle, Path::Relay, figure, bytes, "bytes");
        let expected = [
            compared(row(Path::Plain, "instructions", 50.0, "instructions"), 1.0),
            row(Path::Plain, "apart", 0.0, "%"),
            compared(row(Path::Relay, "instructions", 87.5, "instructions"), 1.75),
            row(Path::Relay, "apart", 25.0, "%"),
            row(Path::Relay, "waiting", 9.0, "nanoseconds"),
            memory("memory-client", 600.0),
            memory("memory-server", 700.0),
        ];
        assert_eq!(figures.rows("instructions"), expected);
    }

    #[test]
    fn a_unit_costs_what_the_longer_run_cost_more() {
        let watch = serde_json::json!({ "nanoseconds": 5000.0, "idle": 1000 });
        let long = Cost::read(&watch).unwrap();
        assert_eq!(long, Cost { busy: 4000.0, idle: 1000.0 });
        assert_eq!(long.beyond(Cost { busy: 1000.0, idle: 0.0 }, 10), Cost { busy: 300.0, idle: 100.0 });
    }
}
