//! What is kept of a run, in `tests/benches/`: the report for readers, the figures for `--check`.

use std::fs;

use anyhow::{Context, Result};

use super::report::Report;
use super::rows::{self, BYTES, Row};
use super::{EXPLANATION, markdown};
use crate::process;

/// Where figures are kept.
pub(crate) const FIGURES: &str = "tests/benches/figures.json";
/// Where the report is kept.
const KEPT: &str = "tests/benches/README.md";

/// Keeps the report, below what explains it.
pub(crate) fn report(report: &Report) -> Result<()> {
    let text = markdown::text(report);
    write(KEPT, &format!("{EXPLANATION}\n{}\n", text.trim()))
}

/// Keeps the figures. What was kept before of the same build and kernel is gone if these are all figures; otherwise what
/// these are not about stays.
pub(crate) fn figures(measured: &[Row], are_all: bool) -> Result<()> {
    let file = process::workspace().join(FIGURES);
    let before = if file.exists() { rows::read(&file)? } else { Vec::new() };
    write(FIGURES, &rows::text(&merged(&before, measured, are_all))?)
}

/// Releases first. Costs and memory alone: what else was measured is not the same twice, and would hide in a difference of
/// two files what has changed.
fn merged(before: &[Row], measured: &[Row], are_all: bool) -> Vec<Row> {
    let replaces = |new: &Row, row: &Row| {
        if are_all { (&new.build, &new.kernel) == (&row.build, &row.kernel) } else { new.is_as(row) }
    };
    let stays = |row: &&Row| !measured.iter().any(|new| replaces(new, row));
    let is_kept = |row: &&Row| row.is_cost() || row.unit == BYTES;
    let all = before.iter().filter(stays).chain(measured).filter(is_kept);
    let mut rows: Vec<_> = all.cloned().collect();
    rows.sort_by(|one, other| one.build.cmp(&other.build));
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
        let memory = Row { unit: BYTES.to_owned(), ..figure("idle", "direct", "memory-client", 600.0) };
        let measured = [cost("rt64", "direct", 61.0), memory, figure("rt64", "direct", APART, 0.1)];
        let kept = [&before[..2], &measured[..2]].concat();
        assert_eq!(merged(&before, &measured, true), kept);
        assert_eq!(merged(&[], &measured, true), measured[..2]);
    }

    #[test]
    fn a_part_replaces_what_it_is_about() {
        let before = before();
        let measured = [cost("rt64", "direct", 61.0), cost("connect", "direct", 500.0)];
        let kept = [&before[..2], &before[3..], &measured].concat();
        assert_eq!(merged(&before, &measured, false), kept);
    }

    /// Of two builds and two kernels.
    fn before() -> [Row; 4] {
        let of = |build: &str, kernel: &str, value| {
            let [build, kernel] = [build, kernel].map(str::to_owned);
            Row { build, kernel, ..cost("rt64", "direct", value) }
        };
        let stream = cost("stream", "direct", 900.0);
        [of("release", "6.12", 50.0), of("test", "7.2", 51.0), of("test", "6.12", 60.0), stream]
    }
}
