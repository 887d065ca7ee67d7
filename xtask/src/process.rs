//! Other programs: how every verb starts them.
//!
//! Every child is started through `setpriv --pdeathsig`, so that the kernel ends it when `xtask` ends, however that
//! happens. Nothing here goes through a shell, nothing here interprets output. The death signal is tied to the thread
//! that starts the child: verbs start their children from the main thread.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A command that gets SIGTERM when `xtask` dies, run in the workspace's root folder.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]).arg(program).current_dir(workspace());
    command
}

/// As [`command`], as root: through sudo when `xtask` is not root itself.
pub(crate) fn root_command(program: impl AsRef<OsStr>) -> Command {
    if is_root() {
        return command(program);
    }
    let mut command = command("sudo");
    command.arg("--").arg(program);
    command
}

/// Runs to the end; a non-zero exit is an error. What it says goes to standard error: standard output is for results.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.stdout(std::io::stderr()).status().with_context(|| format!("start {}", shown(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(())
}

/// Runs to the end and returns what it wrote to its standard output; a non-zero exit is an error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("start {}", shown(command)))?;
    if !output.status.success() {
        bail!("{} ended with {}", shown(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of {}", shown(command)))
}

/// Runs to the end, passing its standard output on to `sink` as it comes; returns the exit code.
pub(crate) fn tee(command: &mut Command, sink: &mut dyn Write) -> Result<i32> {
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("start {}", shown(command)))?;
    if let Some(mut stdout) = child.stdout.take() {
        copy(&mut stdout, sink)?;
    }
    let status = child.wait()?;
    status.code().with_context(|| format!("{} ended with {status}", shown(command)))
}

/// True when `program` is found on the search path.
pub(crate) fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// The folder of the workspace that this `xtask` was built from.
pub(crate) fn workspace() -> PathBuf {
    // The parent of xtask/, which Cargo knows at build time; a root folder never holds xtask/ itself.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/")).to_owned()
}

/// True when this process is root: the owner of its own entry in /proc.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0)
}

/// Unlike `io::copy`, writes what was read at once, so that output shows while the program runs.
fn copy(from: &mut dyn Read, to: &mut dyn Write) -> Result<()> {
    let mut buffer = [0; 64 * 1024];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..count])?;
        to.flush()?;
    }
}

/// The command as a reader would type it, without our wrapper.
fn shown(command: &Command) -> String {
    let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    let own = words.iter().position(|word| word == "--").map_or(0, |separator| separator + 1);
    format!("`{}`", words[own..].join(" "))
}
