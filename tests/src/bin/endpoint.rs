//! The program behind `enforcer_tests::peer`: see `enforcer_tests::endpoint`.

use std::process::ExitCode;

use clap::Parser;
use enforcer_tests::endpoint::Endpoint;

fn main() -> ExitCode {
    match Endpoint::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
