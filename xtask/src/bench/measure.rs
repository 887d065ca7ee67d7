//! Has everything measured: builds the programs, runs them in a virtual machine for each kernel or on this machine, and
//! takes the figures out of what they say.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::rows::Row;
use crate::artifacts::{self, Profile};
use crate::envoy;
use crate::process;
use crate::setup::{self, Need};
use crate::test::{guest_environment, guest_file};
use crate::vm::{Clock, Kernel, Put, Vm};

/// What shall be measured.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) build: Build,
    pub(crate) kernels: Vec<Kernel>,
    /// Names on the command line; all where there are none.
    pub(crate) paths: Vec<String>,
    pub(crate) workloads: Vec<String>,
    pub(crate) what: Told,
}

/// What the program shall tell of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Figures.
    Figures,
    /// What programs in the kernel cost a new connection.
    Programs,
    /// In which functions instructions are spent.
    Profile,
}

/// What looks at functions.
const PROFILER: &[&str] = &["linux-perf"];

/// Which binaries are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Build {
    /// As users have them.
    Release,
    /// As `cargo xtask test` builds them, so that nothing needs to be built for them.
    Test,
}

impl Build {
    /// As rows have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Test => "test",
        }
    }
}

/// What the program says of where it ran, and of what is compared.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct About {
    /// Its release.
    pub(crate) kernel: String,
    /// Whether it has TLS.
    pub(crate) kernel_tls: bool,
    /// The programs that were compared with, each with its version.
    pub(crate) programs: Vec<String>,
    /// What tables call paths, by their names on the command line.
    pub(crate) paths: BTreeMap<String, String>,
    /// The same of workloads.
    pub(crate) workloads: BTreeMap<String, String>,
}

/// What came of one kernel.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) about: About,
    pub(crate) rows: Vec<Row>,
    /// Whether each cost was the same each time.
    pub(crate) is_steady: bool,
}

/// For everything on one kernel, on a machine that is busy with other things too.
const TIME: Duration = Duration::from_secs(7200);

/// MiB for 10,000 connections, and for what agents or sidecars take beside them. Only what is used is taken from this machine.
const MEMORY: u32 = 6144;

/// Measures on as many kernels at once as this machine has processors: each takes one, and its clock does not know how busy
/// the others are. Progress goes to standard output.
pub(crate) fn measure(wanted: &Wanted) -> Result<Vec<Measured>> {
    let mut files: Vec<_> = built(wanted.build)?.iter().map(|(name, host)| guest_file(name, host)).collect();
    if wanted.paths.is_empty() || wanted.paths.iter().any(|path| path.starts_with("envoy")) {
        files.push(guest_file("envoy", &envoy::program()?));
    }
    // Once, and not in turns.
    setup::ensure(&[Need::Vm])?;
    let places = thread::available_parallelism().map_or(1, usize::from);
    let mut measured = Vec::new();
    for kernels in wanted.kernels.chunks(places) {
        let files = &files;
        let of_each: Vec<Result<Measured>> = thread::scope(|scope| {
            let begun: Vec<_> =
                kernels.iter().map(|kernel| scope.spawn(move || on_kernel(*kernel, wanted, files))).collect();
            begun.into_iter().map(|one| one.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
        });
        measured.extend(of_each.into_iter().collect::<Result<Vec<_>>>()?);
    }
    Ok(measured)
}

/// The same on this machine, as root.
pub(crate) fn natively(wanted: &Wanted) -> Result<Measured> {
    setup::ensure(&[Need::Suites])?;
    let mut command = process::root_command("env");
    for (name, path) in built(wanted.build)? {
        match name.as_str() {
            "bench" => command.arg(path).args(wanted.options()),
            "enforcer" => command.arg(format!("ENFORCER_BIN={}", path.display())),
            _ => command.arg(format!("ENFORCER_ENDPOINT={}", path.display())),
        };
    }
    let mut output = Output::default();
    let status = process::tee(&mut command, &mut output)?;
    measured(output, status, (wanted.build, NATIVE))
}

/// In place of a kernel that was chosen.
const NATIVE: &str = "native";

/// Each program with its path, and what measures last.
fn built(build: Build) -> Result<Vec<(String, PathBuf)>> {
    match build {
        Build::Release => {
            let mut programs = vec![("enforcer".to_owned(), artifacts::enforcer(Profile::Release)?)];
            programs.extend(artifacts::programs(Profile::Release, &["endpoint", "bench"])?);
            Ok(programs)
        }
        Build::Test => {
            let built = artifacts::build()?;
            let programs = [("enforcer", built.enforcer), ("endpoint", built.endpoint), ("bench", built.bench)];
            Ok(programs.map(|(name, path)| (name.to_owned(), path)).to_vec())
        }
    }
}

fn on_kernel(kernel: Kernel, wanted: &Wanted, files: &[Put]) -> Result<Measured> {
    let (clock, files) = (Clock::Instructions, files.to_vec());
    let packages = if wanted.what == Told::Profile { PROFILER } else { &[] };
    let vm = Vm { files, packages, clock, memory_mib: MEMORY, timeout: TIME, ..Vm::new(kernel, guest_command(wanted)) };
    let of_which = if wanted.kernels.len() > 1 { format!("{}: ", kernel.name()) } else { String::new() };
    let mut output = Output { of_which, ..Output::default() };
    let status = vm.run(&mut output)?;
    measured(output, status, (wanted.build, kernel.name()))
}

fn measured(mut output: Output, status: i32, (build, kernel): (Build, &str)) -> Result<Measured> {
    output.finish().context("pass the output on")?;
    let (mut rows, about) = output.figures().with_context(|| format!("kernel {kernel}"))?;
    for row in &mut rows {
        row.build = build.name().to_owned();
        row.kernel = kernel.to_owned();
    }
    Ok(Measured { about, rows, is_steady: status == 0 })
}

fn guest_command(wanted: &Wanted) -> Vec<String> {
    let mut command = guest_environment();
    command.extend(["/usr/local/bin/bench", "--instructions"].map(str::to_owned));
    command.extend(wanted.options());
    command
}

impl Wanted {
    /// For the program that measures.
    fn options(&self) -> Vec<String> {
        let mut options = Vec::new();
        for (option, values) in [("--only", &self.paths), ("--workload", &self.workloads)] {
            if !values.is_empty() {
                options.extend([option.to_owned(), values.join(",")]);
            }
        }
        match self.what {
            Told::Figures => {}
            Told::Programs => options.push("--programs".to_owned()),
            Told::Profile => options.push("--profile".to_owned()),
        }
        options
    }
}

/// Passes progress on to standard output, line by line, and keeps what is told in lines of their own.
#[derive(Default)]
struct Output {
    /// Before each line that is passed on.
    of_which: String,
    /// A line that has not ended yet.
    line: Vec<u8>,
    figures: Vec<String>,
    about: Option<String>,
}

impl Output {
    /// Takes a whole line.
    fn take(&mut self, line: &[u8]) -> io::Result<()> {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end();
        if let Some(figure) = text.strip_prefix("figure ") {
            self.figures.push(figure.to_owned());
        } else if let Some(about) = text.strip_prefix("about ") {
            self.about = Some(about.to_owned());
        } else {
            writeln!(io::stdout(), "{}{text}", self.of_which)?;
        }
        Ok(())
    }

    /// Nothing more will come.
    fn finish(&mut self) -> io::Result<()> {
        let rest = std::mem::take(&mut self.line);
        if rest.is_empty() { Ok(()) } else { self.take(&rest) }
    }

    /// What was told. A run that broke has told no figures.
    fn figures(&self) -> Result<(Vec<Row>, About)> {
        let row = |line: &String| {
            serde_json::from_str(line).with_context(|| format!("the bench told a figure that is none: {line}"))
        };
        let rows: Vec<_> = self.figures.iter().map(row).collect::<Result<_>>()?;
        ensure!(!rows.is_empty(), "the bench told no figures; what it said last is above");
        let about = self.about.as_deref().context("the bench did not say where it ran")?;
        Ok((rows, serde_json::from_str(about).with_context(|| format!("no description of a run: {about}"))?))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.take(&line)?;
            } else {
                self.line.push(byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIGURE: &str = r#"figure {"path":"plain","workload":"rt64","figure":"instructions","value":30074.0,"unit":"instructions","x_plain":1.0,"x_floor":null}"#;
    const ABOUT: &str =
        r#"about {"kernel":"6.12.1","kernel_tls":true,"programs":["nginx 1.22"],"paths":{},"workloads":{}}"#;

    fn said(text: &str) -> Output {
        let mut output = Output::default();
        for part in text.as_bytes().chunks(7) {
            output.write_all(part).unwrap();
        }
        output.finish().unwrap();
        output
    }

    #[test]
    fn figures_are_found_however_the_output_is_cut() {
        let (rows, about) = said(&format!("measured: rt64\r\n{ABOUT}\r\n{FIGURE}\r\n{FIGURE}")).figures().unwrap();
        assert_eq!(rows.iter().map(|row| row.value).collect::<Vec<_>>(), [30_074.0, 30_074.0]);
        assert_eq!((about.kernel.as_str(), about.programs.as_slice()), ("6.12.1", &["nginx 1.22".to_owned()][..]));
    }

    #[test]
    fn a_run_that_broke_is_an_error() {
        for (text, reason) in [
            ("bench: no agent\n".to_owned(), "told no figures"),
            (FIGURE.to_owned(), "did not say where"),
            (format!("{ABOUT}\n{}", &FIGURE[..60]), "a figure that is none"),
        ] {
            let error = said(&text).figures().unwrap_err();
            assert!(error.to_string().contains(reason), "{error:#}");
        }
    }
}
