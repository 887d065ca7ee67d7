//! `cargo xtask vm`: one command in a virtual machine with a Debian kernel.
//!
//! The path of a run: [`kernel`] and [`root`] give cached images, [`payload`] packs the command and its files, [`qemu`]
//! boots, passes the output on and returns the exit code. Other verbs use [`Vm`]. Promises: the same inputs give the same
//! machine; nothing written in it survives; it ends with `xtask`. It has no network card: namespaces inside it are all
//! the network there is. amd64 only.

mod emulator;
mod kernel;
mod payload;
mod qemu;
mod root;

use std::io::Write;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

pub(crate) use self::emulator::Emulator;
pub(crate) use self::kernel::Kernel;
pub(crate) use self::payload::Put;
use self::qemu::{Accelerator, End};
use crate::setup::{self, Need};

/// Boot a Debian kernel under QEMU and run a command there.
///
/// The first run of a kernel downloads and packs it; later ones take seconds. The command runs as root in /work, on
/// Debian 12 with all programs of the suites; its output and exit code become those of this command. Exit code 125 means
/// that there is none: the machine could not be made, panicked or took too long.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask vm -- uname -r
  cargo xtask vm --kernel all -- sh -c 'modprobe tls && cat /proc/sys/net/ipv4/tcp_available_ulp'
  cargo xtask vm --put target/debug/enforcer:/usr/local/bin/enforcer -- enforcer doctor")]
pub(crate) struct Args {
    /// Which kernel; `all` runs on each in turn and fails when one fails.
    #[arg(long, value_name = Kernels::CHOICES, default_value = "6.12")]
    kernel: Kernels,
    /// Count one instruction as one nanosecond, on one emulated processor: times become costs that can be compared.
    #[arg(long)]
    icount: bool,
    /// Memory in MiB; files that the command writes are in it too.
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    memory: u32,
    /// Virtual processors.
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Seconds until the machine is stopped and the run fails.
    #[arg(long, value_name = "SECS", default_value_t = 600)]
    timeout: u64,
    /// A file to take in, without its debug information; may be given several times.
    #[arg(long, value_name = "HOSTFILE:GUESTPATH")]
    put: Vec<Put>,
    /// The command and its arguments.
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Which kernels a verb runs on: every one that we promise to run on, or those that were named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kernels(Vec<Kernel>);

impl Kernels {
    /// What can be given on a command line; several are told apart by commas.
    pub(crate) const CHOICES: &str = "6.1|6.12|7.2|all";

    /// The kernels meant, in the order in which they were named.
    pub(crate) fn each(&self) -> &[Kernel] {
        &self.0
    }
}

impl FromStr for Kernels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self(Kernel::ALL.to_vec()));
        }
        text.split(',').map(|name| Kernel::from_str(name, false)).collect::<Result<_, _>>().map(Self)
    }
}

/// What a nanosecond is in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    /// A nanosecond, as fast as this machine can.
    Real,
    /// One instruction; the same every time. One processor only.
    Instructions,
}

/// How often a machine is started that dies before its command begins, or of a breakpoint in the kernel's own code. QEMU's
/// emulation of several processors got the kernel's changes of its own code wrong now and then: with QEMU 7.2 once in some
/// hundred boots and once in some ten runs of all suites ([`Emulator`] says why; not seen since).
const BOOTS: u32 = 3;

/// A run: what boots, what it gets, what it does.
pub(crate) struct Vm {
    pub(crate) kernel: Kernel,
    pub(crate) clock: Clock,
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u32,
    /// From the start of QEMU to its end; a machine that takes longer is stopped and the run fails.
    pub(crate) timeout: Duration,
    pub(crate) files: Vec<Put>,
    /// Debian packages beside those of the suites; other ones are another root filesystem.
    pub(crate) packages: &'static [&'static str],
    /// Program and arguments; no shell looks at them.
    pub(crate) command: Vec<String>,
}

impl Vm {
    /// A run of `command` with the defaults of the command line.
    pub(crate) fn new(kernel: Kernel, command: Vec<String>) -> Self {
        let (memory_mib, cpus, timeout) = (2048, 2, Duration::from_secs(600));
        Self { kernel, clock: Clock::Real, memory_mib, cpus, timeout, files: Vec::new(), packages: &[], command }
    }

    /// Boots, runs the command, returns its exit code; its output (standard output and error as one) goes to `sink` as
    /// it comes. A machine that panics, oopses or exceeds its time is an error that shows the console's end.
    pub(crate) fn run(&self, sink: &mut dyn Write) -> Result<i32> {
        setup::ensure(&[Need::Vm])?;
        let boot = kernel::bootable(self.kernel)?;
        let root = root::image(self.packages)?;
        let emulator = Emulator::get(self.clock)?;
        let accelerator = Accelerator::choose(self.clock, (&emulator, &boot))?;
        let machine = qemu::Machine { vm: self, emulator: &emulator, boot: &boot, root: &root, accelerator };
        let name = self.kernel.name();
        eprintln!("vm: kernel {name}, {accelerator}");
        let mut left = BOOTS;
        loop {
            left -= 1;
            let payload = payload::pack(&self.command, &self.files).context("pack the files of this run")?;
            let started = Instant::now();
            match qemu::run(&machine, payload, sink).with_context(|| format!("kernel {name}"))? {
                End::Command(status) => {
                    eprintln!("vm: kernel {name}, exit code {status} after {:.1} s", started.elapsed().as_secs_f32());
                    return Ok(status);
                }
                End::Boot(console) | End::Emulator(console) if left > 0 => {
                    eprintln!(
                        "vm: kernel {name} died of the emulator, trying again; its console ended with\n{console}"
                    );
                }
                End::Boot(console) | End::Emulator(console) => {
                    bail!("kernel {name} died {BOOTS} times; its console ended with\n{console}")
                }
            }
        }
    }
}

/// Runs the verb; the exit code is the command's, the last one that is not 0 where there are several kernels.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut result = 0;
    for &kernel in args.kernel.each() {
        let vm = Vm {
            clock: if args.icount { Clock::Instructions } else { Clock::Real },
            memory_mib: args.memory,
            cpus: args.cpus,
            timeout: Duration::from_secs(args.timeout),
            files: args.put.clone(),
            ..Vm::new(kernel, args.command.clone())
        };
        match vm.run(&mut std::io::stdout())? {
            0 => {}
            status => result = status,
        }
    }
    // A shell's exit codes are 0 to 255; whatever else there may be is a failure.
    Ok(ExitCode::from(u8::try_from(result).unwrap_or(u8::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_all_or_those_that_are_named() {
        let named = |text: &str| text.parse::<Kernels>().map(|kernels| kernels.each().to_vec());
        assert_eq!(named("all"), Ok(Kernel::ALL.to_vec()));
        assert_eq!(named("7.2"), Ok(vec![Kernel::V7_2]));
        assert_eq!(named("6.12,7.2"), Ok(vec![Kernel::V6_12, Kernel::V7_2]));
        for wrong in ["", "6.12,", "6.12,all", "5.10"] {
            assert!(named(wrong).is_err(), "{wrong}");
        }
    }
}
