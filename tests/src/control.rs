//! One `enforcer control`: started as an operator would, asked through `enforcer ca` and `enforcer control token`.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::agent::free_address;
use crate::clock::Clock;
use crate::config::{TRUST_DOMAIN, identity};
use crate::process::{Finished, Running};
use crate::settings;
use crate::wait;

/// In a second, of what the kernel counts processor time in (USER_HZ on every architecture that enforcer runs on).
const TICKS: u64 = 100;

/// A control on the host, with its configuration file.
#[derive(Debug)]
pub struct Control {
    /// Where agents come to.
    pub address: SocketAddr,
    /// Its state directory.
    pub state: PathBuf,
    directory: PathBuf,
    config: PathBuf,
    environment: Vec<(String, String)>,
    running: Option<Running>,
}

impl Control {
    /// Writes the configuration and starts control with an authority of its own; `accounts` are those that each of the
    /// nodes named after them may have.
    pub fn start(directory: &Path, accounts: &[&str]) -> Result<Control> {
        Control::start_with(directory, accounts, "")
    }

    /// The same with these lines in its `spec`.
    pub fn start_with(directory: &Path, accounts: &[&str], spec: &str) -> Result<Control> {
        Control::sealed(directory, accounts, spec, &[])
    }

    /// The same, going by this clock.
    pub fn start_by(clock: &Clock, directory: &Path, accounts: &[&str], spec: &str) -> Result<Control> {
        Control::sealed(directory, accounts, spec, &clock.environment())
    }

    /// With keys under a passphrase, where each of the nodes may have several accounts.
    pub fn start_placing(directory: &Path, placements: &[(&str, &[&str])], spec: &str) -> Result<Control> {
        Control::placing(directory, placements, &format!("{}{spec}", passphrase(directory)?), &[])
    }

    fn sealed(directory: &Path, accounts: &[&str], spec: &str, environment: &[(String, String)]) -> Result<Control> {
        Control::with_environment(directory, accounts, &format!("{}{spec}", passphrase(directory)?), environment)
    }

    /// The same with all of its `spec` that is not always the same, and with environment variables.
    pub fn with_environment(
        directory: &Path,
        accounts: &[&str],
        spec: &str,
        environment: &[(String, String)],
    ) -> Result<Control> {
        let own: Vec<_> = accounts.iter().map(std::slice::from_ref).collect();
        let placements: Vec<_> = accounts.iter().copied().zip(own).collect();
        Control::placing(directory, &placements, spec, environment)
    }

    /// The same where each of the nodes may have several accounts.
    pub fn placing(
        directory: &Path,
        placements: &[(&str, &[&str])],
        spec: &str,
        environment: &[(String, String)],
    ) -> Result<Control> {
        let (address, state) = (free_address()?, directory.join("control"));
        let mut text = format!(
            "kind: Control\nspec:\n  trustDomain: {TRUST_DOMAIN}\n  stateDirectory: {}\n  listen: {address}\n{spec}",
            state.display()
        );
        for (node, accounts) in placements {
            let identities: Vec<String> = accounts.iter().map(|account| identity(account)).collect();
            write!(
                text,
                "---\nkind: Placement\nmetadata: {{ name: node-{node} }}\nspec: {{ identities: {identities:?} }}\n"
            )?;
        }
        let config = directory.join("control.yaml");
        fs::write(&config, text).context("write the configuration of control")?;
        let environment = environment.to_vec();
        let mut control =
            Control { address, state, directory: directory.to_owned(), config, environment, running: None };
        control.restart()?;
        Ok(control)
    }

    /// Starts it, after `kill` or `stop`, with the same configuration.
    pub fn restart(&mut self) -> Result<()> {
        let mut running = self.launch()?;
        wait::until("control to answer", wait::patience(), || {
            running.check_alive()?;
            Ok(self.ask(&["ca", "show"])?.status.success().then_some(()))
        })
        .with_context(|| format!("control said: {}", running.stderr().unwrap_or_default()))?;
        // Operators are answered first.
        wait::until("control to take agents", wait::patience(), || {
            Ok(TcpStream::connect(self.address).ok().map(drop))
        })?;
        self.running = Some(running);
        Ok(())
    }

    /// Runs it where it must refuse to start, and gives what it says.
    pub fn refuse_to_start(&self) -> Result<String> {
        self.launch()?.finish()?.failure()
    }

    fn launch(&self) -> Result<Running> {
        let mut command = Command::new(settings::enforcer_binary()?);
        command.arg("control").arg("--config").arg(&self.config);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Running::start(&mut command, "control", &self.directory)
    }

    /// Kills it without a word.
    pub fn kill(&mut self) -> Result<()> {
        self.running.take().context("control does not run")?.kill()
    }

    /// Asks it to end, and fails unless it does so with exit code 0.
    pub fn stop(&mut self) -> Result<()> {
        let running = self.running.take().context("control does not run")?;
        running.signal(Signal::SIGTERM)?;
        running.finish()?.success().map(drop)
    }

    /// Runs a verb of `enforcer` on its state directory.
    pub fn ask(&self, verb: &[&str]) -> Result<Finished> {
        let mut command = Command::new(settings::enforcer_binary()?);
        let command = command.args(verb).arg("--state-dir").arg(&self.state);
        Running::start(command, &verb.join("-").replace('/', "_"), &self.directory)?.finish()
    }

    /// The same, which must be done; what it prints.
    pub fn done(&self, verb: &[&str]) -> Result<String> {
        self.ask(verb)?.success()
    }

    /// The same as JSON.
    pub fn told(&self, verb: &[&str]) -> Result<serde_json::Value> {
        let text = self.done(&[verb, &["--json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("{verb:?} printed {text}"))
    }

    /// A file with a token for a node.
    pub fn token(&self, node: &str) -> Result<PathBuf> {
        let token = self.done(&["control", "token", "create", "--node", node])?;
        let path = self.directory.join(format!("{node}.token"));
        fs::write(&path, token).context("write the token")?;
        Ok(path)
    }

    /// What its process has had of the processors until now, in and out of the kernel.
    pub fn processor_time(&self) -> Result<Duration> {
        let running = self.running.as_ref().context("control does not run")?;
        let stat = fs::read_to_string(format!("/proc/{}/stat", running.pid())).context("read control's statistics")?;
        // proc(5): after the name, which may hold anything, come state, ... and as 14th and 15th of all the two times.
        let (_, fields) = stat.rsplit_once(')').context("no name in the statistics")?;
        let ticks = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().context("no number"));
        let ticks: u64 = ticks.sum::<Result<u64>>()?;
        Ok(Duration::from_millis(ticks * 1000 / TICKS))
    }

    /// Its audit log, a line each.
    pub fn audit(&self) -> Result<Vec<serde_json::Value>> {
        let text = fs::read_to_string(self.state.join("audit.log")).context("read the audit log")?;
        text.lines().map(|line| serde_json::from_str(line).context("read a line of the audit log")).collect()
    }

    /// The end of its log, to stand beside a failure.
    pub fn log(&self) -> String {
        self.running.as_ref().map_or_else(String::new, |running| running.stderr().unwrap_or_default())
    }

    /// Fails unless the audit log has an event about a subject.
    pub fn has_noted(&self, event: &str, subject: &str) -> Result<()> {
        let lines = self.audit()?;
        let found = lines.iter().any(|line| line["event"] == event && line["subject"] == subject);
        ensure!(found, "no {event} of {subject} in the audit log: {lines:?}");
        Ok(())
    }
}

/// Makes a passphrase, and gives the line of the `spec` that names it.
fn passphrase(directory: &Path) -> Result<String> {
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    let passphrase = directory.join("passphrase");
    fs::write(&passphrase, "correct horse battery staple\n").context("write the passphrase")?;
    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600))?;
    Ok(format!("  keys: {{ passphrase: {{ file: {} }} }}\n", passphrase.display()))
}
