//! What a connection costs between two nodes: in the clear, with kernel TLS that the applications set up themselves, on
//! the direct path, through the relay, and with what others use: IPsec, WireGuard, and pairs of sidecars. All in one run,
//! on one machine.
//!
//! `cargo xtask bench` runs it in a virtual machine whose clock counts instructions, so that the figures are costs: all
//! processes and the kernel together, the same in every run. On another clock they are times, and only their ratios
//! mean something.
//!
//! One path is measured after the other, each at least twice, on nodes that exist meanwhile and no longer. Turns would distort: an
//! agent's programs run for everybody on their kernel, so that nodes with agents beside them make plain TCP dearer (a
//! round trip by 12 %, a connection by 8 %, 6.12). And nothing drifts that turns would even out: this clock does
//! not know how busy the machine is.
//!
//! [`path`] says between what is compared, [`workload`] and its modules what is measured, [`rows`] how figures are told.
//! What becomes of them (report, goals, comparison) is the business of `cargo xtask bench`.

mod path;
mod workload;

mod profile;
mod programs;

mod figures;
mod rows;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use enforcer_tests::settings::kernel_has_tls;
use enforcer_tests::teardown;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use self::figures::{Clock, Figures};
use self::path::{Path, Site};
use self::rows::Row;
use self::workload::Workload;

/// The command line; `cargo xtask bench` passes its own on.
#[derive(Debug, Parser)]
#[command(about = "What a connection costs, path by path")]
struct Args {
    /// Only these paths
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Path>,
    /// Only these workloads
    #[arg(long, value_enum, value_delimiter = ',')]
    workload: Vec<Workload>,
    /// The clock counts instructions
    #[arg(long)]
    instructions: bool,
    /// Only what the programs in the kernel cost a new connection
    #[arg(long, conflicts_with = "workload")]
    programs: bool,
    /// Only in which functions of the kernel and of programs instructions are spent
    #[arg(long, conflicts_with = "programs")]
    profile: bool,
}

impl Args {
    fn clock(&self) -> Clock {
        if self.instructions { Clock::Instructions } else { Clock::Time }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = teardown::begin().and_then(|()| run(&args));
    teardown::sweep();
    match result {
        Ok(code) => code,
        Err(error) => {
            say(&format!("bench: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    allow_many_files()?;
    let (mut paths, workloads) = (chosen(&args.only), chosen(&args.workload));
    paths.retain(|path| kernel_has_tls() || !path.needs_kernel_tls());
    if args.programs {
        return tell_programs(paths, args.clock().unit());
    }
    path::require(&paths, &workloads)?;
    if args.profile {
        return tell_profile(paths, &workloads);
    }
    let (mut figures, clock) = (Figures::default(), args.clock());
    let programs = path::versions(&paths, &workloads)?;
    for path in paths {
        let site = Site::create(path)?;
        for workload in workloads.iter().copied().filter(|workload| workload.suits(path)) {
            site.explain(workload.measure(&site, &mut figures).with_context(|| format!("{workload}, {path}")))?;
            let cost = figures.cost(workload, path, clock).map(|cost| format!(": {cost:.0} {}", clock.unit()));
            say(&format!("measured: {workload}, {path}{}\n", cost.unwrap_or_default()));
        }
        site.prove_path()?;
    }
    tell(&figures.rows(clock), &programs);
    let unsteady = figures.unsteady(clock);
    for (workload, path, part) in &unsteady {
        say(&format!(
            "bench: {workload}, {path}: however often it was measured, most differ by {:.1} %\n",
            part * 100.0
        ));
    }
    Ok(if unsteady.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell_programs(paths: Vec<Path>, unit: &'static str) -> Result<ExitCode> {
    let mut rows = Vec::new();
    for path in paths.into_iter().filter(|path| path.has_agents()) {
        let site = Site::create(path)?;
        rows.extend(site.explain(programs::measure(&site, unit).with_context(|| path.to_string()))?);
        site.prove_path()?;
    }
    tell(&rows, &[]);
    Ok(ExitCode::SUCCESS)
}

fn tell_profile(paths: Vec<Path>, workloads: &[Workload]) -> Result<ExitCode> {
    let mut rows = Vec::new();
    for path in paths {
        let site = Site::create(path)?;
        for &workload in workloads.iter().filter(|workload| workload.suits(path)) {
            let profile = profile::measure(&site, workload).with_context(|| format!("profile of {workload}, {path}"));
            rows.extend(site.explain(profile)?);
            say(&format!("looked at: {workload}, {path}\n"));
        }
        site.prove_path()?;
    }
    tell(&rows, &[]);
    Ok(ExitCode::SUCCESS)
}

/// Figures, and the programs that were compared with, each with its version.
fn tell(rows: &[Row], programs: &[String]) {
    say(&rows::about(programs));
    say(&rows.iter().map(Row::line).collect::<String>());
}

/// What was asked for in the order of the table; everything when nothing was.
fn chosen<T: ValueEnum + PartialEq>(asked: &[T]) -> Vec<T> {
    let all = T::value_variants().iter().map(T::clone);
    all.filter(|one| asked.is_empty() || asked.contains(one)).collect()
}

/// Two files for every idle connection, here and in what is started from here.
fn allow_many_files() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("read the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit of open files")
}

fn say(text: &str) {
    // Without a standard output there is nobody to tell.
    let _told = std::io::stdout().write_all(text.as_bytes());
}
