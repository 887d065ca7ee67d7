//! The report, as data: what stands in it, whether it is written as Markdown or as a page.

use std::collections::BTreeMap;

use super::goals::{self, Goal};
use super::measure::{About, Measured};
use super::names::OURS;
use super::rows::{APART, BYTES, Row, WAITING, WORK};
use super::table::{Table, grouped};

/// All of it.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) kernels: Vec<OnKernel>,
    /// Where it was made and what was compared.
    pub(crate) machine: Table,
    /// The command that made it.
    pub(crate) command: String,
}

/// What was measured on one kernel.
#[derive(Debug)]
pub(crate) struct OnKernel {
    /// Its release.
    pub(crate) kernel: String,
    pub(crate) has_tls: bool,
    pub(crate) sections: Vec<Section>,
}

/// A workload, the goals, or the programs of a path.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) title: String,
    pub(crate) charts: Vec<Bars>,
    pub(crate) table: Table,
}

/// A figure of several paths, to be drawn.
#[derive(Debug, PartialEq)]
pub(crate) struct Bars {
    pub(crate) title: String,
    pub(crate) bars: Vec<Bar>,
}

/// One path of it.
#[derive(Debug, PartialEq)]
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) value: f64,
    /// Whether it is one of our paths.
    pub(crate) is_ours: bool,
}

/// Puts it together; `facts` are about the machine.
pub(crate) fn report(measured: &[Measured], facts: Vec<(String, String)>, command: String) -> Report {
    let mut facts: Vec<_> = facts.into_iter().map(|(name, fact)| vec![name, fact]).collect();
    let mut programs: Vec<_> = measured.iter().flat_map(|one| &one.about.programs).map(String::as_str).collect();
    programs.sort_unstable();
    programs.dedup();
    if !programs.is_empty() {
        facts.push(vec!["compared with".to_owned(), programs.join(", ")]);
    }
    let machine = Table { heads: ["what", "which"].map(str::to_owned).to_vec(), rows: facts };
    Report { kernels: measured.iter().map(on_kernel).collect(), machine, command }
}

fn on_kernel(measured: &Measured) -> OnKernel {
    let (rows, about) = (&measured.rows, &measured.about);
    let (programs, others): (Vec<_>, Vec<_>) = rows.iter().partition(|row| program(row).is_some());
    let (shares, figures): (Vec<_>, Vec<_>) = others.into_iter().partition(|row| place(row).is_some());
    let mut sections: Vec<_> =
        grouped_by(&figures, |row| &row.workload).iter().map(|rows| workload(rows, about)).collect();
    sections.extend(grouped_by(&programs, |row| &row.path).iter().map(|rows| of_programs(rows, about)));
    let shares = grouped_by(&shares, |row| &row.path);
    sections.extend(shares.iter().flat_map(|rows| PLACES.map(|(of, words)| profile(rows, about, of, words))));
    sections.extend(wanted(&goals::judge(rows)));
    OnKernel { kernel: about.kernel.clone(), has_tls: about.kernel_tls, sections }
}

/// Rows that have the same of something together, in the order in which each comes first. No group is empty.
fn grouped_by<'a>(rows: &[&'a Row], same: impl Fn(&Row) -> &String) -> Vec<Vec<&'a Row>> {
    let mut groups: Vec<Vec<&Row>> = Vec::new();
    for row in rows {
        match groups.iter_mut().find(|group| same(group[0]) == same(row)) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups
}

/// A table of the paths on which a workload was measured: cost and ratios, then all other figures.
fn workload(rows: &[&Row], about: &About) -> Section {
    let mut figures: Vec<_> = grouped_by(rows, |row| &row.figure).iter().map(|rows| rows[0]).collect();
    let unit = figures.iter().find(|row| row.is_cost()).map(|row| row.unit.as_str());
    figures.retain(|row| !row.is_cost());
    // What says how good the others are comes last.
    figures.sort_by_key(|row| row.figure == APART);
    let costs = unit.map_or(Vec::new(), |unit| vec![unit, "x plain", "x floor"]);
    let heads = ["path"].into_iter().chain(costs).map(str::to_owned);
    let table = Table {
        heads: heads.chain(figures.iter().map(|row| head(row))).collect(),
        rows: grouped_by(rows, |row| &row.path)
            .iter()
            .map(|rows| line(rows, about, unit.is_some(), &figures))
            .collect(),
    };
    Section { title: title(&about.workloads, &rows[0].workload), charts: charts(rows, about), table }
}

/// The words for a name; one that is not known stands for itself.
fn title(words: &BTreeMap<String, String>, name: &String) -> String {
    words.get(name).unwrap_or(name).clone()
}

fn head(row: &Row) -> String {
    match row.figure.as_str() {
        APART => "apart by".to_owned(),
        WAITING => format!("and {} of waiting", row.unit),
        WORK => format!("{} of work", row.unit),
        "work-applications" => "of applications".to_owned(),
        "work-proxies" => "of agents or sidecars".to_owned(),
        "work-kernel" => "of the kernel".to_owned(),
        figure => format!("{figure}, {}", row.unit),
    }
}

/// The line of one path; where it lacks a figure, the cell is empty.
fn line(rows: &[&Row], about: &About, has_costs: bool, figures: &[&Row]) -> Vec<String> {
    let mut cells = vec![title(&about.paths, &rows[0].path)];
    if has_costs {
        let cost = rows.iter().find(|row| row.is_cost());
        let ratio = |ratio: Option<f64>| ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        cells.push(cost.map(|row| grouped(row.value)).unwrap_or_default());
        cells.extend([cost.and_then(|row| row.x_plain), cost.and_then(|row| row.x_floor)].map(ratio));
    }
    let of = |figure: &String| rows.iter().find(|row| row.figure == *figure);
    cells.extend(figures.iter().map(|row| of(&row.figure).map(|row| value(row)).unwrap_or_default()));
    cells
}

fn value(row: &Row) -> String {
    match (row.unit.as_str(), row.x_plain) {
        // Right within some hundredths.
        ("%", _) if row.figure.starts_with("work-") => format!("{:.0} %", row.value),
        ("%", _) => format!("{:.2} %", row.value),
        (_, Some(ratio)) => format!("{} ({ratio:.2} x plain)", grouped(row.value)),
        _ => grouped(row.value),
    }
}

/// Bars for what a unit costs, or else for each figure in bytes but those with so many connections.
fn charts(rows: &[&Row], about: &About) -> Vec<Bars> {
    let figures = grouped_by(rows, |row| &row.figure);
    let costs: Vec<_> = figures.iter().filter(|rows| rows[0].is_cost()).collect();
    if let [costs] = costs[..] {
        return vec![bars(costs[0].unit.clone(), costs, about)];
    }
    let is_drawn = |row: &Row| row.unit == BYTES && !row.figure.ends_with(|last: char| last.is_ascii_digit());
    figures.iter().filter(|rows| is_drawn(rows[0])).map(|rows| bars(head(rows[0]), rows, about)).collect()
}

fn bars(title_of_all: String, rows: &[&Row], about: &About) -> Bars {
    let bar = |row: &&Row| {
        let is_ours = OURS.contains(&row.path.as_str());
        Bar { label: title(&about.paths, &row.path), value: row.value, is_ours }
    };
    Bars { title: title_of_all, bars: rows.iter().map(bar).collect() }
}

/// The program in the kernel that a row is about; see `--programs`.
fn program(row: &Row) -> Option<&str> {
    row.figure.strip_prefix("program ").or_else(|| row.figure.strip_prefix("runs of "))
}

/// A table of the programs that run for new connections on one path.
fn of_programs(rows: &[&Row], about: &About) -> Section {
    let costs: Vec<_> = rows.iter().filter(|row| row.figure.starts_with("program ")).collect();
    let runs = |name: &str| rows.iter().find(|row| row.figure.strip_prefix("runs of ") == Some(name));
    let line = |row: &&&Row| {
        let name = program(row)?;
        let runs = runs(name)?.value;
        Some(vec![name.to_owned(), format!("{runs:.1}"), grouped(row.value / runs), grouped(row.value)])
    };
    let mut lines: Vec<_> = costs.iter().filter_map(line).collect();
    let all = costs.iter().map(|row| row.value).sum();
    lines.push(vec!["all".to_owned(), String::new(), String::new(), grouped(all)]);
    let unit = &rows[0].unit;
    let heads = ["program", "runs for a connection", &format!("{unit} each"), &format!("{unit} for a connection")];
    let title = format!("Programs in the kernel, {}", title(&about.paths, &rows[0].path));
    Section { title, charts: Vec::new(), table: Table { heads: heads.map(str::to_owned).to_vec(), rows: lines } }
}

/// Where instructions are spent, as rows of `--profile` call it, and in words.
const PLACES: [(&str, &str); 2] = [("in-kernel", "in the kernel"), ("in-programs", "in programs")];

/// The place that a row is about, and the function in it; without a function it is about the whole of it.
fn place(row: &Row) -> Option<(&str, Option<&str>)> {
    let (place, function) = match row.figure.split_once(' ') {
        Some((place, function)) => (place, Some(function)),
        None => (row.figure.as_str(), None),
    };
    PLACES.iter().any(|(known, _)| *known == place).then_some((place, function))
}

/// A table of the functions in one place in which a workload on one path spends most.
fn profile(rows: &[&Row], about: &About, of: &str, words: &str) -> Section {
    let functions = rows.iter().filter_map(|row| Some((place(row)?, row)));
    let mut all = 0.0;
    let mut lines = Vec::new();
    for ((_, function), row) in functions.filter(|((place, _), _)| *place == of) {
        match function {
            Some(function) => lines.push(vec![function.to_owned(), value(row)]),
            None => all = row.value,
        }
    }
    let [workload, path] = [title(&about.workloads, &rows[0].workload), title(&about.paths, &rows[0].path)];
    Section {
        title: format!("{workload}, {path}: {all:.1} % {words}"),
        charts: Vec::new(),
        table: Table { heads: ["function", "share"].map(str::to_owned).to_vec(), rows: lines },
    }
}

fn wanted(goals: &[Goal]) -> Option<Section> {
    let verdict = |goal: &Goal| if goal.is_met { "met" } else { "missed" }.to_owned();
    let row =
        |goal: &Goal| vec![goal.what.to_owned(), format!("{:.2}", goal.figure), goal.bound.to_string(), verdict(goal)];
    let table = Table {
        heads: ["goal", "figure", "shall be", "and is"].map(str::to_owned).to_vec(),
        rows: goals.iter().map(row).collect(),
    };
    (!goals.is_empty()).then(|| Section { title: "Goals".to_owned(), charts: Vec::new(), table })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::bench::rows::example::{cost, figure};

    /// A kernel on which a round trip and the memory of an agent were measured.
    pub(crate) fn measured(rows: Vec<Row>) -> Measured {
        let words = |word: &str, words: &str| BTreeMap::from([(word.to_owned(), words.to_owned())]);
        let about = About {
            kernel: "6.12.1".to_owned(),
            kernel_tls: true,
            programs: vec!["nginx <1.22>".to_owned()],
            paths: words("plain", "plain TCP"),
            workloads: words("rt64", "64-byte round trip"),
        };
        Measured { about, rows, is_steady: true }
    }

    pub(crate) fn rows() -> Vec<Row> {
        let percent = |path, apart| Row { unit: "%".to_owned(), ..figure("rt64", path, APART, apart) };
        let bytes = |name, bytes| Row { unit: "bytes".to_owned(), ..figure("idle", "direct", name, bytes) };
        vec![
            Row { x_plain: Some(1.0), ..cost("rt64", "plain", 30_074.0) },
            percent("plain", 0.02),
            Row { x_plain: Some(1.681), ..cost("rt64", "direct", 50_556.0) },
            percent("direct", 0.5),
            Row { unit: "nanoseconds".to_owned(), ..figure("rt64", "direct", WAITING, 1_200.0) },
            bytes("memory-client", 537.0),
            bytes("memory-server", 590.0),
        ]
    }

    fn sections(rows: Vec<Row>) -> Vec<Section> {
        on_kernel(&measured(rows)).sections
    }

    fn cells<const N: usize>(cells: [&str; N]) -> Vec<String> {
        cells.map(str::to_owned).to_vec()
    }

    #[test]
    fn a_workload_has_a_line_for_each_path_and_a_column_for_each_figure() {
        let sections = sections(rows());
        let titles: Vec<_> = sections.iter().map(|section| section.title.as_str()).collect();
        assert_eq!(titles, ["64-byte round trip", "idle", "Goals"]);
        let heads = ["path", "instructions", "x plain", "x floor", "and nanoseconds of waiting", "apart by"];
        let expected = Table {
            heads: cells(heads),
            rows: vec![
                cells(["plain TCP", "30,074", "1.00", "", "", "0.02 %"]),
                cells(["direct", "50,556", "1.68", "", "1,200", "0.50 %"]),
            ],
        };
        assert_eq!(sections[0].table, expected);
        let heads = cells(["path", "memory-client, bytes", "memory-server, bytes"]);
        assert_eq!(sections[1].table, Table { heads, rows: vec![cells(["direct", "537", "590"])] });
        assert_eq!(sections[2].table.rows[0], cells(["direct, round trip, x plain TCP", "1.68", "at most 2.1", "met"]));
    }

    #[test]
    fn costs_are_drawn_or_else_what_is_in_bytes() {
        let sections = sections(rows());
        let drawn = |section: &Section| {
            let charts = section.charts.iter();
            charts.map(|bars| (bars.title.clone(), bars.bars.iter().map(|bar| bar.value).collect())).collect::<Vec<_>>()
        };
        assert_eq!(drawn(&sections[0]), [("instructions".to_owned(), vec![30_074.0, 50_556.0])]);
        let memory =
            [("memory-client, bytes".to_owned(), vec![537.0]), ("memory-server, bytes".to_owned(), vec![590.0])];
        assert_eq!(drawn(&sections[1]), memory);
        assert_eq!(sections[0].charts[0].bars.iter().map(|bar| bar.is_ours).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn programs_are_a_table_of_their_own() {
        let rows = [("program ingress", "instructions", 2_000.0), ("runs of ingress", "runs", 10.0)];
        let row = |(name, unit, value): (&str, &str, f64)| Row {
            unit: unit.to_owned(),
            ..figure("connect", "outside", name, value)
        };
        let sections = sections(rows.map(row).to_vec());
        assert_eq!(sections.len(), 1);
        assert_eq!(sections[0].title, "Programs in the kernel, outside");
        assert_eq!(
            sections[0].table.rows,
            [cells(["ingress", "10.0", "200", "2,000"]), cells(["all", "", "", "2,000"])]
        );
    }

    #[test]
    fn a_profile_tells_kernel_and_programs_apart() {
        let shares = [
            ("in-kernel", 60.0),
            ("in-programs", 40.0),
            ("in-kernel tcp_ack", 9.5),
            ("in-programs enforcer: main", 8.25),
        ];
        let row = |(name, share)| Row { unit: "%".to_owned(), ..figure("rt64", "direct", name, share) };
        let sections = sections(shares.map(row).to_vec());
        let told: Vec<_> = sections.iter().map(|section| (section.title.as_str(), &section.table.rows[..])).collect();
        let expected = [
            ("64-byte round trip, direct: 60.0 % in the kernel", &[cells(["tcp_ack", "9.50 %"])][..]),
            ("64-byte round trip, direct: 40.0 % in programs", &[cells(["enforcer: main", "8.25 %"])][..]),
        ];
        assert_eq!(told, expected);
    }
}
