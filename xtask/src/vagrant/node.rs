//! One of the two machines, as the suites drive it: scripts over ssh, as root.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::bed::Bed;

/// How long a machine may take to reach the state that is waited for. Emulated processors are slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// The same for a script, in seconds, as timeout(1) takes it: longer than whatever a script itself waits for.
const SCRIPT_LIMIT: u32 = 120;

/// Which of the addresses of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// The IPv4 one.
    V4,
    /// The IPv6 one.
    V6,
}

/// A running machine.
#[derive(Debug)]
pub(super) struct Node<'bed> {
    bed: &'bed Bed,
    /// Its name in the Vagrantfile.
    pub(super) name: &'static str,
    /// Its addresses on the wire between the machines, as in the Vagrantfile.
    pub(super) ipv4: Ipv4Addr,
    /// See `ipv4`.
    pub(super) ipv6: Ipv6Addr,
    /// What `vagrant ssh-config` says.
    ssh: Vec<String>,
}

impl<'bed> Node<'bed> {
    /// The machine `name`, which the Vagrantfile gives the number `number` on the wire.
    pub(super) fn find(bed: &'bed Bed, name: &'static str, number: u8) -> Result<Self> {
        let shown = crate::process::output(bed.vagrant().args(["ssh-config", name]))?;
        let options = shown.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("Host "));
        let mut ssh: Vec<String> = options.map(|option| option.replacen(' ', "=", 1)).collect();
        ensure!(ssh.iter().any(|option| option.starts_with("HostName=")), "vagrant does not know where {name} is");
        // One connection for all commands; it lives, and ends, in the bed.
        ssh.extend(["ControlMaster=auto".to_owned(), "ControlPersist=yes".to_owned()]);
        // A machine that no longer answers is an error, not a wait without end.
        ssh.extend(["ServerAliveInterval=15".to_owned(), "ServerAliveCountMax=4".to_owned()]);
        ssh.push(format!("ControlPath={}/ssh-{name}", bed.files().display()));
        // The wire's addresses are written in decimal in both families: fd77::20 for 10.77.0.20.
        let ipv6 = format!("fd77::{number}").parse().context("put together an address")?;
        Ok(Self { bed, name, ipv4: Ipv4Addr::new(10, 77, 0, number), ipv6, ssh })
    }

    /// Runs a shell script as root, whatever its exit code; 124 is that of one that did not end.
    pub(super) fn run(&self, script: &str) -> Result<Output> {
        let mut command = self.bed.command("ssh");
        for option in &self.ssh {
            command.args(["-o", option]);
        }
        let quoted = script.replace('\'', r"'\''");
        command.args(["-n", self.name, &format!("sudo timeout {SCRIPT_LIMIT} sh -euc '{quoted}'")]);
        let output = command.output().with_context(|| format!("start ssh to {self}"))?;
        // ssh's own failures; no script here ends with this code.
        ensure!(output.status.code() != Some(255), "ssh to {self}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(output)
    }

    /// Runs a script that must succeed; returns what it wrote.
    pub(super) fn check(&self, script: &str) -> Result<Vec<u8>> {
        let output = self.run(script)?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("on {self}: `{script}` ended with {}: {}", output.status, stderr.trim());
        }
        Ok(output.stdout)
    }

    /// Runs a script until it succeeds. An ssh round trip is pause enough between two looks.
    pub(super) fn wait_until(&self, what: &str, script: &str) -> Result<()> {
        let start = Instant::now();
        while !self.run(script)?.status.success() {
            ensure!(start.elapsed() < PATIENCE, "on {self}: waited {PATIENCE:?} in vain for {what}");
        }
        Ok(())
    }

    /// Writes a file on the machine.
    pub(super) fn write(&self, path: &str, text: &str) -> Result<()> {
        ensure!(!text.contains("END_OF_FILE"), "the text of {path} would end early");
        self.check(&format!("cat >{path} <<\"END_OF_FILE\"\n{text}\nEND_OF_FILE")).map(drop)
    }

    /// The address as it stands in front of `:PORT`.
    pub(super) fn host(&self, family: Family) -> String {
        match family {
            Family::V4 => self.ipv4.to_string(),
            Family::V6 => format!("[{}]", self.ipv6),
        }
    }
}

impl fmt::Display for Node<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name)
    }
}
