//! `cargo xtask bench`: what a connection costs on each path, in instructions, beside plain TCP.
//!
//! The binaries run in a virtual machine whose clock counts instructions: the figures are costs of all processes and the
//! kernel together, they are the same in every run, and they are no times. With `--native` they run on this machine, and
//! the figures are times. The program that measures is
//! `tests/src/bin/bench/`; [`measure`] has it run and takes its figures, which are [`rows`] from then on. They become a
//! [`report`] with [`goals`], as [`markdown`] and as a page ([`html`], [`chart`]); they are compared with saved ones
//! ([`check`]), and saved.

mod measure;
mod rows;

mod goals;
mod names;
mod report;
mod table;

mod chart;
mod html;
mod machine;
mod markdown;

mod check;
mod save;

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use self::measure::{Build, Measured, Told, Wanted};
use self::names::{PATHS, WORKLOADS};
use self::report::Report;
use self::rows::Row;
use crate::artifacts::{self, Profile};
use crate::process;
use crate::setup::{self, Need};
use crate::vm::{Clock, Emulator, Kernels};

/// Measure what connections cost on each path, in instructions, side by side.
///
/// Round trips, new connections, streams, and the agents' memory: in the clear, with kernel TLS by hand, direct, and
/// through the relay. The report is told in Markdown and written to target/bench/report.md and report.html.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask bench --kernel 6.12,7.2 --save
  cargo xtask bench --only floor,direct --workload rt64,connect --json figures.json
  cargo xtask bench --short --check
  cargo xtask bench --native --only plain,relay,nginx
  cargo xtask bench --only outside,direct --programs
  cargo xtask bench --profile connect --build test
  cargo xtask bench ca")]
pub(crate) struct Args {
    /// What is measured.
    #[arg(value_enum, default_value_t = What::Connections)]
    what: What,
    /// On which kernels.
    #[arg(long, value_name = Kernels::CHOICES, default_value = "6.12")]
    kernel: Kernels,
    /// On this machine, by its clock, as root: times, and the work of its processors. Quiet machines give better figures.
    #[arg(long, conflicts_with_all = ["kernel", "short", "check", "programs", "profile", "save"])]
    native: bool,
    /// Only these paths.
    // A wrong word is better found here than after a boot.
    #[arg(long, value_name = "PATHS", value_delimiter = ',', value_parser = PATHS)]
    only: Vec<String>,
    /// Only these workloads.
    #[arg(long, value_name = "WORKLOADS", value_delimiter = ',', value_parser = WORKLOADS)]
    workload: Vec<String>,
    /// Which binaries.
    #[arg(long, value_enum, default_value_t = Build::Release)]
    build: Build,
    /// The short form, for CI: round trips and connections on four paths, with the binaries of `cargo xtask test`.
    #[arg(long, conflicts_with_all = ["only", "workload", "build"])]
    short: bool,
    /// Exit with 1 when a path of ours costs more than 3 % more than the saved figures say.
    #[arg(long)]
    check: bool,
    /// Instead: what each program in the kernel costs a new connection.
    #[arg(long, conflicts_with_all = ["workload", "short", "check", "save"])]
    programs: bool,
    /// Instead: in which functions, of the kernel and of programs, our two paths spend instructions on this workload.
    #[arg(long, value_name = "WORKLOAD", value_parser = WORKLOADS)]
    #[arg(conflicts_with_all = ["workload", "short", "check", "programs", "save"])]
    profile: Option<String>,
    /// Keep the figures in tests/benches/, those of the short form too, and make the report there of all that is kept; or keep
    /// only those of the short form, with `--short`. What is not measured stays as it was.
    #[arg(long, conflicts_with_all = ["build", "check"])]
    save: bool,
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Connections, in a virtual machine.
    Connections,
    /// The certificate authority, on this machine: processor time, and how soon everybody knows what is revoked.
    Ca,
}

/// The short form: enough to see that one of our two paths has become dearer.
const SHORT_PATHS: [&str; 4] = ["plain", "floor", "direct", "relay"];
const SHORT_WORKLOADS: [&str; 2] = ["rt64", "connect"];

/// What is looked into unless paths are named.
const PROFILED: [&str; 2] = ["direct", "relay"];

/// Where reports go that are not kept.
const REPORTS: &str = "target/bench";
const EXPLANATION: &str = include_str!("explanation.md");

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Need::Build])?;
    if args.what == What::Ca {
        return authority();
    }
    let wanted = args.wanted();
    let measured = if args.native { vec![measure::natively(&wanted)?] } else { measure::measure(&wanted)? };
    let emulator = if args.native { None } else { Some(Emulator::get(Clock::Instructions)?.version()?) };
    let facts = machine::facts(emulator)?;
    write_report(&report::report(&measured, facts.clone(), command_line()))?;
    let rows: Vec<_> = measured.iter().flat_map(|one| one.rows.clone()).collect();
    let mut has_passed = is_steady(&measured);
    if args.check {
        has_passed &= is_as_cheap(&rows, &wanted)?;
    }
    if args.save {
        // One that is not steady says so in the report, and fails the run; the others are none the worse.
        save::keep(&measured, args.is_of_all(), facts.clone(), command_line())?;
        if !args.short {
            // Afterwards: what took an hour is kept, whatever becomes of this.
            let short = measure::measure(&args.short_form())?;
            has_passed &= is_steady(&short);
            save::keep(&short, true, facts, command_line())?;
        }
    }
    if let Some(file) = &args.json {
        fs::write(file, rows::text(&rows)?).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(if has_passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The program is `tests/benches/ca.rs`; it finds the release binary of the agent beside itself.
fn authority() -> Result<ExitCode> {
    setup::ensure(&[Need::Issuer])?;
    artifacts::enforcer(Profile::Release)?;
    let mut cargo = process::command(env!("CARGO"));
    process::run(cargo.args(["bench", "--quiet", "--package", "enforcer-tests", "--bench", "ca"]))?;
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// Whether nothing is left out.
    fn is_of_all(&self) -> bool {
        self.only.is_empty() && self.workload.is_empty()
    }

    fn wanted(&self) -> Wanted {
        if self.short {
            return self.short_form();
        }
        let (mut paths, mut workloads) = (self.only.clone(), self.workload.clone());
        if let Some(workload) = &self.profile {
            workloads = vec![workload.clone()];
            if paths.is_empty() {
                paths = PROFILED.map(str::to_owned).to_vec();
            }
        }
        let what = match (&self.profile, self.programs) {
            (Some(_), _) => Told::Profile,
            (None, true) => Told::Programs,
            (None, false) => Told::Figures,
        };
        Wanted { build: self.build, kernels: self.kernel.each().to_vec(), paths, workloads, what }
    }

    fn short_form(&self) -> Wanted {
        Wanted {
            build: Build::Test,
            kernels: self.kernel.each().to_vec(),
            paths: SHORT_PATHS.map(str::to_owned).to_vec(),
            workloads: SHORT_WORKLOADS.map(str::to_owned).to_vec(),
            what: Told::Figures,
        }
    }
}

/// As somebody would type it.
fn command_line() -> String {
    let arguments = std::env::args().skip(1).map(|argument| format!(" {argument}"));
    format!("cargo xtask{}", arguments.collect::<String>())
}

/// Whether each cost was the same each time.
fn is_steady(measured: &[Measured]) -> bool {
    measured.iter().all(|one| one.is_steady)
}

fn write_report(report: &Report) -> Result<()> {
    let folder = process::workspace().join(REPORTS);
    fs::create_dir_all(&folder).with_context(|| format!("create {REPORTS}"))?;
    let write =
        |name: &str, text: &str| fs::write(folder.join(name), text).with_context(|| format!("write {REPORTS}/{name}"));
    let text = markdown::text(report);
    write("report.md", text.trim_start())?;
    write("report.html", &html::page(report, EXPLANATION)?)?;
    io::stdout().write_all(text.as_bytes()).context("tell the report")?;
    eprintln!("bench: written to {REPORTS}/report.html and report.md");
    Ok(())
}

/// Tells what has become dearer, if anything.
fn is_as_cheap(rows: &[Row], wanted: &Wanted) -> Result<bool> {
    let saved = rows::read(&process::workspace().join(save::FIGURES))?;
    let comparison = check::compare(rows, &saved, &wanted.paths, &wanted.workloads)?;
    for line in &comparison.worse {
        eprintln!("bench: worse: {line}");
    }
    if comparison.worse.is_empty() {
        eprintln!("bench: none of {} costs is more than 3 % above {}", comparison.compared, save::FIGURES);
    } else {
        eprintln!("bench: {}", check::ADVICE);
    }
    Ok(comparison.worse.is_empty())
}
