//! What is kept of runs, in `tests/benches/`: figures, for `--check`; what is to be said of their kernels; and the report
//! that is made of both. So a report is whole although a run may be of a part.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

use super::measure::{About, Build, Measured};
use super::names::{PATHS, WORKLOADS};
use super::report;
use super::rows::{self, Row};
use super::{EXPLANATION, markdown};
use crate::process;

/// Where figures are kept.
pub(crate) const FIGURES: &str = "tests/benches/figures.json";
/// Where it is kept what is said of each kernel.
const ABOUT: &str = "tests/benches/about.json";
/// Where the report is kept.
const REPORT: &str = "tests/benches/README.md";

/// Keeps what was measured. What was kept before of the same builds and kernels is gone if these are all figures; otherwise
/// what these are not about stays. `facts` are about the machine, and `command` had it measured.
pub(crate) fn keep(measured: &[Measured], are_all: bool, facts: Vec<(String, String)>, command: String) -> Result<()> {
    let folder = process::workspace();
    let new: Vec<Row> = measured.iter().flat_map(|one| one.rows.clone()).collect();
    let figures = merged(&rows::read(&folder.join(FIGURES))?, &new, are_all);
    write(FIGURES, &rows::text(&figures)?)?;
    let releases = measured.iter().filter_map(|one| Some((release(one.rows.first()?)?, &one.about)));
    let releases: Vec<_> = releases.collect();
    if releases.is_empty() {
        return Ok(());
    }
    let known = fs::read_to_string(folder.join(ABOUT)).with_context(|| format!("read {ABOUT}"))?;
    let mut abouts = serde_json::from_str(&known).with_context(|| format!("{ABOUT} does not say of kernels"))?;
    releases.into_iter().for_each(|(kernel, about)| learn(&mut abouts, kernel, about));
    write(ABOUT, &(serde_json::to_string_pretty(&abouts).context("write what is said of kernels")? + "\n"))?;
    let report = report::report(&of_kernels(&figures, abouts), facts, command);
    write(REPORT, &format!("{EXPLANATION}\n{}\n", markdown::text(&report).trim()))
}

/// The kernel of a row that was measured with binaries as users have them.
fn release(row: &Row) -> Option<&str> {
    (row.build == Build::Release.name()).then_some(row.kernel.as_str())
}

/// A run need not be with all programs that there is a figure of.
fn learn(abouts: &mut BTreeMap<String, About>, kernel: &str, about: &About) {
    let name = |program: &str| program.split(' ').next().unwrap_or_default().to_owned();
    let mut about = about.clone();
    if let Some(before) = abouts.remove(kernel) {
        let is_new = |program: &String| about.programs.iter().any(|other| name(other) == name(program));
        about.programs =
            before.programs.into_iter().filter(|program| !is_new(program)).chain(about.programs.clone()).collect();
        about.programs.sort_unstable();
    }
    abouts.insert(kernel.to_owned(), about);
}

fn of_kernels(figures: &[Row], abouts: BTreeMap<String, About>) -> Vec<Measured> {
    let of = |(kernel, about): (String, About)| {
        let rows = figures.iter().filter(|row| release(row) == Some(&kernel)).cloned().collect();
        Measured { about, rows, is_steady: true }
    };
    abouts.into_iter().map(of).collect()
}

/// In the order of the report, releases first. Of the others costs alone: all else is not the same twice, and would hide in
/// a difference of two files what has changed.
fn merged(before: &[Row], measured: &[Row], are_all: bool) -> Vec<Row> {
    let replaces = |new: &Row, row: &Row| {
        if are_all { (&new.build, &new.kernel) == (&row.build, &row.kernel) } else { new.is_about(row) }
    };
    let stays = |row: &&Row| !measured.iter().any(|new| replaces(new, row));
    let is_kept = |row: &&Row| row.is_cost() || release(row).is_some();
    let mut rows: Vec<_> = before.iter().filter(stays).chain(measured).filter(is_kept).cloned().collect();
    let place = |names: &[&str], name: &String| names.iter().position(|one| one == name);
    rows.sort_by_cached_key(|row| {
        let (workload, path) = (place(&WORKLOADS, &row.workload), place(&PATHS, &row.path));
        (row.build.clone(), row.kernel.clone(), workload, path)
    });
    compared(rows)
}

/// What a cost is compared with may be of another run.
fn compared(mut rows: Vec<Row>) -> Vec<Row> {
    let costs: Vec<_> = rows.iter().filter(|row| row.is_cost()).cloned().collect();
    let over = |row: &Row, base: &str| {
        let wanted = Row { path: base.to_owned(), ..row.clone() };
        costs.iter().find(|other| other.is_as(&wanted)).map(|base| (row.value / base.value * 1e3).round() / 1e3)
    };
    for row in rows.iter_mut().filter(|row| row.is_cost()) {
        (row.x_plain, row.x_floor) = (over(row, "plain"), over(row, "floor"));
    }
    rows
}

fn write(name: &str, text: &str) -> Result<()> {
    fs::write(process::workspace().join(name), text).with_context(|| format!("write {name}"))?;
    eprintln!("bench: written to {name}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::rows::APART;
    use crate::bench::rows::example::{cost, figure};

    #[test]
    fn figures_of_another_build_or_kernel_stay() {
        let before = before();
        let measured = [cost("rt64", "direct", 61.0), figure("rt64", "direct", APART, 0.1)];
        let kept = [&before[..1], &measured[..1], &before[3..]].concat();
        assert_eq!(merged(&before, &measured, true), kept);
        assert_eq!(merged(&[], &measured, true), measured[..1]);
    }

    #[test]
    fn a_part_replaces_all_that_was_kept_of_it() {
        let before = before();
        let measured = [cost("connect", "direct", 500.0), cost("rt64", "direct", 61.0)];
        let kept = [&before[..1], &measured[1..], &measured[..1], &before[2..]].concat();
        assert_eq!(merged(&before, &measured, false), kept);
        let release = |row: Row| Row { build: "release".to_owned(), ..row };
        let apart = release(figure("rt64", "direct", APART, 0.1));
        let measured = [release(cost("rt64", "direct", 49.0)), apart];
        assert_eq!(merged(&before, &measured, false), [&measured[..], &before[1..]].concat());
        assert_eq!(merged(&measured, &measured[..1], false), measured[..1]);
    }

    #[test]
    fn costs_are_compared_with_what_is_kept_of_plain_tcp() {
        let rows = merged(&[cost("rt64", "plain", 30.0)], &[cost("rt64", "direct", 50.0)], false);
        let ratios: Vec<_> = rows.iter().map(|row| (row.x_plain, row.x_floor)).collect();
        assert_eq!(ratios, [(Some(1.0), None), (Some(1.667), None)]);
    }

    #[test]
    fn what_is_said_of_a_kernel_names_all_that_its_figures_were_compared_with() {
        let about = |kernel: &str, programs: &[&str]| {
            let programs = programs.iter().map(|program| (*program).to_owned()).collect();
            let (paths, workloads) = (BTreeMap::new(), BTreeMap::new());
            About { kernel: kernel.to_owned(), kernel_tls: true, programs, paths, workloads }
        };
        let mut abouts = BTreeMap::from([("6.12".to_owned(), about("6.12.1", &["haproxy 2", "nginx 1"]))]);
        learn(&mut abouts, "6.12", &about("6.12.2", &["envoy 1", "nginx 2"]));
        learn(&mut abouts, "7.2", &about("7.2.1", &[]));
        let known: Vec<_> = abouts.values().map(|about| (about.kernel.as_str(), about.programs.join(", "))).collect();
        assert_eq!(known, [("6.12.2", "envoy 1, haproxy 2, nginx 2".to_owned()), ("7.2.1", String::new())]);
        let rows = [Row { build: "release".to_owned(), ..cost("rt64", "direct", 50.0) }, cost("rt64", "direct", 60.0)];
        let counts: Vec<_> = of_kernels(&rows, abouts).iter().map(|one| one.rows.len()).collect();
        assert_eq!(counts, [1, 0]);
    }

    /// Of two builds and two kernels.
    fn before() -> [Row; 4] {
        let of = |build: &str, kernel: &str, value| {
            let [build, kernel] = [build, kernel].map(str::to_owned);
            Row { build, kernel, ..cost("rt64", "direct", value) }
        };
        let stream = cost("stream", "direct", 900.0);
        [of("release", "6.12", 50.0), of("test", "6.12", 60.0), stream, of("test", "7.2", 51.0)]
    }
}
