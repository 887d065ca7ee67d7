//! `cargo xtask fuzz`: runs the targets of `tests/fuzz` with libFuzzer, for a while each, as many at once as there are
//! processors.
//!
//! Needs neither a nightly compiler nor cargo-fuzz: the packages of this workspace are instrumented with what the stable
//! one has, and all targets are in one program. What was found worth keeping stays in `target/fuzz/corpus`, and the next run
//! begins with it and with what is checked in.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, ExitStatus};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, bail, ensure};

use crate::setup::{self, Need};
use crate::{artifacts, process};

/// Feed what libFuzzer thinks up to everything that reads what others send.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask fuzz
  cargo xtask fuzz --seconds 600 certificates
  cargo xtask fuzz certificates --input target/fuzz/failed/certificates-crash-0123")]
pub(crate) struct Args {
    /// For each target.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Run the target on this file, once, and show what it says.
    #[arg(long, value_name = "FILE", requires = "targets")]
    input: Option<PathBuf>,
    /// Only these targets.
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

/// Relative to the workspace: what is checked in, a folder for each target, and what comes of a run.
const SEEDS: &str = "tests/fuzz/corpus";
const RESULTS: &str = "target/fuzz";
/// Tells the program which target is meant.
const TARGET: &str = "ENFORCER_FUZZ_TARGET";
/// Bounds of a target, in libFuzzer's words: octets of an input, seconds for one, MiB of all memory.
const BOUNDS: [&str; 3] = ["-max_len=8192", "-timeout=20", "-rss_limit_mb=1024"];
/// Lines of a target that failed, from the end of what it said.
const SHOWN: usize = 40;

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let targets = args.chosen()?;
    setup::ensure(&[Need::Build, Need::Fuzz])?;
    eprintln!("fuzz: building");
    let program = artifacts::fuzz()?;
    if let (Some(input), [target]) = (&args.input, targets.as_slice()) {
        // Cargo has started xtask where its user is, and the program runs in the root folder.
        let input = fs::canonicalize(input).with_context(|| format!("find {}", input.display()))?;
        let status = process::command(program).env(TARGET, target).args(BOUNDS).arg(input).status()?;
        return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    for folder in ["corpus", "failed", "log"] {
        fs::create_dir_all(results(folder)).with_context(|| format!("make {RESULTS}/{folder}"))?;
    }
    let finished = run_all(&program, &targets, args.seconds)?;
    summarize(&finished)
}

impl Args {
    /// The targets that are asked for; all of them, if none is.
    fn chosen(&self) -> Result<Vec<String>> {
        let all = all()?;
        if let Some(unknown) = self.targets.iter().find(|target| !all.contains(target)) {
            bail!("there is no target {unknown:?}; there are: {}", all.join(", "));
        }
        ensure!(self.input.is_none() || self.targets.len() == 1, "an input is for one target");
        Ok(if self.targets.is_empty() { all } else { self.targets.clone() })
    }
}

/// Each has something checked in that it begins with.
fn all() -> Result<Vec<String>> {
    let folders = fs::read_dir(process::workspace().join(SEEDS)).with_context(|| format!("read {SEEDS}"))?;
    let mut names: Vec<String> = folders
        .map(|folder| Ok(folder?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()
        .with_context(|| format!("read {SEEDS}"))?;
    names.sort();
    Ok(names)
}

fn results(part: &str) -> PathBuf {
    process::workspace().join(RESULTS).join(part)
}

/// A target that has come to its end.
struct Finished {
    target: String,
    status: ExitStatus,
}

/// One target for each processor at a time, the next one as soon as one ends.
fn run_all(program: &Path, targets: &[String], seconds: u32) -> Result<Vec<Finished>> {
    let places = thread::available_parallelism().map_or(1, usize::from);
    let (tell, ended) = mpsc::channel();
    let (mut finished, mut running, mut waiting) = (Vec::new(), 0, targets.iter());
    loop {
        while running < places
            && let Some(target) = waiting.next()
        {
            let (mut child, tell, target) = (start(program, target, seconds)?, tell.clone(), target.clone());
            // Nothing but waiting: children are started by the main thread.
            thread::spawn(move || tell.send((target, child.wait())));
            running += 1;
        }
        if running == 0 {
            return Ok(finished);
        }
        let (target, status) = ended.recv().context("wait for a target")?;
        running -= 1;
        let status = status.with_context(|| format!("wait for {target}"))?;
        eprintln!("fuzz: {target} {}", if status.success() { "passed" } else { "FAILED" });
        finished.push(Finished { target, status });
    }
}

fn start(program: &Path, target: &str, seconds: u32) -> Result<Child> {
    let kept = results("corpus").join(target);
    fs::create_dir_all(&kept).with_context(|| format!("make {}", kept.display()))?;
    let log = File::create(log(target)).with_context(|| format!("write {}", log(target).display()))?;
    eprintln!("fuzz: {target} for {seconds} s");
    process::command(program)
        .env(TARGET, target)
        .args(BOUNDS)
        .args([format!("-max_total_time={seconds}"), "-print_final_stats=1".to_owned()])
        .arg(format!("-artifact_prefix={}/{target}-", results("failed").display()))
        // The first one is written to.
        .args([kept, process::workspace().join(SEEDS).join(target)])
        .stderr(log)
        .spawn()
        .with_context(|| format!("start {target}"))
}

fn log(target: &str) -> PathBuf {
    results("log").join(target)
}

fn summarize(finished: &[Finished]) -> Result<ExitCode> {
    let (mut text, mut failed) = (String::new(), 0);
    for Finished { target, status } in finished {
        let said = fs::read(log(target)).with_context(|| format!("read {}", log(target).display()))?;
        let said = String::from_utf8_lossy(&said);
        if !status.success() {
            failed += 1;
            text += &failure(target, &said);
        }
        text += &format!("{target:16} {}\n", Figures::read(&said).shown());
    }
    text += &format!("{} passed, {failed} failed\n", finished.len() - failed);
    io::stdout().write_all(text.as_bytes()).context("print the summary")?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What it said at last, and how to see it again.
fn failure(target: &str, said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    let mut text = format!("\n{target} FAILED:\n");
    for line in &lines[lines.len().saturating_sub(SHOWN)..] {
        text += &format!("  {line}\n");
    }
    if let Some((_, input)) = said.rsplit_once("Test unit written to ") {
        let input = input.lines().next().unwrap_or_default();
        text += &format!("input: {input}\nagain: cargo xtask fuzz {target} --input {input}\n\n");
    }
    text
}

/// What libFuzzer has counted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Figures {
    executions: u64,
    features: u64,
    inputs: u64,
}

impl Figures {
    /// From lines such as `#1087 DONE cov: 8451 ft: 16887 corp: 939/20Kb exec/s: 0 rss: 38Mb`: the last one counts.
    fn read(said: &str) -> Self {
        let line = said.lines().rfind(|line| line.starts_with('#') && line.contains(" ft: ")).unwrap_or_default();
        let digits = |text: &str| {
            let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
            text[..end].parse().unwrap_or_default()
        };
        let after = |name: &str| line.split_once(name).map_or(0, |(_, rest)| digits(rest));
        Self { executions: after("#"), features: after(" ft: "), inputs: after(" corp: ") }
    }

    fn shown(&self) -> String {
        let Self { executions, features, inputs } = self;
        format!("{executions:>9} executions, {features:>6} features, {inputs:>5} inputs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_the_last_line() {
        let said = "#2\tINITED cov: 21 ft: 22 corp: 1/1b exec/s: 0 rss: 33Mb\nfunny\n\
                    #166722\tDONE   cov: 3050 ft: 8143 corp: 1085/18Kb lim: 122 exec/s: 18524 rss: 39Mb\nDone 1\n";
        assert_eq!(Figures::read(said), Figures { executions: 166_722, features: 8143, inputs: 1085 });
        assert_eq!(Figures::read("INFO: nothing"), Figures::default());
    }

    #[test]
    fn a_failure_says_how_to_see_it_again() {
        let said = "panicked at x\nartifact_prefix='/w/'; Test unit written to /w/pair-crash-01\nBase64: AA==\n";
        let text = failure("pair", said);
        assert!(text.contains("panicked at x\n"), "{text}");
        assert!(text.contains("again: cargo xtask fuzz pair --input /w/pair-crash-01\n"), "{text}");
    }
}
