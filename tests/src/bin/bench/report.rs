//! The figures as Markdown, which can be read as it is: a table for each workload, and one of the goals.

use enforcer_tests::settings::kernel_has_tls;
use nix::sys::utsname::uname;

use crate::figures::{Cost, Figures};
use crate::goals::Goal;
use crate::path::Path;
use crate::workload::Workload;

/// Idle time is shown where it is more than this part.
const WORTH_SAYING: f64 = 0.01;

const COSTS: [Workload; 11] = [
    Workload::Rt64,
    Workload::Rt1k,
    Workload::Rt64x32,
    Workload::Http1,
    Workload::Http64,
    Workload::Connect,
    Workload::Connect500,
    Workload::Stream,
    Workload::Bidi,
    Workload::Redis1,
    Workload::Redis16,
];

/// Everything, under a heading with the kernel's release.
pub(crate) fn text(figures: &Figures, goals: &[Goal], unit: &str) -> String {
    let mut text = heading();
    if !kernel_has_tls() {
        text += "\nIt has no TLS: only what works without it was measured.\n";
    }
    if !figures.programs.is_empty() {
        text += &format!("\nMeasured with {}.\n", figures.programs.join(", "));
    }
    for workload in COSTS.into_iter().filter(|workload| !figures.paths(*workload).is_empty()) {
        text += &costs(workload, figures, unit);
        text += &figures.splits.text(workload);
    }
    text += &memory(figures);
    text += &figures.held.text();
    text += &wanted(goals);
    text
}

/// What a report begins with.
pub(crate) fn heading() -> String {
    let release = uname().map(|system| system.release().to_string_lossy().into_owned()).unwrap_or_default();
    format!("\n## Kernel {release}\n")
}

fn costs(workload: Workload, figures: &Figures, unit: &str) -> String {
    let costs: Vec<_> =
        figures.paths(workload).into_iter().filter_map(|path| Some((path, figures.cost(workload, path)?))).collect();
    let ratio = |cost: &Cost, base| figures.cost(workload, base).map(|base| format!("{:.2}", cost.busy / base.busy));
    let mut heads = vec!["path", unit, "x plain", "x floor"];
    let mut rows: Vec<_> = costs
        .iter()
        .map(|(path, cost)| {
            let ratios = [Path::Plain, Path::Floor].map(|base| ratio(cost, base).unwrap_or_default());
            [vec![path.to_string(), grouped(cost.busy)], ratios.to_vec()].concat()
        })
        .collect();
    if costs.iter().any(|(_, cost)| cost.idle > cost.busy * WORTH_SAYING) {
        heads.push("and ns of waiting");
        rows.iter_mut().zip(&costs).for_each(|(row, (_, cost))| row.push(grouped(cost.idle)));
    }
    heads.push("twice, apart by");
    for (row, (path, _)) in rows.iter_mut().zip(&costs) {
        let apart = figures.difference(workload, *path).unwrap_or_default() * 100.0;
        row.push(format!("{apart:.2} %"));
    }
    format!("\n### {}\n\n{}", workload.title(), table(&heads, rows))
}

fn memory(figures: &Figures) -> String {
    let rows = figures.remembered().into_iter().filter_map(|path| {
        let [client, server] = figures.memory(path)?;
        Some(vec![path.to_string(), grouped(client), grouped(server)])
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return String::new();
    }
    let heads = ["path", "bytes, agent of the client", "bytes, agent of the server"];
    format!("\n### {}\n\n{}", Workload::Idle.title(), table(&heads, rows))
}

fn wanted(goals: &[Goal]) -> String {
    if goals.is_empty() {
        return String::new();
    }
    let met = |goal: &Goal| if goal.met { "met" } else { "**missed**" };
    let row = |goal: &Goal| {
        vec![goal.what.to_owned(), format!("{:.2}", goal.figure), goal.bound.to_string(), met(goal).to_owned()]
    };
    let rows = goals.iter().map(row).collect();
    format!("\n### Goals of the direct path\n\n{}", table(&["goal", "figure", "shall be", "and is"], rows))
}

/// A table with columns of even width; all but the first are numbers or short words, to the right.
pub(crate) fn table(heads: &[&str], rows: Vec<Vec<String>>) -> String {
    let heads: Vec<_> = heads.iter().map(|head| (*head).to_owned()).collect();
    let longest = |column: usize| {
        let cells = rows.iter().chain([&heads]).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..heads.len()).map(longest).collect();
    let rule: Vec<_> = widths.iter().enumerate().map(|(column, width)| dashes(column, *width)).collect();
    [&heads, &rule].into_iter().chain(&rows).map(|row| line(row, &widths)).collect()
}

fn dashes(column: usize, width: usize) -> String {
    if column == 0 { "-".repeat(width) } else { "-".repeat(width - 1) + ":" }
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let cells = cells.iter().zip(widths).enumerate().map(|(column, (cell, &width))| match column {
        0 => format!("| {cell:width$} |"),
        _ => format!(" {cell:>width$} |"),
    });
    cells.collect::<String>() + "\n"
}

/// A whole number with commas.
pub(crate) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits.as_str()), |rest| ("-", rest));
    let mut text = sign.to_owned();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_commas() {
        assert_eq!([29_852.4, 776.0, 1_000_000.0, -1234.0].map(grouped), ["29,852", "776", "1,000,000", "-1,234"]);
    }

    #[test]
    fn columns_are_even() {
        let rows = vec![vec!["plain".to_owned(), "1".to_owned()], vec!["x".to_owned(), "1,000".to_owned()]];
        let expected = "| path  |  cost |\n| ----- | ----: |\n| plain |     1 |\n| x     | 1,000 |\n";
        assert_eq!(table(&["path", "cost"], rows), expected);
    }
}
