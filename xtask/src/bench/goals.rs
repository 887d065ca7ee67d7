//! What is wanted of our paths. A goal is judged where all that it compares was measured, on each kernel for itself. Costs
//! are instructions: goals do not speak of times.

use std::fmt;

use super::names::SIDECARS;
use super::rows::{INSTRUCTIONS, Row};

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
    pub(crate) is_met: bool,
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

/// Judges by the figures of one kernel; goals whose figures are not among them are left out.
pub(crate) fn judge(rows: &[Row]) -> Vec<Goal> {
    let figures = Figures(rows);
    let goals = [round_trips(&figures), requests(&figures), connections(&figures), streams(&figures), idle(&figures)];
    let judged = goals.into_iter().flatten().filter_map(|(what, figure, bound)| Some((what, figure?, bound)));
    judged.map(|(what, figure, bound)| Goal { what, figure, bound, is_met: bound.holds(figure) }).collect()
}

type Judged = Vec<(&'static str, Option<f64>, Bound)>;

fn round_trips(figures: &Figures<'_>) -> Judged {
    let best = figures.cheapest_sidecar("rt64");
    let relay = figures.cost("rt64", "relay");
    vec![
        ("direct, round trip, x floor", figures.over("rt64", "direct", "floor"), Bound::AtMost(1.05)),
        ("direct, round trip, x plain TCP", figures.over("rt64", "direct", "plain"), Bound::AtMost(2.1)),
        ("direct, round trip, x cheapest sidecars", over(figures.cost("rt64", "direct"), best), Bound::AtMost(0.45)),
        ("relay, round trip, x cheapest sidecars", over(relay, best), Bound::Below(1.0)),
        ("relay, round trip, thousands", relay.map(|cost| cost / 1e3), Bound::AtMost(122.0)),
    ]
}

fn requests(figures: &Figures<'_>) -> Judged {
    vec![
        ("direct, HTTP request, x plain TCP", figures.over("http1", "direct", "plain"), Bound::AtMost(1.6)),
        ("direct, HTTP request, x IPsec", figures.over("http1", "direct", "ipsec"), Bound::Below(1.0)),
    ]
}

fn connections(figures: &Figures<'_>) -> Judged {
    let direct = figures.cost("connect", "direct");
    let beyond = figures.cost("connect", "outside").zip(figures.cost("connect", "plain"));
    let crowded = over(figures.cost("connect500", "direct"), direct);
    vec![
        ("direct, new connection, x plain TCP", figures.over("connect", "direct", "plain"), Bound::AtMost(4.0)),
        (
            "direct, new connection, x cheapest sidecars",
            over(direct, figures.cheapest_sidecar("connect")),
            Bound::AtMost(0.1),
        ),
        ("direct, new connection, thousands", direct.map(|cost| cost / 1e3), Bound::Below(776.0)),
        ("direct, new connection with 500 threads, x few threads", crowded, Bound::AtMost(2.0)),
        (
            "outside the mesh, new connection, beyond plain TCP",
            beyond.map(|(ours, plain)| ours - plain),
            Bound::AtMost(1000.0),
        ),
    ]
}

fn streams(figures: &Figures<'_>) -> Judged {
    let speed = figures.over("stream", "floor", "direct");
    vec![("direct, stream, speed x floor", speed, Bound::AtLeast(0.98))]
}

/// Memory of the agent that needs more, and what both do.
fn idle(figures: &Figures<'_>) -> Judged {
    let heavier = |names: [&str; 2]| {
        let [client, server] = names.map(|figure| figures.of("idle", "direct", figure));
        client.zip(server).map(|(client, server)| client.max(server))
    };
    let each = heavier(["memory-client", "memory-server"]);
    let all = heavier(["memory-client-10000", "memory-server-10000"]).map(|bytes| bytes / f64::from(1 << 20));
    let busy = figures.of("idle", "direct", "busy-10000");
    vec![
        ("direct, memory of an agent for an idle connection, bytes", each, Bound::Below(1024.0)),
        ("direct, memory of an agent with 10,000 idle connections, MiB", all, Bound::Below(32.0)),
        ("direct, work of both agents with 10,000 idle connections, % of a processor", busy, Bound::Below(0.2)),
    ]
}

struct Figures<'a>(&'a [Row]);

impl Figures<'_> {
    fn cost(&self, workload: &str, path: &str) -> Option<f64> {
        self.find(workload, path, |row| row.figure == INSTRUCTIONS)
    }

    fn of(&self, workload: &str, path: &str, figure: &str) -> Option<f64> {
        self.find(workload, path, |row| row.figure == figure)
    }

    fn find(&self, workload: &str, path: &str, is_it: impl Fn(&Row) -> bool) -> Option<f64> {
        let mut rows = self.0.iter().filter(|row| row.workload == workload && row.path == path);
        rows.find(|row| is_it(row)).map(|row| row.value)
    }

    /// How many times what `base` costs `path` does.
    fn over(&self, workload: &str, path: &str, base: &str) -> Option<f64> {
        over(self.cost(workload, path), self.cost(workload, base))
    }

    fn cheapest_sidecar(&self, workload: &str) -> Option<f64> {
        SIDECARS.iter().filter_map(|path| self.cost(workload, path)).reduce(f64::min)
    }
}

fn over(cost: Option<f64>, base: Option<f64>) -> Option<f64> {
    cost.zip(base).map(|(cost, base)| cost / base)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::rows::example::{cost, figure};

    fn judged(rows: &[Row]) -> Vec<(&'static str, f64, bool)> {
        judge(rows).iter().map(|goal| (goal.what, goal.figure, goal.is_met)).collect()
    }

    #[test]
    fn judges_what_was_measured_and_nothing_else() {
        let rows = [
            cost("rt64", "direct", 106.0),
            cost("rt64", "floor", 100.0),
            figure("idle", "direct", "memory-client", 600.0),
            figure("idle", "direct", "memory-server", 700.0),
        ];
        let expected = [
            ("direct, round trip, x floor", 1.06, false),
            ("direct, memory of an agent for an idle connection, bytes", 700.0, true),
        ];
        assert_eq!(judged(&rows), expected);
    }

    #[test]
    fn sidecars_are_as_good_as_the_best_of_them() {
        let rows =
            [cost("connect", "direct", 500.0), cost("connect", "envoy", 4_300.0), cost("connect", "nginx", 8_000.0)];
        let judged = judged(&rows);
        assert_eq!(judged[0], ("direct, new connection, x cheapest sidecars", 500.0 / 4_300.0, false));
    }

    #[test]
    fn a_faster_stream_is_more_than_the_floor() {
        let rows = [cost("stream", "direct", 50.0), cost("stream", "floor", 100.0)];
        assert_eq!(judged(&rows), [("direct, stream, speed x floor", 2.0, true)]);
    }
}
