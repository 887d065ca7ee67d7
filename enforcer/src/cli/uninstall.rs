//! `enforcer uninstall`: the end of what any agent has put into the kernel.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args as ClapArgs;

use super::ExitCode;
use crate::control::file;
use crate::kernel::bpf::{self, Removal};
use crate::kernel::netns::Namespace;

/// Detach and remove every eBPF program and map of this node: its workloads speak in the clear again.
///
/// Direct connections that are open go on, encrypted, until they are closed.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The agent's configuration; it says where the programs are pinned.
    #[arg(long, value_name = "FILE", required_unless_present = "bpf_directory")]
    pub config: Option<PathBuf>,
    /// Where the programs are pinned, if the configuration is gone.
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pub bpf_directory: Option<PathBuf>,
}

/// Removes the programs.
///
/// # Errors
///
/// When the configuration cannot be read or a pin cannot be removed.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (directory, named) = match (&args.config, &args.bpf_directory) {
        (Some(config), _) => configured(config)?,
        (None, Some(directory)) => (directory.clone(), Vec::new()),
        (None, None) => anyhow::bail!("neither --config nor --bpf-directory is given"),
    };
    let removed = bpf::remove(&directory, &namespaces(named));
    let Removal { opened, lost, ended } = removed.with_context(|| format!("uninstall from {}", directory.display()))?;
    if lost > 0 {
        super::complain(&format_args!(
            "{lost} network namespaces were not found; if they are still in use, write {} into \
             /proc/sys/net/ipv4/tcp_notsent_lowat inside them",
            u32::MAX
        ));
    }
    tracing::info!(opened, ended, "uninstalled");
    Ok(ExitCode::Ok)
}

/// Where the programs are, and the namespaces of the workloads. They may be long gone, so nothing is looked for yet.
fn configured(config: &Path) -> anyhow::Result<(PathBuf, Vec<PathBuf>)> {
    let text = fs::read(config).with_context(|| format!("read {}", config.display()))?;
    let snapshot = file::parse(text, &config.to_string_lossy())?;
    let networks = snapshot.workloads().iter().map(|workload| workload.network.path()).collect();
    Ok((snapshot.node().bpf_directory.clone(), networks))
}

/// Every network namespace that has a name or a process.
fn namespaces(mut paths: Vec<PathBuf>) -> Vec<Namespace> {
    let entries = |directory: &str| fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    paths.extend(entries("/run/netns"));
    paths.extend(entries("/proc").map(|process| process.join("ns/net")).filter(|path| path.exists()));
    let mut seen = HashSet::new();
    // What cannot be opened is no namespace, or has just ended.
    let opened = paths.iter().filter_map(|path| Namespace::open(path).ok());
    opened.filter(|namespace| seen.insert(namespace.cookie())).collect()
}
