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

/// The same measured several times, at least twice; in the order of work.
#[derive(Debug, Clone)]
pub(crate) struct Repeated(Vec<Cost>);

/// Everything measured so far.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    costs: BTreeMap<(Workload, Path), Repeated>,
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

impl Repeated {
    /// Measures twice, and where the two differ by a greater part than this, [`OFTEN`] times.
    pub(crate) fn measure(tolerance: f64, mut once: impl FnMut() -> Result<Cost>) -> Result<Repeated> {
        let mut repeated = Repeated(vec![once()?, once()?]);
        if repeated.difference(Clock::Instructions) > tolerance {
            while repeated.0.len() < OFTEN {
                repeated.0.push(once()?);
            }
        }
        repeated.0.sort_by(|one, other| one.busy.total_cmp(&other.busy));
        Ok(repeated)
    }

    /// More than half of them: those that are closest together.
    fn majority(&self) -> &[Cost] {
        let width = |costs: &&[Cost]| costs[costs.len() - 1].busy - costs[0].busy;
        let majorities = self.0.windows(self.0.len() / 2 + 1);
        majorities.min_by(|one, other| width(one).total_cmp(&width(other))).unwrap_or(&self.0)
    }

    /// That of the majority.
    fn mean(&self) -> Cost {
        let costs = self.majority();
        let mean = |part: fn(&Cost) -> f64| costs.iter().map(part).sum::<f64>() / costs.len() as f64;
        Cost { wall: mean(|cost| cost.wall), busy: mean(|cost| cost.busy), idle: mean(|cost| cost.idle) }
    }

    /// Between the least and the greatest of the majority, as a part of their mean; [`NO_COST`] where what is longer did not
    /// cost more.
    fn difference(&self, clock: Clock) -> f64 {
        let costs = || self.majority().iter().map(|cost| clock.of(*cost));
        let (least, greatest) = (costs().fold(f64::INFINITY, f64::min), costs().fold(f64::NEG_INFINITY, f64::max));
        if least > 0.0 { (greatest - least) / clock.of(self.mean()) } else { NO_COST }
    }
}

/// How often what was not the same twice is measured in all.
const OFTEN: usize = 5;
/// The part by which differs what is no figure, wherever it was measured: all of it.
const NO_COST: f64 = 1.0;

impl Figures {
    pub(crate) fn add(&mut self, workload: Workload, path: Path, cost: Repeated) {
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
        let costs = self.costs.iter().flat_map(|((workload, path), cost)| self.of_cost(*workload, *path, cost, clock));
        let memory = self.memory.iter().flat_map(|(path, bytes)| {
            let names = ["memory-client", "memory-server"];
            names.into_iter().zip(bytes).map(|(name, bytes)| Row::new(Workload::Idle, *path, name, *bytes, "bytes"))
        });
        costs.chain(memory).chain(self.held.rows()).collect()
    }

    fn of_cost(&self, workload: Workload, path: Path, cost: &Repeated, clock: Clock) -> Vec<Row> {
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
        if cost.0.len() == OFTEN {
            rows.push(row("measured", OFTEN as f64, "times"));
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
        let is_unsteady = |(workload, path, part): &(Workload, Path, f64)| {
            *part >= NO_COST || (*part > workload.tolerance() && !workload.is_chance(*path))
        };
        parts.filter(is_unsteady).collect()
    }
}

/// Idle time is a figure where it is more than this part of the cost.
const WORTH_SAYING: f64 = 0.01;

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of these, one time after the other.
    fn measured(tolerance: f64, busy: &[f64]) -> Repeated {
        let mut costs = busy.iter().map(|&busy| Cost { wall: busy, busy, idle: 0.0 });
        Repeated::measure(tolerance, || costs.next().context("measured too often")).unwrap()
    }

    #[test]
    fn what_is_not_the_same_twice_is_what_it_is_most_often() {
        let tells = |repeated: &Repeated| (repeated.mean().busy, repeated.difference(Clock::Instructions));
        assert_eq!(tells(&measured(0.05, &[98.0, 102.0])), (100.0, 0.04));
        assert_eq!(tells(&measured(0.05, &[100.0, 150.0, 99.0, 300.0, 101.0])), (100.0, 0.02));
        assert_eq!(tells(&measured(0.05, &[10.0, 150.0, 148.0, 11.0, 152.0])), (150.0, 4.0 / 150.0));
        assert_eq!(tells(&measured(0.05, &[-300.0, 150.0, -100.0, 148.0, 152.0])), (150.0, 4.0 / 150.0));
    }

    #[test]
    fn what_differs_too_much_is_named() {
        let mut figures = Figures::default();
        figures.add(Workload::Rt64, Path::Plain, measured(0.01, &[100.0, 101.0]));
        assert_eq!(figures.unsteady(Clock::Instructions), []);
        figures.add(Workload::Rt64, Path::Relay, measured(0.01, &[100.0, 120.0, 140.0, 160.0, 80.0]));
        for (workload, path) in [(Workload::Rt64x32, Path::Nginx), (Workload::Bidi, Path::Ipsec)] {
            figures.add(workload, path, measured(0.05, &[100.0, 120.0, 140.0, 160.0, 80.0]));
        }
        assert_eq!(figures.unsteady(Clock::Instructions), [(Workload::Rt64, Path::Relay, 0.4)]);
        figures.add(Workload::Rush, Path::Plain, measured(0.05, &[-100.0; 5]));
        assert_eq!(figures.unsteady(Clock::Instructions)[1..], [(Workload::Rush, Path::Plain, 1.0)]);
        figures.add(Workload::Rush, Path::Ipsec, measured(0.05, &[-100.0; 5]));
        assert_eq!(figures.unsteady(Clock::Instructions)[2..], [(Workload::Rush, Path::Ipsec, 1.0)]);
        assert_eq!(figures.unsteady(Clock::Time), []);
    }

    #[test]
    fn a_cost_is_the_mean_and_compared_with_what_was_measured() {
        let cost = |busy, idle| Cost { wall: busy + idle, busy, idle };
        let mut figures = Figures::default();
        figures.add(Workload::Rt64, Path::Plain, Repeated(vec![cost(50.0, 0.0); 2]));
        figures.add(Workload::Rt64, Path::Relay, Repeated(vec![cost(100.0, 9.0), cost(60.0, 9.0)]));
        figures.remember(Path::Relay, [600.0, 700.0]);
        let row = |path, figure, value, unit| Row::new(Workload::Rt64, path, figure, value, unit);
        let compared = |row, x_plain| Row { ratios: [Some(x_plain), None], ..row };
        let memory = |figure, bytes| Row::new(Workload::Idle, Path::Relay, figure, bytes, "bytes");
        let expected = [
            compared(row(Path::Plain, "instructions", 50.0, "instructions"), 1.0),
            row(Path::Plain, "apart", 0.0, "%"),
            compared(row(Path::Relay, "instructions", 80.0, "instructions"), 1.6),
            row(Path::Relay, "apart", 50.0, "%"),
            row(Path::Relay, "waiting", 9.0, "nanoseconds"),
            memory("memory-client", 600.0),
            memory("memory-server", 700.0),
        ];
        assert_eq!(figures.rows(Clock::Instructions), expected);
    }

    #[test]
    fn on_a_clock_of_time_a_cost_is_what_its_user_waits_and_work_is_told_beside_it() {
        let cost = |wall, busy| Repeated(vec![Cost { wall, busy, idle: 0.0 }; 2]);
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
