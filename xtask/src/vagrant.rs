//! `cargo xtask vagrant`: the suites on two virtual machines and the real virtual network between them.
//!
//! Box, up, suites, destroy; without an argument all four, and nothing is left running however it ends. Everything runs
//! in a bed of its own (`bed`): namespaces with a private libvirt, so that this machine's libvirt, networks and
//! configuration are neither needed nor touched, and that vanish as a whole. What stays is the cached box.
//!
//! The machines themselves are described in the folder `vagrant/`; what is promised of them, in `suites`.

mod bed;
mod capture;
mod node;
mod suites;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::artifacts::Profile;
use crate::setup::{self, Need};
use crate::{artifacts, cache, process};
use bed::{Bed, Lifetime};
use suites::Score;

/// What the box is made from. Other contents are another box.
const RECIPE: [&str; 4] = [
    include_str!("../../vagrant/box/build.sh"),
    include_str!("../../vagrant/box/configure.sh"),
    include_str!("../../vagrant/box/Vagrantfile"),
    include_str!("../../vagrant/box/metadata.json"),
];

/// Run the suites on two Debian virtual machines.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Needs root. Without STEP: all four in this order, and destroy also after a failure or Ctrl-C.

Examples:
  cargo xtask vagrant             everything, a few minutes
  cargo xtask vagrant up          start the machines and keep them
  cargo xtask vagrant suites      run the suites on them, as often as you like
  cargo xtask vagrant destroy     remove them")]
pub(crate) struct Args {
    /// One step only.
    #[arg(value_enum, value_name = "STEP")]
    step: Option<Step>,
}

/// One step of the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// Make the box, unless it is cached.
    Box,
    /// Start both machines and install the agent built from this checkout.
    Up,
    /// Run the suites on the running machines.
    Suites,
    /// Stop and remove the machines, their networks and their libvirt.
    Destroy,
    /// Hold the bed: the first process in its namespaces.
    #[value(hide = true)]
    Hold,
}

/// Runs the verb; a promise that does not hold is exit code 1.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !process::is_root() {
        bail!("virtual machines and their networks need root: sudo env \"PATH=$PATH\" cargo xtask vagrant");
    }
    if args.step == Some(Step::Hold) {
        return bed::hold(&folder());
    }
    setup::ensure(&[Need::Build, Need::Vagrant])?;
    let mut clock = Clock::default();
    let outcome = match args.step {
        None => whole_way(&mut clock),
        Some(Step::Box) => clock.time("box", make_box).map(|_| None),
        Some(Step::Up) => clock.time("up", || up(&Bed::start(&folder(), Lifetime::UntilStopped)?)).map(|()| None),
        Some(Step::Suites) => clock.time("suites", || suites::run(&Bed::find(&folder())?)).map(Some),
        Some(Step::Destroy | Step::Hold) => clock.time("destroy", || destroy(Bed::find(&folder())?)).map(|()| None),
    };
    clock.print();
    let Some(score) = outcome? else { return Ok(ExitCode::SUCCESS) };
    score.print();
    Ok(if score.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All steps in order. The bed ends with this process, so that even SIGKILL leaves nothing running.
fn whole_way(clock: &mut Clock) -> Result<Option<Score>> {
    clock.time("box", make_box)?;
    let bed = Bed::start(&folder(), Lifetime::OfThisProcess)?;
    let score = clock.time("up", || up(&bed)).and_then(|()| clock.time("suites", || suites::run(&bed)));
    let destroyed = clock.time("destroy", || destroy(bed));
    let score = score?;
    destroyed.map(|()| Some(score))
}

/// Makes the box, or finds it in the cache; returns where it is.
fn make_box() -> Result<PathBuf> {
    let overlay = overlay(&recipe().join("root"))?;
    let inputs: Vec<&str> = RECIPE.into_iter().chain(overlay.iter().map(String::as_str)).collect();
    cache::entry("vagrant-box", &inputs, |path| {
        process::run(process::command(recipe().join("build.sh")).arg(path)).context("make the box")
    })
}

/// The names and contents of the files that the recipe puts over the root file system, in a fixed order.
fn overlay(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() {
            found.extend(overlay(&path)?);
        } else {
            found.push(path.display().to_string());
            found.push(fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?);
        }
    }
    Ok(found)
}

/// Starts both machines in the bed, with the agent of this checkout on them.
fn up(bed: &Bed) -> Result<()> {
    stage()?;
    let path = make_box()?;
    let name = ["box", "add", "--force", "--name", "enforcer/trixie"];
    process::run(bed.vagrant().args(name).arg(path)).context("hand the box to Vagrant")?;
    process::run(bed.vagrant().arg("up")).context("start the machines")
}

/// Builds the agent and puts it where the Vagrantfile copies it from.
fn stage() -> Result<()> {
    let stage = folder().join("stage");
    fs::create_dir_all(&stage).with_context(|| format!("create {}", stage.display()))?;
    let built = artifacts::enforcer(Profile::Dev)?;
    fs::copy(&built, stage.join("enforcer")).with_context(|| format!("copy {}", built.display())).map(drop)
}

/// Removes the machines by the book, then the bed with whatever may be left in it.
fn destroy(bed: Bed) -> Result<()> {
    let by_the_book = process::run(bed.vagrant().args(["destroy", "--force"])).context("remove the machines");
    bed.stop()?;
    by_the_book
}

/// Where the bed and the staged files are; `vagrant/Vagrantfile` names its `stage`.
fn folder() -> PathBuf {
    process::workspace().join("target/vagrant")
}

/// The folder of the box's recipe.
fn recipe() -> PathBuf {
    process::workspace().join("vagrant/box")
}

/// The wall times of the steps, for the summary.
#[derive(Default)]
struct Clock(Vec<(&'static str, Duration, &'static str)>);

impl Clock {
    /// Runs a step and notes how long it took and how it ended.
    fn time<T>(&mut self, step: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let outcome = work();
        self.0.push((step, start.elapsed(), if outcome.is_ok() { "done" } else { "failed" }));
        outcome
    }

    #[expect(clippy::print_stdout, reason = "the summary is the verb's output")]
    fn print(&self) {
        for (step, took, end) in &self.0 {
            println!("{step:<8} {end:<6} {:>6.1} s", took.as_secs_f64());
        }
    }
}
