//! What is wanted of the direct path.

use std::fmt;

use crate::figures::Figures;
use crate::path::Path;
use crate::workload::Workload;

/// One goal and what came of it.
#[derive(Debug)]
pub(crate) struct Goal {
    /// What is measured.
    pub(crate) what: &'static str,
    /// What it is.
    pub(crate) figure: f64,
    /// What it shall be.
    pub(crate) bound: Bound,
    /// Whether it is.
    pub(crate) met: bool,
}

/// What a figure shall be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
    Below(f64),
}

impl Bound {
    fn holds(self, figure: f64) -> bool {
        match self {
            Bound::AtMost(bound) => figure <= bound,
            Bound::AtLeast(bound) => figure >= bound,
            Bound::Below(bound) => figure < bound,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::AtMost(bound) => write!(out, "at most {bound}"),
            Bound::AtLeast(bound) => write!(out, "at least {bound}"),
            Bound::Below(bound) => write!(out, "below {bound}"),
        }
    }
}

/// Judges those goals whose figures were measured.
pub(crate) fn judge(figures: &Figures) -> Vec<Goal> {
    let cost = |workload, path| figures.cost(workload, path).map(|cost| cost.busy);
    let direct = |workload| cost(workload, Path::Direct);
    let over = |workload, path| Some(direct(workload)? / cost(workload, path)?);
    let goals = [
        ("round trip, x floor", over(Workload::Rt64, Path::Floor), Bound::AtMost(1.05)),
        ("round trip, x plain TCP", over(Workload::Rt64, Path::Plain), Bound::AtMost(2.1)),
        ("new connection, x plain TCP", over(Workload::Connect, Path::Plain), Bound::AtMost(4.0)),
        ("new connection, thousands", direct(Workload::Connect).map(|cost| cost / 1e3), Bound::Below(776.0)),
        ("new connection outside the mesh, beyond plain TCP", beyond(figures), Bound::AtMost(1000.0)),
        ("new connection with 500 threads, x few threads", crowded(figures), Bound::AtMost(2.0)),
        ("stream, speed x floor", over(Workload::Stream, Path::Floor).map(f64::recip), Bound::AtLeast(0.98)),
        ("memory of an idle connection, bytes", heavier(figures), Bound::Below(1024.0)),
    ];
    let judged = goals.into_iter().filter_map(|(what, figure, bound)| Some((what, figure?, bound)));
    judged.map(|(what, figure, bound)| Goal { what, figure, bound, met: bound.holds(figure) }).collect()
}

/// What the programs cost connections that are none of ours.
fn beyond(figures: &Figures) -> Option<f64> {
    let cost = |path| figures.cost(Workload::Connect, path).map(|cost| cost.busy);
    Some(cost(Path::Outside)? - cost(Path::Plain)?)
}

/// How much more connections cost a process with many threads.
fn crowded(figures: &Figures) -> Option<f64> {
    let cost = |workload| figures.cost(workload, Path::Direct).map(|cost| cost.busy);
    Some(cost(Workload::Connect500)? / cost(Workload::Connect)?)
}

/// The memory of the agent that needs more of it.
fn heavier(figures: &Figures) -> Option<f64> {
    figures.memory(Path::Direct).map(|[client, server]| client.max(server))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::{Cost, Twice};

    fn steady(busy: f64) -> Twice {
        Twice([Cost { busy, idle: 0.0 }; 2])
    }

    #[test]
    fn judges_what_was_measured_and_nothing_else() {
        let mut figures = Figures::default();
        figures.add(Workload::Rt64, Path::Direct, steady(106.0));
        figures.add(Workload::Rt64, Path::Floor, steady(100.0));
        figures.remember(Path::Direct, [600.0, 700.0]);
        let goals = judge(&figures);
        assert_eq!(
            goals.iter().map(|goal| (goal.figure, goal.met)).collect::<Vec<_>>(),
            [(1.06, false), (700.0, true)]
        );
    }

    #[test]
    fn a_faster_stream_is_more_than_the_floor() {
        let mut figures = Figures::default();
        figures.add(Workload::Stream, Path::Direct, steady(50.0));
        figures.add(Workload::Stream, Path::Floor, steady(100.0));
        assert_eq!(judge(&figures)[0].figure, 2.0);
    }
}
