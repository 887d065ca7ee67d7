//! `cargo xtask ci`: what must hold before a change lands. `.ci/run` calls it.
//!
//! cargo-deny is not among it: building it takes longer than three minutes, and its list of advisories is not in a
//! package registry. `deny.toml` is for whoever has it.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;

use crate::process;
use crate::setup::{self, Need};
use crate::{Verb, dispatch};

/// Format, lints, tidy, the eBPF object, 10 seconds of fuzzing for each target, all tests, and what connections cost.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Runs the verb. The cheap checks come first, and the first one that fails ends it.
pub(crate) fn run(_args: &Args) -> Result<ExitCode> {
    let started = Instant::now();
    let begin = |what: &str| eprintln!("ci: {what} (after {:.0} s)", started.elapsed().as_secs_f32());
    setup::ensure(&[Need::Build])?;
    begin("format");
    process::run(process::command(env!("CARGO")).args(["fmt", "--all", "--check"]))?;
    begin("lints");
    let lints = ["clippy", "--quiet", "--locked", "--workspace", "--all-targets", "--", "--deny", "warnings"];
    process::run(process::command(env!("CARGO")).args(lints))?;
    for verb in [
        &["tidy"][..],
        &["build-ebpf", "--check"],
        &["fuzz", "--seconds", "10"],
        &["test"],
        &["bench", "--short", "--check"],
    ] {
        begin(&verb.join(" "));
        let code = dispatch(&Verb::try_parse_from(std::iter::once(&"xtask").chain(verb))?)?;
        if code != ExitCode::SUCCESS {
            return Ok(code);
        }
    }
    eprintln!("ci: all passed in {:.0} s", started.elapsed().as_secs_f32());
    Ok(ExitCode::SUCCESS)
}
