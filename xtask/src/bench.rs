//! `cargo xtask bench`: what a connection costs on each path, in instructions, beside plain TCP.
//!
//! Release binaries in a virtual machine whose clock counts instructions: the figures are costs of all processes and the
//! kernel together, they are the same in every run, and they are no times. The program that measures is
//! `tests/src/bin/bench/`; here it is built, run, and its report kept.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::artifacts::{self, Profile};
use crate::setup::{self, Need};
use crate::test::{guest_environment, guest_file};
use crate::vm::{Clock, Kernels, Vm};
use crate::{envoy, process};

/// Measure what connections cost on each path, in instructions, side by side.
///
/// Round trips, new connections, streams, and the agents' memory: in the clear, with kernel TLS by hand, direct, and
/// through the relay.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask bench --save
  cargo xtask bench --only floor,direct --workload rt64,connect --check
  cargo xtask bench --only outside,direct --programs
  cargo xtask bench ca")]
pub(crate) struct Args {
    /// What is measured.
    #[arg(value_enum, default_value_t = What::Connections)]
    what: What,
    /// On which kernels.
    #[arg(long, value_name = Kernels::CHOICES, default_value = "6.12")]
    kernel: Kernels,
    /// Only these paths.
    #[arg(long, value_name = "PATHS", value_delimiter = ',', value_parser = PATHS)]
    only: Vec<String>,
    /// Only these workloads.
    #[arg(long, value_name = "WORKLOADS", value_delimiter = ',', value_parser = WORKLOADS)]
    workload: Vec<String>,
    /// Exit with 1 when a goal is missed.
    #[arg(long)]
    check: bool,
    /// Instead: what each program in the kernel costs a new connection.
    #[arg(long, conflicts_with_all = ["workload", "check", "save"])]
    programs: bool,
    /// Keep the report in tests/benches/README.md.
    #[arg(long, conflicts_with_all = ["only", "workload"])]
    save: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Connections, in a virtual machine.
    Connections,
    /// The certificate authority, on this machine: processor time, and how soon everybody knows what is revoked.
    Ca,
}

/// What the program knows; a wrong word is better found here than after a boot.
const PATHS: [&str; 12] = [
    "plain",
    "outside",
    "floor",
    "direct",
    "relay",
    "relay-ktls",
    "ipsec",
    "wireguard",
    "nginx",
    "haproxy",
    "envoy",
    "envoy-http",
];
const WORKLOADS: [&str; 12] = [
    "rt64",
    "rt1k",
    "rt64x32",
    "http1",
    "http64",
    "connect",
    "connect500",
    "stream",
    "bidi",
    "redis1",
    "redis16",
    "idle",
];

/// For everything on one kernel, on a machine that is busy with other things too.
const TIME: Duration = Duration::from_secs(3600);

/// MiB for a pair of sidecars with 10,000 connections each. Only what is used is taken from this machine.
const MEMORY: u32 = 6144;

/// Where reports are kept, and what stands above them there.
const KEPT: &str = "tests/benches/README.md";
const EXPLANATION: &str = include_str!("bench/explanation.md");

/// What a report begins with; what comes before it is progress.
const REPORT: &str = "## ";

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Need::Build])?;
    if args.what == What::Ca {
        return authority();
    }
    let is_wanted = args.only.is_empty() || args.only.iter().any(|path| path.starts_with("envoy"));
    let envoy = if is_wanted { Some(("envoy".to_owned(), envoy::program()?)) } else { None };
    let mut programs = artifacts::programs(Profile::Release, &["endpoint", "bench"])?;
    programs.push(("enforcer".to_owned(), artifacts::enforcer(Profile::Release)?));
    programs.extend(envoy);
    let (mut reports, mut passed) = (String::new(), true);
    for &kernel in args.kernel.each() {
        let files = programs.iter().map(|(name, host)| guest_file(name, host)).collect();
        let (clock, memory_mib) = (Clock::Instructions, MEMORY);
        let vm = Vm { files, clock, memory_mib, timeout: TIME, ..Vm::new(kernel, args.guest_command()) };
        let mut output = Kept::default();
        passed &= vm.run(&mut output)? == 0;
        reports += &output.report();
    }
    // A goal that is missed and a figure that is not steady stand in the report; a run that broke has none.
    if args.save {
        save(&reports)?;
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The program is `tests/benches/ca.rs`; it finds the release binary of the agent beside itself.
fn authority() -> Result<ExitCode> {
    setup::ensure(&[Need::Issuer])?;
    artifacts::enforcer(Profile::Release)?;
    let mut cargo = process::command(env!("CARGO"));
    process::run(cargo.args(["bench", "--quiet", "--package", "enforcer-tests", "--bench", "ca"]))?;
    Ok(ExitCode::SUCCESS)
}

impl Args {
    fn guest_command(&self) -> Vec<String> {
        let mut command = guest_environment();
        command.extend(["/usr/local/bin/bench", "--instructions"].map(str::to_owned));
        for (option, values) in [("--only", &self.only), ("--workload", &self.workload)] {
            if !values.is_empty() {
                command.extend([option.to_owned(), values.join(",")]);
            }
        }
        for (option, is_wanted) in [("--check", self.check), ("--programs", self.programs)] {
            if is_wanted {
                command.push(option.to_owned());
            }
        }
        command
    }
}

fn save(reports: &str) -> Result<()> {
    ensure!(reports.contains(REPORT), "nothing was reported");
    let file: PathBuf = process::workspace().join(KEPT);
    fs::create_dir_all(file.parent().context("a file is in a folder")?).context("make the folder of the reports")?;
    fs::write(&file, format!("{EXPLANATION}\n{}\n", reports.trim())).with_context(|| format!("write {KEPT}"))?;
    eprintln!("bench: written to {KEPT}");
    Ok(())
}

/// Passes everything on to standard output and keeps it.
#[derive(Default)]
struct Kept(Vec<u8>);

impl Kept {
    /// What was reported, without the progress before it.
    fn report(&self) -> String {
        let text = String::from_utf8_lossy(&self.0).replace('\r', "");
        let from = text.lines().skip_while(|line| !line.starts_with(REPORT));
        from.fold(String::from("\n"), |report, line| report + line.trim_end() + "\n")
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        io::stdout().write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_what_comes_after_the_progress() {
        let output = Kept(b"measured: rt64, plain TCP\n\n## Kernel 6\n\n### A\n".to_vec());
        assert_eq!(output.report(), "\n## Kernel 6\n\n### A\n");
        assert_eq!(Kept::default().report(), "\n");
    }
}
