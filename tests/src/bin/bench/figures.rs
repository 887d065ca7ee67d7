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
    /// From beginning to end.
    pub(crate) wall: f64,
    /// In which processors worked, all of them together.
    pub(crate) busy: f64,
    /// In which they waited.
    pub(crate) idle: f64,
}

/// What a nanosecond of the clock is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    /// An instruction, on one processor.
    Instructions,
    /// A nanosecond.
    Time,
}

impl Clock {
    /// What costs are told in.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Clock::Instructions => "instructions",
            Clock::Time => "nanoseconds",
        }
    }

    /// What a unit of a workload costs: work where that can be counted, and else the time that its user waits.
    fn of(self, cost: Cost) -> f64 {
        match self {
            Clock::Instructions => cost.busy,
            Clock::Time => cost.wall,
        }
    }
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
        let (wall, processors, idle) = (field("nanoseconds")?, field("processors")?, field("idle")?);
        Ok(Cost { wall, busy: wall * processors - idle, idle })
    }

    /// The cost of one of `units`, of which this cost more than `other`.
    pub(crate) fn beyond(self, other: Cost, units: u32) -> Cost {
        let each = |more: f64, less: f64| (more - less) / f64::from(units);
        Cost { wall: each(self.wall, other.wall), busy: each(self.busy, other.busy), idle: each(self.idle, other.idle) }
    }
}

impl Twice {
    fn mean(self) -> Cost {
        let [one, other] = self.0;
        let middle = |part: fn(Cost) -> f64| f64::midpoint(part(one), part(other));
        Cost { wall: middle(|cost| cost.wall), busy: middle(|cost| cost.busy), idle: middle(|cost| cost.idle) }
    }

    /// By which part the second differs from the first.
    fn difference(self, clock: Clock) -> f64 {
        let [one, other] = self.0.map(|cost| clock.of(cost));
        (other - one).abs() / one
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
    pub(crate) fn cost(&self, workload: Workload, path: Path, clock: Clock) -> Option<f64> {
        self.costs.get(&(workload, path)).map(|cost| clock.of(cost.mean()))
    }

    /// All of them, workload by workload.
    pub(crate) fn rows(&self, clock: Clock) -> Vec<Row> {
        let costs = self.costs.iter().flat_map(|((workload, path), cost)| self.of_cost(*workload, *path, *cost, clock));
        let memory = self.memory.iter().flat_map(|(path, bytes)| {
            let names = ["memory-client", "memory-server"];
            names.into_iter().zip(bytes).map(|(name, bytes)| Row::new(Workload::Idle, *path, name, *bytes, "bytes"))
        });
        costs.chain(memory).chain(self.held.rows()).collect()
    }

    fn of_cost(&self, workload: Workload, path: Path, cost: Twice, clock: Clock) -> Vec<Row> {
        let row = |figure, value, unit| Row::new(workload, path, figure, value, unit);
        let mean = cost.mean();
        let over = |part: &dyn Fn(Cost) -> f64| {
            [Path::Plain, Path::Floor].map(|base| Some(part(mean) / part(self.costs.get(&(workload, base))?.mean())))
        };
        let compared =
            |figure, part: &dyn Fn(Cost) -> f64| Row { ratios: over(part), ..row(figure, part(mean), clock.unit()) };
        let mut rows = vec![compared(clock.unit(), &|cost| clock.of(cost))];
        if clock == Clock::Time {
            rows.push(compared("work", &|cost| cost.busy));
        }
        rows.push(row("apart", cost.difference(clock) * 100.0, PERCENT));
        rows.extend(self.splits.rows(workload, path));
        if clock == Clock::Instructions && mean.idle > mean.busy * WORTH_SAYING {
            rows.push(row("waiting", mean.idle, "nanoseconds"));
        }
        rows
    }

    /// What differed too much to be a figure, and by which part. Time is never as steady as that.
    pub(crate) fn unsteady(&self, clock: Clock) -> Vec<(Workload, Path, f64)> {
        if clock == Clock::Time {
            return Vec::new();
        }
        let parts = self.costs.iter().map(|((workload, path), cost)| (*workload, *path, cost.difference(clock)));
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
        let cost = |busy| Cost { wall: busy, busy, idle: 0.0 };
        let mut figures = Figures::default();
        figures.add(Workload::Rt64, Path::Plain, Twice([cost(100.0), cost(101.0)]));
        assert_eq!(figures.unsteady(Clock::Instructions), []);
        figures.add(Workload::Rt64, Path::Relay, Twice([cost(100.0), cost(75.0)]));
        assert_eq!(figures.unsteady(Clock::Instructions), [(Workload::Rt64, Path::Relay, 0.25)]);
        assert_eq!(figures.unsteady(Clock::Time), []);
    }

    #[test]
    fn a_cost_is_the_mean_and_compared_with_what_was_measured() {
        let cost = |busy, idle| Cost { wall: busy + idle, busy, idle };
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
        assert_eq!(figures.rows(Clock::Instructions), expected);
    }

    #[test]
    fn on_a_clock_of_time_a_cost_is_what_its_user_waits_and_work_is_told_beside_it() {
        let cost = |wall, busy| Twice([Cost { wall, busy, idle: 0.0 }; 2]);
        let mut figures = Figures::default();
        figures.add(Workload::Rt64, Path::Plain, cost(20.0, 30.0));
        figures.add(Workload::Rt64, Path::Direct, cost(25.0, 45.0));
        let rows = figures.rows(Clock::Time);
        let told: Vec<_> = rows.iter().map(|row| (row.path, row.figure.as_str(), row.value, row.ratios[0])).collect();
        let expected = [
            (Path::Plain, "nanoseconds", 20.0, Some(1.0)),
            (Path::Plain, "work", 30.0, Some(1.0)),
            (Path::Plain, "apart", 0.0, None),
            (Path::Direct, "nanoseconds", 25.0, Some(1.25)),
            (Path::Direct, "work", 45.0, Some(1.5)),
            (Path::Direct, "apart", 0.0, None),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_unit_costs_what_the_longer_run_cost_more() {
        let watch = serde_json::json!({ "nanoseconds": 5000.0, "processors": 2, "idle": 1000 });
        let long = Cost::read(&watch).unwrap();
        assert_eq!(long, Cost { wall: 5000.0, busy: 9000.0, idle: 1000.0 });
        let short = Cost { wall: 1000.0, busy: 1000.0, idle: 0.0 };
        assert_eq!(long.beyond(short, 10), Cost { wall: 400.0, busy: 800.0, idle: 100.0 });
    }
}
