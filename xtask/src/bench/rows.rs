//! The figures as data: one row a figure, as the program that measures tells it, as `--json` writes it and as
//! `tests/benches/figures.json` keeps it. One row is one line, so that a difference of two files can be read.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// One figure of one workload on one path; names are those of the command line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// Which binaries were measured; empty only while the row is read from the program that measures.
    #[serde(default)]
    pub(crate) build: String,
    /// On which kernel; empty as `build` is.
    #[serde(default)]
    pub(crate) kernel: String,
    pub(crate) path: String,
    pub(crate) workload: String,
    /// What it is: one of [`COSTS`] is the cost of one unit of the workload.
    pub(crate) figure: String,
    pub(crate) value: f64,
    pub(crate) unit: String,
    /// Times the same on plain TCP, and on the floor, in the same run.
    pub(crate) x_plain: Option<f64>,
    pub(crate) x_floor: Option<f64>,
}

/// Costs on a clock that counts instructions, and on one that counts time.
pub(crate) const COSTS: [&str; 2] = [INSTRUCTIONS, "nanoseconds"];
/// The first of these.
pub(crate) const INSTRUCTIONS: &str = "instructions";
/// By how much measurements of a cost differ, in percent.
pub(crate) const APART: &str = "apart";
/// Work of all processors for one unit of the workload, where its cost is a time.
pub(crate) const WORK: &str = "work";
/// Time in which the processor waited, for one unit of the workload.
pub(crate) const WAITING: &str = "waiting";

/// The unit of memory.
pub(crate) const BYTES: &str = "bytes";

impl Row {
    /// Whether it is what one unit of the workload costs.
    pub(crate) fn is_cost(&self) -> bool {
        COSTS.contains(&self.figure.as_str())
    }

    /// Whether both are of the same workload on the same path.
    pub(crate) fn is_about(&self, other: &Row) -> bool {
        self.key()[..4] == other.key()[..4]
    }

    /// Whether both are of the same thing.
    pub(crate) fn is_as(&self, other: &Row) -> bool {
        self.key() == other.key()
    }

    fn key(&self) -> [&str; 5] {
        [&self.build, &self.kernel, &self.workload, &self.path, &self.figure]
    }
}

/// A file of rows: an array of JSON, each row on a line of its own.
pub(crate) fn text(rows: &[Row]) -> Result<String> {
    let lines: Vec<_> = rows.iter().map(serde_json::to_string).collect::<Result<_, _>>().context("write a figure")?;
    Ok(format!("[\n{}\n]\n", lines.join(",\n")))
}

/// Reads such a file.
pub(crate) fn read(file: &Path) -> Result<Vec<Row>> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} does not hold figures", file.display()))
}

/// Rows for tests.
#[cfg(test)]
pub(crate) mod example {
    use super::Row;

    /// What a unit of a workload costs on a path, without ratios.
    pub(crate) fn cost(workload: &str, path: &str, value: f64) -> Row {
        figure(workload, path, "instructions", value)
    }

    /// Any figure, in the unit of its name.
    pub(crate) fn figure(workload: &str, path: &str, figure: &str, value: f64) -> Row {
        let [build, kernel] = ["test", "6.12"].map(str::to_owned);
        let [workload, path, figure] = [workload, path, figure].map(str::to_owned);
        Row { build, kernel, path, workload, unit: figure.clone(), figure, value, x_plain: None, x_floor: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_line_for_each_row_and_is_read_as_it_was_written() {
        let rows = [example::cost("rt64", "plain", 30_074.0), example::cost("rt64", "direct", 50_556.0)];
        let text = text(&rows).unwrap();
        assert_eq!(text.lines().count(), 2 + rows.len());
        assert_eq!(serde_json::from_str::<Vec<Row>>(&text).unwrap(), rows);
    }

    #[test]
    fn what_the_program_tells_has_neither_build_nor_kernel() {
        let line = r#"{"path":"plain","workload":"rt64","figure":"instructions","value":30074.0,
            "unit":"instructions","x_plain":1.0,"x_floor":null}"#;
        let row: Row = serde_json::from_str(line).unwrap();
        assert_eq!((row.build.as_str(), row.x_plain, row.x_floor), ("", Some(1.0), None));
        assert!(row.is_cost());
    }
}
