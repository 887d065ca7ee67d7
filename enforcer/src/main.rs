//! `enforcer`: parse, logs, run, exit code.

use std::process;

use clap::Parser;
use enforcer::cli::{Cli, ExitCode, complain};
use enforcer::observe::log;

fn main() -> process::ExitCode {
    let cli = Cli::parse();
    if let Err(error) = log::start(cli.log_format, &cli.log_level) {
        complain(&error);
        return ExitCode::Usage.into();
    }
    cli.run().into()
}
