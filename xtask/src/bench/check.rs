//! Whether our paths have become dearer than the saved figures say.
//!
//! A figure is worse when it is more than 3 % above what was saved *and* its ratio to plain TCP in the same run is, too:
//! another kernel of the same series changes what everybody pays, and is not ours to mend. What costs less is never
//! wrong. Only costs of our own paths are judged, of the same build on the same kernel.

use anyhow::{Result, bail, ensure};

use super::names::OURS;
use super::rows::Row;
use super::table::grouped;

/// A figure may be this many times the saved one.
const BOUND: f64 = 1.03;

/// What to do about a figure that is worse or missing.
pub(crate) const ADVICE: &str = "find the cause (`cargo xtask bench --profile WORKLOAD` says where instructions go), or \
    keep the new figures with --save in place of --check and say in the commit why they are worth it";

/// What came of it.
#[derive(Debug)]
pub(crate) struct Comparison {
    /// How many figures were compared.
    pub(crate) compared: usize,
    /// A line for each that is worse.
    pub(crate) worse: Vec<String>,
}

/// Compares what was measured with what was saved. An error when a figure is on one side only: `measured` must have all
/// that was saved of the `paths` and `workloads` that were to be measured (all, where these are empty).
pub(crate) fn compare(measured: &[Row], saved: &[Row], paths: &[String], workloads: &[String]) -> Result<Comparison> {
    let is_meant = |names: &[String], name: &String| names.is_empty() || names.contains(name);
    let judged: Vec<_> = measured.iter().filter(|row| is_judged(row)).collect();
    let Some(first) = judged.first() else { bail!("no cost of one of our paths was measured ({})", OURS.join(", ")) };
    let kernels = |row: &Row| judged.iter().any(|other| other.kernel == row.kernel);
    let expected = saved.iter().filter(|row| row.build == first.build && kernels(row) && is_judged(row));
    for row in expected.filter(|row| is_meant(paths, &row.path) && is_meant(workloads, &row.workload)) {
        ensure!(
            judged.iter().any(|other| other.is_as(row)),
            "{} has a saved figure and was not measured",
            subject(row)
        );
    }
    let mut worse = Vec::new();
    for row in &judged {
        let Some(before) = saved.iter().find(|other| other.is_as(row)) else {
            bail!("{} has no saved figure of the {} build: measure with --save", subject(row), row.build)
        };
        worse.extend(difference(row, before));
    }
    Ok(Comparison { compared: judged.len(), worse })
}

fn is_judged(row: &Row) -> bool {
    row.is_cost() && OURS.contains(&row.path.as_str())
}

fn subject(row: &Row) -> String {
    format!("kernel {}, {}, {}", row.kernel, row.path, row.workload)
}

/// What to say when it is worse. Without plain TCP on either side the cost alone decides.
fn difference(row: &Row, before: &Row) -> Option<String> {
    let percent = |now: f64, then: f64| (now / then - 1.0) * 100.0;
    let ratios = row.x_plain.zip(before.x_plain);
    if row.value <= before.value * BOUND || ratios.is_some_and(|(now, then)| now <= then * BOUND) {
        return None;
    }
    let [old, new] = [before.value, row.value].map(grouped);
    let mut text = format!("{}: {old} {} before, {new} now", subject(row), row.unit);
    text += &format!(" ({:+.1} %)", percent(row.value, before.value));
    if let Some((now, then)) = ratios {
        text += &format!("; {then:.2} x plain before, {now:.2} now ({:+.1} %)", percent(now, then));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::rows::example::cost;

    fn row(path: &str, value: f64, x_plain: f64) -> Row {
        Row { x_plain: Some(x_plain), ..cost("rt64", path, value) }
    }

    fn worse(measured: &[Row], saved: &[Row]) -> Vec<String> {
        compare(measured, saved, &[], &[]).unwrap().worse
    }

    #[test]
    fn worse_is_what_costs_more_by_itself_and_beside_plain() {
        let saved = [row("direct", 50_000.0, 1.68)];
        assert_eq!(worse(&[row("direct", 51_400.0, 1.73)], &saved), Vec::<String>::new());
        assert_eq!(worse(&[row("direct", 55_000.0, 1.70)], &saved), Vec::<String>::new(), "everybody pays more");
        assert_eq!(worse(&[row("direct", 50_100.0, 1.90)], &saved), Vec::<String>::new(), "plain costs less");
        assert_eq!(worse(&[row("direct", 20_000.0, 0.70)], &saved), Vec::<String>::new());
        let said = "kernel 6.12, direct, rt64: 50,000 instructions before, 52,500 now (+5.0 %); \
            1.68 x plain before, 1.76 now (+4.8 %)";
        assert_eq!(worse(&[row("direct", 52_500.0, 1.76)], &saved), [said]);
    }

    #[test]
    fn without_plain_the_cost_decides() {
        let saved = [row("relay", 100.0, 4.0)];
        assert_eq!(worse(&[cost("rt64", "relay", 104.0)], &saved).len(), 1);
        assert_eq!(worse(&[cost("rt64", "relay", 102.0)], &saved).len(), 0);
    }

    #[test]
    fn others_are_not_judged() {
        let saved = [row("direct", 100.0, 2.0), row("plain", 50.0, 1.0)];
        let measured = [row("direct", 100.0, 2.0), row("plain", 90.0, 1.0), row("nginx", 900.0, 9.0)];
        let comparison = compare(&measured, &saved, &[], &[]).unwrap();
        assert_eq!((comparison.compared, comparison.worse.len()), (1, 0));
    }

    #[test]
    fn a_figure_on_one_side_only_is_an_error() {
        let [direct, relay] = [row("direct", 100.0, 2.0), row("relay", 400.0, 8.0)];
        let both = [direct.clone(), relay];
        let told = |measured: &[Row], saved: &[Row], paths: &[String]| {
            compare(measured, saved, paths, &[])
                .map(|comparison| comparison.compared)
                .map_err(|error| error.to_string())
        };
        assert_eq!(
            told(&both, &both[..1], &[]),
            Err("kernel 6.12, relay, rt64 has no saved figure of the test build: measure with --save".to_owned())
        );
        assert_eq!(
            told(&both[..1], &both, &[]),
            Err("kernel 6.12, relay, rt64 has a saved figure and was not measured".to_owned())
        );
        assert_eq!(told(&both[..1], &both, &["plain".to_owned(), "direct".to_owned()]), Ok(1));
        let other_build = Row { build: "release".to_owned(), ..direct };
        assert!(told(&both, &[other_build], &[]).is_err());
        assert!(told(&[], &both, &[]).is_err());
    }
}
