//! What the programs in the kernel cost a connection: how often each runs for it, and for how long, as the kernel counts
//! (`BPF_ENABLE_STATS`, Linux 5.8). That it counts costs something too, which is not in these figures but would be in all
//! others; so this is a run of its own.

use std::collections::BTreeMap;
use std::ops::Sub;

use anyhow::{Context, Result};
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};

use crate::path::{Path, Site};
use crate::rows::Row;
use crate::workload::{Workload, connect};

/// Runs and time of all programs of one name.
#[derive(Clone, Copy, Debug, Default)]
struct Runs {
    count: f64,
    nanoseconds: f64,
}

impl Sub for Runs {
    type Output = Runs;

    fn sub(self, before: Runs) -> Runs {
        Runs { count: self.count - before.count, nanoseconds: self.nanoseconds - before.nanoseconds }
    }
}

/// The unit of how often a program runs.
const RUNS: &str = "runs";

/// By name. Both nodes are on one kernel: a program that follows a function of the kernel runs for each agent.
type Programs = BTreeMap<String, Runs>;

/// What a new connection on one path costs in each program, and how often each runs for it.
pub(crate) fn measure(site: &Site, unit: &'static str) -> Result<Vec<Row>> {
    let _counting = enable_stats(Stats::RunTime).context("have the kernel count what programs cost")?;
    let run = |connections| {
        let before = counted()?;
        connect::play(site, connections, connect::FEW_THREADS)?;
        Ok::<_, anyhow::Error>(between(&before, &counted()?))
    };
    let [short, long] = connect::CONNECTIONS;
    let (once, often) = (run(short)?, run(long)?);
    let each = between(&once, &often);
    Ok(rows(site.path, &each, f64::from(long - short), unit))
}

fn counted() -> Result<Programs> {
    let mut programs = Programs::new();
    // One that is unloaded meanwhile is none of those that are measured.
    for program in loaded_programs().filter_map(Result::ok) {
        let name = program.name_as_str().unwrap_or_default().to_owned();
        let runs = programs.entry(name).or_default();
        runs.count += program.run_count() as f64;
        runs.nanoseconds += program.run_time().as_nanos() as f64;
    }
    Ok(programs)
}

fn between(before: &Programs, after: &Programs) -> Programs {
    let change = |(name, runs): (&String, &Runs)| (name.clone(), *runs - before.get(name).copied().unwrap_or_default());
    after.iter().map(change).collect()
}

fn rows(path: Path, programs: &Programs, connections: f64, unit: &'static str) -> Vec<Row> {
    let mut programs: Vec<_> = programs.iter().filter(|(_, runs)| runs.count > 0.0).collect();
    programs.sort_by(|(_, one), (_, other)| other.nanoseconds.total_cmp(&one.nanoseconds));
    let row = |figure: String, value, unit| Row::new(Workload::Connect, path, &figure, value / connections, unit);
    let each = programs.into_iter().flat_map(|(name, runs)| {
        let cost = row(format!("program {name}"), runs.nanoseconds, unit);
        [cost, row(format!("runs of {name}"), runs.count, RUNS)]
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_long_run_did_more_is_shared_among_its_connections() {
        let of = |count, nanoseconds| Programs::from([("ingress".to_owned(), Runs { count, nanoseconds })]);
        let each = between(&of(10.0, 5_000.0), &of(3010.0, 605_000.0));
        let rows = rows(Path::Outside, &each, 300.0, "instructions");
        let told: Vec<_> = rows.iter().map(|row| (row.figure.as_str(), row.value)).collect();
        assert_eq!(told, [("program ingress", 2000.0), ("runs of ingress", 10.0)]);
    }
}
