//! How figures leave this program: each is a line of its standard output, `figure` and an object of JSON, which
//! `cargo xtask bench` takes out of what it passes on. What is not a figure, but explains them, is in one line `about`.

use std::collections::BTreeMap;

use clap::ValueEnum;
use enforcer_tests::settings::kernel_has_tls;
use nix::sys::utsname::uname;
use serde_json::json;

use crate::path::Path;
use crate::workload::Workload;

/// One figure of one workload on one path.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) workload: Workload,
    pub(crate) path: Path,
    /// What it is: `instructions` is the cost of one unit of the workload, `nanoseconds` the same on another clock.
    pub(crate) figure: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// Times the same on plain TCP, and on the floor, where those were measured.
    pub(crate) ratios: [Option<f64>; 2],
}

impl Row {
    /// One that is compared with nothing.
    pub(crate) fn new(workload: Workload, path: Path, figure: &str, value: f64, unit: &'static str) -> Row {
        Row { workload, path, figure: figure.to_owned(), value, unit, ratios: [None; 2] }
    }

    /// The line; names are those of the command line.
    pub(crate) fn line(&self) -> String {
        let [x_plain, x_floor] = self.ratios.map(|ratio| ratio.map(|ratio| rounded(ratio, RATIO_DIGITS)));
        let object = json!({
            "path": name(self.path),
            "workload": name(self.workload),
            "figure": self.figure,
            "value": rounded(self.value, if self.unit == PERCENT { PERCENT_DIGITS } else { 0 }),
            "unit": self.unit,
            "x_plain": x_plain,
            "x_floor": x_floor,
        });
        format!("figure {object}\n")
    }
}

/// The unit of figures that are small numbers; all others are whole.
pub(crate) const PERCENT: &str = "%";
const PERCENT_DIGITS: i32 = 2;
/// More say nothing: a figure is the same twice within some thousandths.
const RATIO_DIGITS: i32 = 3;

fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

/// What it is called on the command line.
pub(crate) fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// The line about where this was measured, with which programs beside ours, and what tables call paths and workloads.
pub(crate) fn about(programs: &[String]) -> String {
    let release = uname().map(|system| system.release().to_string_lossy().into_owned()).unwrap_or_default();
    let paths = Path::value_variants().iter().map(|path| (name(*path), path.to_string()));
    let workloads = Workload::value_variants().iter().map(|workload| (name(*workload), workload.title()));
    let object = json!({
        "kernel": release,
        "kernel_tls": kernel_has_tls(),
        "programs": programs,
        "paths": paths.collect::<BTreeMap<_, _>>(),
        "workloads": workloads.collect::<BTreeMap<_, _>>(),
    });
    format!("about {object}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_one_line_with_the_names_of_the_command_line() {
        let row = Row {
            ratios: [Some(4.437_15), None],
            ..Row::new(Workload::Rt64, Path::RelayKernel, "instructions", 145_590.4, "instructions")
        };
        let line = row.line();
        let object: serde_json::Value = serde_json::from_str(line.strip_prefix("figure ").unwrap()).unwrap();
        let expected = json!({
            "path": "relay-ktls", "workload": "rt64", "figure": "instructions", "value": 145_590.0,
            "unit": "instructions", "x_plain": 4.437, "x_floor": null,
        });
        assert_eq!((object, line.lines().count()), (expected, 1));
    }

    #[test]
    fn percents_keep_their_fraction() {
        let line = Row::new(Workload::Rt64, Path::Plain, "apart", 0.8649, PERCENT).line();
        assert!(line.contains(r#""value":0.86,"#), "{line}");
    }
}
