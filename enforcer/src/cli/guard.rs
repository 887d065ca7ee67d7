//! `enforcer guard`: the programs are there before the workloads are, and before an agent is.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Args as ClapArgs;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::ExitCode;
use crate::agent;
use crate::control::file;
use crate::kernel::bpf::Guard;
use crate::kernel::cgroup::{Cgroup, Whereabouts};

/// Shut the cgroups of all workloads until the agent has enrolled them: no process in them gets a socket.
///
/// To be run while the machine starts, before the network and before the workloads. A cgroup that does not exist is made:
/// systemd and container runtimes take it as it is.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
What an agent has enrolled before stays as it is, and where an agent runs there is nothing to do. The cgroups in \
`guard` of the Node stay shut for all that is no workload, also when the agent runs: a service in one of them that \
is started anew, and so has another cgroup than before, waits for the agent.

Example:
  enforcer guard --config /etc/enforcer/agent.yaml")]
pub struct Args {
    /// The agent's configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Shuts them.
///
/// # Errors
///
/// When a cgroup cannot be made, or a program cannot be attached; those that were shut before stay shut.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let snapshot = match file::parse_file(&args.config) {
        Ok(snapshot) => snapshot,
        Err(error) => {
            super::complain(&error);
            return Ok(ExitCode::BadConfig);
        }
    };
    let _lock = match agent::lock(&snapshot.node().state_directory) {
        Ok(lock) => lock,
        Err(agent::Error::AlreadyRunning { .. }) => {
            tracing::info!("an agent runs, and guards");
            return Ok(ExitCode::Ok);
        }
        Err(error) => return Err(error.into()),
    };
    let mut guard = match Guard::open(&snapshot.node().bpf_directory) {
        Ok(guard) => guard,
        Err(error) => return Ok(super::kernel_unable(error.into())),
    };
    let workloads = snapshot.workloads().iter().map(|workload| workload.cgroup.as_path());
    let paths: Vec<&Path> = snapshot.node().guard.iter().map(PathBuf::as_path).chain(workloads).collect();
    for path in &paths {
        let cgroup = made(path)?;
        if let Err(error) = guard.shut(&cgroup) {
            return Ok(super::kernel_unable(error.into()));
        }
    }
    tracing::info!(cgroups = paths.len(), "guarded");
    Ok(ExitCode::Ok)
}

/// The cgroup, which is made if it is not there. Nothing is made elsewhere than among cgroups.
fn made(path: &Path) -> anyhow::Result<Cgroup> {
    let around = path.ancestors().find(|directory| directory.is_dir());
    let around = around.with_context(|| format!("cgroup {}: nothing of this path exists", path.display()))?;
    let kind = statfs(around).with_context(|| format!("look at {}", around.display()))?.filesystem_type();
    ensure!(
        kind == CGROUP2_SUPER_MAGIC,
        "cgroup {} would be made in {}, which is on no cgroup2 file system; mend the path, or mount cgroup2 before",
        path.display(),
        around.display()
    );
    fs::create_dir_all(path).with_context(|| format!("make cgroup {}", path.display()))?;
    let cgroup = Cgroup::open(path).with_context(|| format!("open cgroup {}", path.display()))?;
    let here = Whereabouts::of_this_process().context("look where this process is")?;
    let holds_us = cgroup.contains(&here).with_context(|| format!("look at cgroup {}", path.display()))?;
    ensure!(!holds_us, "cgroup {} holds this process; an agent started there could reach nobody", path.display());
    Ok(cgroup)
}
