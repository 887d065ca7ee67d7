//! `cargo xtask test`: everything. Unit tests, the suites in namespaces on this machine's kernel, the suites of the
//! authority, and the suites of the namespaces once more in virtual machines on each Debian kernel.
//!
//! What cannot run fails and says what is missing; nothing is skipped. A step that fails does not keep the next ones
//! from running. At the end each step's closing line stands together once more.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::artifacts::{self, Artifacts};
use crate::process;
use crate::setup::{self, Need};
use crate::vm::{Kernel, Kernels, Put, Vm};

/// Run all tests: unit tests, suites in namespaces, suites of the authority, suites in virtual machines on three kernels.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask test
  cargo xtask test --only vm --kernel 6.1 half_close")]
pub(crate) struct Args {
    /// Only this part.
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Kernels of the virtual machines.
    #[arg(long, value_name = Kernels::CHOICES, default_value = "all")]
    kernel: Kernels,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Tests of single functions and modules.
    Unit,
    /// The suites, in network namespaces of this machine.
    Namespaces,
    /// The suites of the authority, on this machine.
    Issuer,
    /// The suites, in virtual machines.
    Vm,
}

/// An emulated processor is this many times slower; what the suites wait for at most is stretched by it.
const SLOWNESS: u32 = 10;
/// Suites at the same time in a virtual machine with two processors: most of them wait most of the time.
const THREADS: &str = "--test-threads=3";
/// MiB for all worlds of the suites at once, with what their programs write: 3,072 were too few for those of 6.12. Only what
/// is used is taken from this machine.
const SUITES_MEMORY: u32 = 6144;
/// For all suites on one kernel.
const VM_TIME: Duration = Duration::from_secs(2400);

/// Where the program in Go goes in a virtual machine; only the suites want it.
const GO_PROGRAM: &str = "/usr/local/bin/go-program";

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let wants = |part| args.only.is_none_or(|only| only == part);
    setup::ensure(&[Need::Build])?;
    let mut steps = Vec::new();
    if wants(Part::Unit) {
        steps.push(step("unit tests", |sink| unit(args, sink)));
    }
    if wants(Part::Namespaces) {
        steps.push(step("suites on this machine", |sink| namespaces(args, sink)));
    }
    if wants(Part::Issuer) {
        steps.push(step("suites of the authority", |sink| issuer(args, sink)));
    }
    if wants(Part::Vm) {
        for &kernel in args.kernel.each() {
            steps.push(step(&format!("suites on kernel {}", kernel.name()), |sink| machine(args, kernel, sink)));
        }
    }
    Ok(summarize(&steps))
}

/// What came of one step.
struct Step {
    name: String,
    passed: bool,
    took: Duration,
    /// The test runners' closing lines, each after what failed in its run.
    closing: Vec<String>,
}

fn step(name: &str, run: impl FnOnce(&mut Closing) -> Result<()>) -> Step {
    eprintln!("test: {name}");
    let started = Instant::now();
    let mut sink = Closing::default();
    let result = run(&mut sink);
    if let Err(error) = &result {
        eprintln!("test: {name}: {error:#}");
    }
    Step { name: name.to_owned(), passed: result.is_ok(), took: started.elapsed(), closing: sink.lines }
}

fn unit(args: &Args, sink: &mut Closing) -> Result<()> {
    setup::ensure(&[Need::Issuer])?;
    // Everything but the suites, and of the same build as these: see `artifacts`.
    let mut cargo = process::command(env!("CARGO"));
    cargo.args(["test", "--quiet", "--workspace", "--lib", "--bins", "--test", "hsm", "--"]).args(&args.filter);
    succeeded(process::tee(&mut cargo, sink)?)
}

fn namespaces(args: &Args, sink: &mut Closing) -> Result<()> {
    setup::ensure(&[Need::Suites, Need::Programs])?;
    let artifacts = artifacts::build()?;
    artifacts::go_program(&artifacts)?;
    let mut suites = process::root_command(&artifacts.suites);
    succeeded(process::tee(suites.args(&args.filter), sink)?)
}

/// Needs no root.
fn issuer(args: &Args, sink: &mut Closing) -> Result<()> {
    setup::ensure(&[Need::Issuer])?;
    let mut suites = process::command(artifacts::build()?.issuer);
    succeeded(process::tee(suites.args(&args.filter), sink)?)
}

fn machine(args: &Args, kernel: Kernel, sink: &mut Closing) -> Result<()> {
    setup::ensure(&[Need::Programs])?;
    let artifacts = artifacts::build()?;
    let mut files = guest_files(&artifacts);
    files.push(Put { host: artifacts::go_program(&artifacts)?, guest: GO_PROGRAM.into() });
    let mut command = guest_environment();
    command.extend(["/usr/local/bin/suites".to_owned(), THREADS.to_owned()]);
    command.extend(args.filter.clone());
    let vm = Vm { files, timeout: VM_TIME, memory_mib: SUITES_MEMORY, ..Vm::new(kernel, command) };
    succeeded(vm.run(sink)?)
}

/// Where the binaries go in a virtual machine.
pub(crate) fn guest_files(artifacts: &Artifacts) -> Vec<Put> {
    let names = ["enforcer", "endpoint", "demo", "suites"];
    let hosts = [&artifacts.enforcer, &artifacts.endpoint, &artifacts.demo, &artifacts.suites];
    names.into_iter().zip(hosts).map(|(name, host)| guest_file(name, host)).collect()
}

/// Where one of them goes.
pub(crate) fn guest_file(name: &str, host: &Path) -> Put {
    Put { host: host.to_owned(), guest: format!("/usr/local/bin/{name}").into() }
}

/// How the binaries find each other there.
pub(crate) fn guest_environment() -> Vec<String> {
    let variables = [
        "ENFORCER_BIN=/usr/local/bin/enforcer".to_owned(),
        "ENFORCER_ENDPOINT=/usr/local/bin/endpoint".to_owned(),
        format!("ENFORCER_GO_PROGRAM={GO_PROGRAM}"),
        format!("ENFORCER_TEST_SLOW={SLOWNESS}"),
    ];
    std::iter::once("env".to_owned()).chain(variables).collect()
}

fn succeeded(status: i32) -> Result<()> {
    ensure!(status == 0, "exit code {status}");
    Ok(())
}

/// Passes everything on to standard output, and keeps the closing lines and the beginning of what failing tests say: of a
/// long output often only the end is kept, and the summary stands there.
#[derive(Default)]
struct Closing {
    line: Vec<u8>,
    lines: Vec<String>,
    /// So many of the next lines belong to the failure that is being told.
    telling: usize,
    /// Lines that were kept of failures.
    told: usize,
}

impl Closing {
    /// Lines that are kept of one failure, with its name, and of all of them.
    const OF_ONE: usize = 16;
    const OF_ALL: usize = 64;

    fn keep(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.end_line();
            } else {
                self.line.push(byte);
            }
        }
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).trim_end().to_owned();
        if line.trim_start().starts_with("test result:") {
            self.telling = 0;
            self.lines.push(line.trim_start().to_owned());
            return;
        }
        // So begins, with libtest as with libtest-mimic, what a failed test has said.
        if line.starts_with("---- ") && line.ends_with(" ----") {
            self.telling = Self::OF_ONE;
        }
        if self.telling > 0 && self.told < Self::OF_ALL {
            self.telling -= 1;
            self.told += 1;
            self.lines.push(line);
        }
    }
}

impl Write for Closing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.keep(bytes);
        io::stdout().write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

fn summarize(steps: &[Step]) -> ExitCode {
    let mut text = String::from("\n");
    for step in steps {
        let verdict = if step.passed { "passed" } else { "FAILED" };
        text += &format!("{:28} {verdict} in {:.0} s\n", step.name, step.took.as_secs_f32());
        for line in &step.closing {
            text += &format!("{line}\n");
        }
    }
    let failed = steps.iter().filter(|step| !step.passed).count();
    text += &format!("{} passed, {failed} failed\n", steps.len() - failed);
    // Without a standard output the exit code still tells.
    let _told = io::stdout().write_all(text.as_bytes()).context("print the summary");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_kept_however_the_output_is_cut() {
        let mut sink = Closing::default();
        for part in ["running 2 tests\ntest re", "sult: ok. 2 passed\n", "\nmore\n"] {
            sink.keep(part.as_bytes());
        }
        assert_eq!(sink.lines, ["test result: ok. 2 passed"]);
    }

    #[test]
    fn the_beginning_of_each_failure_is_kept_with_its_name() {
        let mut sink = Closing::default();
        sink.keep(b"test a ... ok\nfailures:\n\n---- b ----\nrefused\n");
        let long = "log\n".repeat(100);
        sink.keep(format!("{long}---- c ----\nleft\ntest result: FAILED. 1 passed\nrest\n").as_bytes());
        assert_eq!(sink.lines[..2], ["---- b ----", "refused"]);
        assert_eq!(sink.lines[Closing::OF_ONE..], ["---- c ----", "left", "test result: FAILED. 1 passed"]);
    }
}
