//! `enforcer policy`: a look at what policies do before they are in force.

mod change;
mod impact;

use clap::{Args as ClapArgs, Subcommand};

use super::ExitCode;

/// Try policies before they are in force.
///
/// `enforcer explain` says the same of one connection that need not have been.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Impact(impact::Args),
}

/// Runs the verb.
///
/// # Errors
///
/// When standard output cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.verb {
        Verb::Impact(args) => impact::run(args),
    }
}
