//! `cargo xtask setup`: installs the Debian packages that are missing, and says which and why.
//!
//! Every verb calls [`ensure`] for what it needs, so nobody has to run this verb first. Promises: only what is missing is
//! installed, without recommended packages; no service is started; what is there already is not upgraded or removed.

mod packages;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

pub(crate) use self::packages::{Need, Package};
use crate::process;

/// Install what is missing on this machine (Debian packages, through sudo when not root).
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What for; everything when nothing is given.
    #[arg(value_enum)]
    needs: Vec<Need>,
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    ensure(if args.needs.is_empty() { Need::value_variants() } else { &args.needs })?;
    eprintln!("setup: nothing is missing");
    Ok(ExitCode::SUCCESS)
}

/// Makes sure that this machine has what `needs` name; installs what it has not.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let installed = installed()?;
    let wanted = needs.iter().flat_map(|need| need.packages());
    let missing: Vec<_> = wanted.filter(|package| !installed.iter().any(|name| name == package.name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for Package { name, why } in &missing {
        eprintln!("setup: {name} is missing: {why}");
    }
    install(&missing.iter().map(|package| package.name).collect::<Vec<_>>())
}

/// The names of the packages that are installed here.
fn installed() -> Result<Vec<String>> {
    if !process::exists("dpkg-query") {
        bail!("this machine has no dpkg-query: cargo xtask knows Debian and its descendants only");
    }
    let format = "--showformat=${db:Status-Status} ${Package}\n";
    let listing = process::output(process::command("dpkg-query").args(["--show", format]))?;
    Ok(listing.lines().filter_map(|line| line.strip_prefix("installed ")).map(str::to_owned).collect())
}

/// Installs without starting services.
fn install(names: &[&str]) -> Result<()> {
    process::run(process::root_command("sh").args(["-c", INSTALL, "install"]).args(names))
        .with_context(|| format!("install {}", names.join(" ")))
}

const INSTALL: &str = include_str!("install.sh");
