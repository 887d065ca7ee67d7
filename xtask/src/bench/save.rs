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

/// Keeps the figures; what was kept before of the same builds is gone, what was kept of others stays.
pub(crate) fn figures(measured: &[Row]) -> Result<()> {
    let file = process::workspace().join(FIGURES);
    let before = if file.exists() { rows::read(&file)? } else { Vec::new() };
    write(FIGURES, &rows::text(&merged(&before, measured))?)
}

/// Releases first. Costs and memory alone: what else was measured is not the same twice, and would hide in a difference of
/// two files what has changed.
fn merged(before: &[Row], measured: &[Row]) -> Vec<Row> {
    let stays = |row: &&Row| !measured.iter().any(|new| new.build == row.build);
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
    fn figures_of_another_build_stay() {
        let of = |build: &str, row: Row| Row { build: build.to_owned(), ..row };
        let before = [
            of("release", cost("rt64", "direct", 50.0)),
            of("test", cost("rt64", "direct", 60.0)),
            of("test", cost("stream", "direct", 900.0)),
        ];
        let memory = Row { unit: BYTES.to_owned(), ..figure("idle", "direct", "memory-client", 600.0) };
        let measured = [cost("rt64", "direct", 61.0), memory, figure("rt64", "direct", APART, 0.1)];
        assert_eq!(merged(&before, &measured), [before[0].clone(), measured[0].clone(), measured[1].clone()]);
        assert_eq!(merged(&[], &measured), measured[..2]);
    }
}
