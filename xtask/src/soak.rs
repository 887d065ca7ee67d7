//! `cargo xtask soak`: two nodes under load for a long time, while everything that can happen to them happens.
//!
//! The program is `tests/src/bin/soak/`; here it is built and run, in a virtual machine whose kernel has kernel TLS, or in
//! network namespaces of this machine.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::artifacts::{self, Profile};
use crate::process;
use crate::setup::{self, Need};
use crate::test::{guest_environment, guest_file};
use crate::vm::{Kernel, Vm};

/// Keep two nodes under load while agents are killed, configurations change, identities are revoked and addresses move.
///
/// Fails if a connection is refused that must succeed, if one succeeds that must be refused, or if a single packet on
/// the wire is in the clear.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask soak
  cargo xtask soak --minutes 1 --native
  cargo xtask soak --minutes 3 --kernel 7.2 --seed 42")]
pub(crate) struct Args {
    /// For how long.
    #[arg(long, default_value_t = 15)]
    minutes: u64,
    /// On which kernel.
    #[arg(long, default_value = "6.12", conflicts_with = "native")]
    kernel: Kernel,
    /// Another one gives other actions and connections.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// In network namespaces of this machine, whatever its kernel can do.
    #[arg(long)]
    native: bool,
}

/// MiB: what programs say stays in it for as long as it runs.
const MEMORY: u32 = 4096;
/// Beside the minutes asked for: to boot, to begin and to end.
const MORE_TIME: Duration = Duration::from_secs(1200);

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Need::Build, Need::Suites])?;
    let mut programs = artifacts::programs(Profile::Dev, &["endpoint", "soak"])?;
    let options = ["--minutes".to_owned(), args.minutes.to_string(), "--seed".to_owned(), args.seed.to_string()];
    if args.native {
        artifacts::enforcer(Profile::Dev)?;
        let soak = programs.pop().context("the soak was built")?.1;
        let status = process::root_command(soak).args(options).arg("--shared").status().context("start the soak")?;
        return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    programs.push(("enforcer".to_owned(), artifacts::enforcer(Profile::Dev)?));
    let files = programs.iter().map(|(name, host)| guest_file(name, host)).collect();
    let mut command = guest_environment();
    command.push("/usr/local/bin/soak".to_owned());
    command.extend(options);
    let timeout = Duration::from_secs(args.minutes * 60) + MORE_TIME;
    let vm = Vm { files, timeout, memory_mib: MEMORY, ..Vm::new(args.kernel, command) };
    let status = vm.run(&mut io::stdout())?;
    Ok(if status == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
