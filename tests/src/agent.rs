//! One `enforcer agent`: started as an operator would, asked through its admin socket.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::clock::Clock;
use crate::config::Config;
use crate::http;
use crate::place::Place;
use crate::process::{self, Finished, Running};
use crate::settings;
use crate::wait;

/// An agent on the host, with its configuration file.
#[derive(Debug)]
pub struct Agent {
    config: PathBuf,
    admin: SocketAddr,
    place: Place,
    clock: Option<Clock>,
    running: Option<Running>,
}

impl Agent {
    /// Writes the configuration and starts the agent; returns when it says that it is ready.
    pub fn start(config: &Config, place: &Place) -> Result<Agent> {
        let file = place.directory.join(format!("{}.yaml", config.account));
        fs::write(&file, config.to_string()).with_context(|| format!("write {}", file.display()))?;
        let (admin, place, clock) = (config.admin, place.clone(), config.clock.clone());
        let mut agent = Agent { config: file, admin, place, clock, running: None };
        agent.restart()?;
        Ok(agent)
    }

    /// Starts it, after `kill` or `stop`, with the same configuration.
    pub fn restart(&mut self) -> Result<()> {
        let mut running = launch(&self.place, &self.config, self.clock.as_ref())?;
        wait::until("the agent to be ready", wait::patience(), || {
            running.check_alive()?;
            // Until the admin socket is open nobody answers: not ready, and no error.
            Ok(http::get(self.admin, "/ready").is_ok_and(|(status, _)| status == 200).then_some(()))
        })
        .with_context(|| tail(&running))?;
        self.running = Some(running);
        Ok(())
    }

    /// Replaces its configuration file while it runs.
    pub fn rewrite(&self, config: &Config) -> Result<()> {
        let next = self.config.with_extension("next");
        fs::write(&next, config.to_string()).with_context(|| format!("write {}", next.display()))?;
        fs::rename(&next, &self.config).with_context(|| format!("replace {}", self.config.display()))
    }

    /// Has it read its configuration file again.
    pub fn reload(&self) -> Result<()> {
        self.process()?.signal(Signal::SIGHUP)
    }

    /// Kills it as the kernel would when memory runs out: without a word.
    pub fn kill(&mut self) -> Result<()> {
        self.running.take().context("the agent does not run")?.kill()
    }

    /// The process of the agent.
    pub fn process(&self) -> Result<&Running> {
        self.running.as_ref().context("the agent does not run")
    }

    /// Asks it to end, and fails unless it does so with exit code 0.
    pub fn stop(&mut self) -> Result<()> {
        let running = self.running.take().context("the agent does not run")?;
        running.signal(Signal::SIGTERM)?;
        running.finish()?.success().map(drop)
    }

    /// Shuts the workloads, as when the machine starts, before there is an agent.
    pub fn guard(&self) -> Result<()> {
        let guard = ["guard".as_ref(), "--config".as_ref(), self.config.as_os_str()];
        process::run(Command::new(settings::enforcer_binary()?).args(guard)).map(drop)
    }

    /// Removes all it has put into the kernel, as an operator would.
    pub fn uninstall(&self) -> Result<()> {
        uninstall(&self.config)
    }

    /// Its process id.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.running.as_ref().context("the agent does not run")?.pid())
    }

    /// Its resident memory in bytes.
    pub fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?)).context("read the agent's status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("read VmRSS")?;
        Ok(kib * 1024)
    }

    /// How many files it has open.
    pub fn open_files(&self) -> Result<usize> {
        self.files().map(|files| files.len())
    }

    /// What each of its open files is, in the kernel's words. Handles of processes do not count: it remembers those of the last
    /// ones, a fixed number of them.
    pub fn files(&self) -> Result<Vec<String>> {
        let directory = format!("/proc/{}/fd", self.pid()?);
        let files = fs::read_dir(&directory).with_context(|| format!("list {directory}"))?;
        // One that is closed meanwhile is nothing.
        let names = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        let names = names.map(|name| name.to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|name| name != "anon_inode:[pidfd]").collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The metrics, in the text format of Prometheus.
    pub fn metrics(&self) -> Result<String> {
        let (status, body) = http::get(self.admin, "/metrics")?;
        ensure!(status == 200, "/metrics answered {status}: {body}");
        Ok(body)
    }

    /// What `enforcer status` prints, the human table.
    pub fn status(&self) -> Result<String> {
        process::run(Command::new(settings::enforcer_binary()?).args(["status", "--admin", &self.admin.to_string()]))
    }

    /// What it says of itself, as JSON.
    pub fn report(&self) -> Result<serde_json::Value> {
        let (status, body) = http::get(self.admin, "/status")?;
        ensure!(status == 200, "/status answered {status}: {body}");
        serde_json::from_str(&body).with_context(|| format!("/status answered {body}"))
    }

    /// Its open connections, as JSON.
    pub fn connections(&self) -> Result<serde_json::Value> {
        let (status, body) = http::get(self.admin, "/connections")?;
        ensure!(status == 200, "/connections answered {status}: {body}");
        serde_json::from_str(&body).with_context(|| format!("/connections answered {body}"))
    }

    /// The end of its log, to stand beside a failure.
    pub fn log(&self) -> String {
        self.running.as_ref().map(tail).unwrap_or_else(|| format!("{} does not run", self.config.display()))
    }
}

/// Runs an agent that must refuse to start, and gives how it ended.
pub fn refuse_to_start(config_file: &Path, place: &Place) -> Result<Finished> {
    launch(place, config_file, None)?.finish()
}

/// Removes all that the agent with this configuration has put into the kernel.
pub fn uninstall(config: &Path) -> Result<()> {
    process::run(Command::new(settings::enforcer_binary()?).arg("uninstall").arg("--config").arg(config)).map(drop)
}

/// A port of the host's loopback that is free now, and stays so while an agent is away: not one of those from which the
/// kernel takes the near end of connections.
pub fn free_address() -> Result<SocketAddr> {
    const PORTS: std::ops::Range<u16> = 24_000..32_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in PORTS {
        let place =
            (std::process::id() * 100 + NEXT.fetch_add(1, Ordering::Relaxed)) % u32::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(place)?;
        if let Ok(probe) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return probe.local_addr().context("find a free port");
        }
    }
    bail!("no port of {PORTS:?} is free")
}

fn launch(place: &Place, config: &Path, clock: Option<&Clock>) -> Result<Running> {
    let config = config.to_str().context("the path of the configuration is not text")?;
    let (binary, arguments) = (settings::enforcer_binary()?, ["agent", "--config", config]);
    let Some(clock) = clock else { return place.start(binary, &arguments) };
    let binary = binary.to_str().context("the path of enforcer is not text")?;
    let variables: Vec<_> = clock.environment().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let variables: Vec<&str> = variables.iter().map(String::as_str).collect();
    place.start("env", &[&variables[..], &[binary], &arguments].concat())
}

/// The last lines an agent said.
fn tail(running: &Running) -> String {
    const LINES: usize = 40;
    let said = [running.stdout(), running.stderr()].map(Result::unwrap_or_default).concat();
    let lines: Vec<&str> = said.lines().collect();
    let last = lines[lines.len().saturating_sub(LINES)..].join("\n");
    format!("the agent's log ends:\n{last}")
}
