//! Child processes: started with their output in files, waited for with a bound, never left behind.
//!
//! A program's output goes to files, not pipes, so that no program ever blocks on a reader that is busy
//! elsewhere, and so that a failure can show what was said until then.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::teardown;
use crate::wait;

/// Runs a tool of the host to its end and gives its standard output; a failure shows what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let _open = teardown::open();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {}", describe(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed ({}): {}", describe(command), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A program that runs, or has ended and was not looked at yet. Dropping it stops it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    name: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Finished {
    /// The program, for messages.
    pub name: String,
    /// Its exit status.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Running {
    /// Starts `command`; `name` tells it apart in messages, its output goes to files in `directory`.
    pub fn start(command: &mut Command, name: &str, directory: &Path) -> Result<Running> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let stdout = directory.join(format!("{name}-{number}.out"));
        let stderr = directory.join(format!("{name}-{number}.err"));
        command.stdin(Stdio::piped()).stdout(create(&stdout)?).stderr(create(&stderr)?);
        let _open = teardown::open();
        let child = command.spawn().with_context(|| format!("start {}", describe(command)))?;
        Ok(Running { child, name: name.to_owned(), stdout, stderr })
    }

    /// The process id; the program keeps it through the wrapper that put it into its place.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard output until now.
    pub fn stdout(&self) -> Result<String> {
        read(&self.stdout)
    }

    /// What it has written to standard error until now.
    pub fn stderr(&self) -> Result<String> {
        read(&self.stderr)
    }

    /// Writes to its standard input, which stays open.
    pub fn feed(&mut self, input: &[u8]) -> Result<()> {
        let stdin = self.child.stdin.as_mut().with_context(|| format!("{} has no input left", self.name))?;
        stdin.write_all(input).and_then(|()| stdin.flush()).with_context(|| format!("write to {}", self.name))
    }

    /// Ends its standard input.
    pub fn close_input(&mut self) {
        self.child.stdin = None;
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.process(), signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// Takes its processor away (SIGSTOP): it is there, and does nothing.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Fails, with what it said, if it has ended: for loops that wait for a state of a program that must live.
    pub fn check_alive(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait().context("look at a child")? else { return Ok(()) };
        bail!("{} ended early ({status}):\n{}{}", self.name, self.stdout()?, self.stderr()?)
    }

    /// Waits for its end.
    pub fn finish(self) -> Result<Finished> {
        self.finish_within(wait::patience())
    }

    /// Waits for its end for at most `limit`.
    pub fn finish_within(mut self, limit: Duration) -> Result<Finished> {
        let what = format!("the end of {}", self.name);
        let status = wait::until(&what, limit, || Ok(self.child.try_wait()?)).with_context(|| {
            format!("it said: {}{}", self.stdout().unwrap_or_default(), self.stderr().unwrap_or_default())
        })?;
        Ok(Finished { name: self.name.clone(), status, stdout: self.stdout()?, stderr: self.stderr()? })
    }

    /// Ends it with SIGKILL, so that it cannot say goodbye, and waits until it is gone.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().and_then(|()| self.child.wait()).with_context(|| format!("kill {}", self.name)).map(drop)
    }

    fn process(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Running {
    /// Asks first, so that programs with workers (nginx) take them along, then insists.
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        drop(self.signal(Signal::SIGTERM));
        let asked = wait::until("its end", wait::bound(Duration::from_secs(2)), || Ok(self.child.try_wait()?));
        if asked.is_err() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

impl Finished {
    /// Its standard output, or, when it failed, an error with all it said.
    pub fn success(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        bail!("{} failed ({}):\n{}{}", self.name, self.status, self.stdout, self.stderr)
    }

    /// Its standard error, or, when it succeeded, an error with all it said.
    pub fn failure(self) -> Result<String> {
        if self.status.success() {
            bail!("{} succeeded, which it must not:\n{}{}", self.name, self.stdout, self.stderr);
        }
        if let Some(signal) = self.status.signal() {
            bail!("{} did not fail by itself, signal {signal} ended it:\n{}", self.name, self.stderr);
        }
        Ok(self.stderr)
    }
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("create {}", path.display()))
}

fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
