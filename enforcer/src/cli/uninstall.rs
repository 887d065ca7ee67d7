//! `enforcer uninstall`: the end of what any agent has put into the kernel.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args as ClapArgs;

use super::ExitCode;
use crate::control::file;
use crate::kernel::bpf;

/// Detach and remove every eBPF program and map of this node: its workloads speak in the clear again.
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
    let directory = match (&args.config, &args.bpf_directory) {
        (Some(config), _) => configured(config)?,
        (None, Some(directory)) => directory.clone(),
        (None, None) => anyhow::bail!("neither --config nor --bpf-directory is given"),
    };
    bpf::remove(&directory).with_context(|| format!("uninstall from {}", directory.display()))?;
    Ok(ExitCode::Ok)
}

/// The workloads that the file names may be long gone, so they are not looked for.
fn configured(config: &Path) -> anyhow::Result<PathBuf> {
    let text = std::fs::read(config).with_context(|| format!("read {}", config.display()))?;
    Ok(file::parse(text, &config.to_string_lossy())?.node().bpf_directory.clone())
}
