//! `cargo xtask bench`: what a round trip costs, in instructions, beside plain TCP.
//!
//! Release binaries in a virtual machine whose clock counts instructions: the figures are costs of all processes and the
//! kernel together, they are the same in every run, and they are no times.

use std::io;
use std::process::ExitCode;

use anyhow::Result;

use crate::artifacts::{self, Profile};
use crate::setup::{self, Need};
use crate::test::{guest_environment, guest_files};
use crate::vm::{Clock, Kernels, Vm};

/// Measure what a 64-byte round trip costs through the relay, in instructions, beside plain TCP.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// On which kernels.
    #[arg(long, value_name = Kernels::CHOICES, default_value = "6.12")]
    kernel: Kernels,
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Need::Build])?;
    let artifacts = artifacts::build(Profile::Release)?;
    for &kernel in args.kernel.each() {
        let mut command = guest_environment();
        command.push("/usr/local/bin/bench".to_owned());
        let vm = Vm { files: guest_files(&artifacts), clock: Clock::Instructions, ..Vm::new(kernel, command) };
        if vm.run(&mut io::stdout())? != 0 {
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}
