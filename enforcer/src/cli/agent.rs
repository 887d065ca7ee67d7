//! `enforcer agent`: the daemon.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::ExitCode;
use crate::agent;
use crate::connection::turns::threads;
use crate::kernel::{limits, memory};

/// A start with a hundred workloads needs some 900. It is 32 KiB of the kernel's memory.
const DESCRIPTORS: i32 = 4096;

/// Run the node agent in the foreground until SIGTERM or SIGINT.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Stopping the agent leaves its eBPF programs in place: enrolled workloads keep what is enforced and new connections \
are refused until an agent runs again. `enforcer uninstall` takes the programs out.

Example:
  enforcer agent --config /etc/enforcer/agent.yaml")]
pub struct Args {
    /// YAML file with the node, its workloads, the peers and the policies.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Runs the agent.
///
/// # Errors
///
/// When it cannot start.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    prepare();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads()).enable_all().build()?;
    match runtime.block_on(agent::run(&args.config)) {
        Ok(()) => Ok(ExitCode::Ok),
        Err(agent::Error::Config(mistakes)) => {
            tracing::error!(config = %args.config.display(), "configuration refused");
            super::complain(&mistakes);
            Ok(ExitCode::BadConfig)
        }
        Err(error @ agent::Error::Guard(_)) => Ok(super::kernel_unable(error.into())),
        Err(error) => Err(error.into()),
    }
}

/// What is done before there are threads.
fn prepare() {
    match limits::raise_descriptors() {
        Ok(limit) => tracing::info!(limit, "descriptors"),
        Err(error) => tracing::warn!(%error, "cannot raise the number of descriptors"),
    }
    if let Err(error) = limits::make_room_for_descriptors(DESCRIPTORS) {
        tracing::info!(%error, "no room for descriptors yet, so the start takes a moment longer");
    }
    memory::give_back_at_once();
}
