//! `cargo xtask demo`: the main job in front of the reader, with a packet capture as the proof.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::artifacts;
use crate::process;
use crate::setup::{self, Need};
use crate::test::{guest_environment, guest_files};
use crate::vm::{Kernel, Vm};

/// Show two nodes whose unmodified programs talk mutual TLS, and prove it from captured packets.
///
/// Runs inside a virtual machine where this machine's kernel has no kernel TLS.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// On this machine's kernel, whatever it can do.
    #[arg(long, conflicts_with = "vm")]
    native: bool,
    /// In a virtual machine.
    #[arg(long)]
    vm: bool,
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Need::Build, Need::Suites])?;
    let artifacts = artifacts::build()?;
    if args.native || (!args.vm && has_kernel_tls()) {
        // In our place, so that whoever presses Ctrl-C gets the terminal back after the demo has cleaned up, not before.
        return Err(process::root_command(&artifacts.demo).exec()).context("start the demo");
    }
    if !args.vm {
        eprintln!("demo: this machine's kernel has no kernel TLS; going on in a virtual machine that has");
    }
    let mut command = guest_environment();
    command.push("/usr/local/bin/demo".to_owned());
    let vm = Vm { files: guest_files(&artifacts), ..Vm::new(Kernel::V6_12, command) };
    let status = vm.run(&mut io::stdout())?;
    Ok(if status == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Asks for the module first: it is loaded when somebody needs it.
fn has_kernel_tls() -> bool {
    let mut modprobe = process::root_command("modprobe");
    // Where there is no module the list below says so.
    let _loaded = modprobe.args(["--quiet", "tls"]).stderr(Stdio::null()).status();
    let protocols = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp").unwrap_or_default();
    protocols.split_whitespace().any(|protocol| protocol == "tls")
}
