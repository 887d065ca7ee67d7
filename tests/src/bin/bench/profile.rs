//! Where instructions go: which functions, of the kernel and of programs, while a workload runs. `perf` looks at even
//! distances of the clock, which are numbers of instructions where the clock counts those, at what the whole machine is
//! doing: both applications, both agents, both network stacks.
//!
//! The whole measuring of the workload is looked at, with the start of its programs, so its shares are not quite those
//! of a unit. In parts of the kernel that are not to be interrupted, the look is taken at their end. Looking costs
//! something itself, which is in no share.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use enforcer_tests::process::{self, Running};
use enforcer_tests::wait;
use nix::sys::signal::Signal;

use crate::figures::Figures;
use crate::path::Site;
use crate::rows::{PERCENT, Row};
use crate::workload::Workload;

/// Nanoseconds, which are instructions, from one look to the next. No round number: it shall not go in step.
const DISTANCE: &str = "49999";
/// With fewer looks a share of one percent is wrong by more than a third.
const FEWEST: f64 = 1000.0;
/// Shares of fewer percent are not told.
const WORTH_SAYING: f64 = 0.2;
/// Between the columns of perf's table; no name has it.
const BETWEEN: &str = "\t";
/// Figures are called by the place, for all of it, or by the place and a function.
const KERNEL: &str = "in-kernel";
const USER: &str = "in-programs";
/// What it says of the processor that has nothing to do.
const IDLE: &str = "swapper";

/// Measures the workload, and gives the share of each function.
pub(crate) fn measure(site: &Site, workload: Workload) -> Result<Vec<Row>> {
    let directory = env::temp_dir();
    let data = directory.join(format!("perf-{}", std::process::id()));
    let mut record = Command::new("perf");
    record.args(["record", "--all-cpus", "--event", "cpu-clock", "--count", DISTANCE, "--output"]).arg(&data);
    let mut recording = Running::start(&mut record, "perf", &directory).context("start perf")?;
    wait::until("perf to record", wait::patience(), || {
        recording.check_alive()?;
        Ok(data.metadata().is_ok_and(|file| file.len() > 0).then_some(()))
    })?;
    workload.measure(site, &mut Figures::default())?;
    recording.signal(Signal::SIGINT)?;
    recording.finish()?;
    let mut report = Command::new("perf");
    report.args(["report", "--stdio", "--sort", "comm,dso,symbol", "--show-nr-samples", "--percent-limit", "0"]);
    report.args(["--field-separator", BETWEEN, "--input"]).arg(&data);
    let shares = shares(&process::run(&mut report)?)?;
    fs::remove_file(&data).with_context(|| format!("remove {}", data.display()))?;
    Ok(shares.into_iter().map(|(name, share)| Row::new(workload, site.path, &name, share, PERCENT)).collect())
}

/// The share of each function, and of kernel and programs, in what perf's table says: percent of all but idling, the
/// greatest first.
///
/// A line is a share, a number of samples, a process, an object, the symbol, and what only hardware counts;
/// other lines are comments.
fn shares(table: &str) -> Result<Vec<(String, f64)>> {
    let mut samples = BTreeMap::new();
    let mut all = 0.0;
    for line in table.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let columns: Vec<_> = line.split(BETWEEN).map(str::trim).collect();
        let &[_, count, process, object, symbol, ..] = columns.as_slice() else {
            bail!("no line of a profile: {line:?}")
        };
        let count: f64 = count.parse().with_context(|| format!("no number of samples: {line:?}"))?;
        if process != IDLE {
            *samples.entry(function(object, symbol)).or_insert(0.0) += count;
            all += count;
        }
    }
    ensure!(all >= FEWEST, "perf has looked {all} times, which is too seldom for shares");
    let mut shares: Vec<(String, f64)> = samples.into_iter().map(|(name, count)| (name, count / all * 100.0)).collect();
    let of_all = |place: &str| {
        let of_place = shares.iter().filter(|(name, _)| name.starts_with(place));
        (place.to_owned(), of_place.map(|(_, share)| share).sum())
    };
    let sums = [KERNEL, USER].map(of_all);
    shares.retain(|(_, share)| *share >= WORTH_SAYING);
    shares.extend(sums);
    shares.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    Ok(shares)
}

/// The kernel's by its name alone, another one with the object that it is in.
fn function(object: &str, symbol: &str) -> String {
    match symbol.strip_prefix("[k] ") {
        Some(name) => format!("{KERNEL} {name}"),
        None => format!("{USER} {object}: {}", symbol.trim_start_matches("[.] ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_all_that_is_not_idle() {
        let table = "# Overhead\tSamples\n#\n 50.00%\t5000\tswapper\t[kernel.kallsyms]\t[k] pv_native_safe_halt\t-      -\n\
            30.00%\t3000\tenforcer\t[kernel.kallsyms]\t[k] tcp_ack\n 10.00%\t1000\tendpoint\t[kernel.kallsyms]\t[k] tcp_ack\n\
            10.00%\t 995\tenforcer\tenforcer\t[.] core::str::from_utf8\n  0.00%\t5\tenforcer\tlibc.so.6\t[.] malloc\n\n";
        let expected = [
            ("in-kernel", 80.0),
            ("in-kernel tcp_ack", 80.0),
            ("in-programs", 20.0),
            ("in-programs enforcer: core::str::from_utf8", 19.9),
        ];
        let shares = shares(table).unwrap();
        let rounded: Vec<_> =
            shares.iter().map(|(name, share)| (name.as_str(), (share * 10.0).round() / 10.0)).collect();
        let mut sorted = rounded.clone();
        sorted.sort_by(|one, other| one.0.cmp(other.0));
        assert_eq!(sorted, expected);
        assert!(rounded.is_sorted_by(|one, other| one.1 >= other.1), "{rounded:?}");
    }

    #[test]
    fn a_table_of_another_shape_or_of_too_little_is_an_error() {
        for (table, reason) in [
            (" 50.00%\tenforcer\t[k] tcp_ack\n", "no line of a profile"),
            (" 50.00%\tmany\tenforcer\t[kernel.kallsyms]\t[k] tcp_ack\n", "no number of samples"),
            ("# nothing\n", "too seldom"),
        ] {
            let error = shares(table).unwrap_err();
            assert!(error.to_string().contains(reason), "{error:#}");
        }
    }
}
