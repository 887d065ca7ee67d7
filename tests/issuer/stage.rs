//! What the suites of the authority have in common: a directory each, free ports, servers that end with them.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::future::Future;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use enforcer_tests::wait;
use libtest_mimic::{Failed, Trial};
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// The first word of the command line of this program where it is not the runner.
pub(crate) const CHILD: &str = "--as-child";

/// What the directory of a suite begins with; the process and a random part follow.
const PREFIX: &str = "enforcer-issuer-";
/// For one suite.
const LIMIT: Duration = Duration::from_secs(240);

/// Names a promise after its function.
macro_rules! promises {
    ($($promise:ident),* $(,)?) => {
        vec![$($crate::stage::trial(concat!(module_path!(), "::", stringify!($promise)), $promise)),*]
    };
}
pub(crate) use promises;

/// A suite with a directory for its files, on a runtime of its own. When it ends everything is gone.
pub(crate) fn trial<F>(name: &str, promise: impl FnOnce(PathBuf) -> F + Send + 'static) -> Trial
where
    F: Future<Output = Result<()>>,
{
    Trial::test(name, move || kept(promise).map_err(|error| Failed::from(format!("{error:#}"))))
}

fn kept<F: Future<Output = Result<()>>>(promise: impl FnOnce(PathBuf) -> F) -> Result<()> {
    let prefix = format!("{PREFIX}{}-", process::id());
    let directory = tempfile::Builder::new().prefix(&prefix).tempdir().context("make a directory")?;
    let runtime = Runtime::new().context("start a runtime")?;
    let limit = wait::bound(LIMIT);
    runtime.block_on(async {
        let promise = promise(directory.path().to_owned());
        timeout(limit, promise).await.with_context(|| format!("not done within {limit:?}"))?
    })
}

/// Removes what killed runs have left. Their servers have ended with them.
pub(crate) fn sweep() {
    let Ok(entries) = fs::read_dir(env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split_once('-'));
        if let Some((owner, _random)) = owner
            && !Path::new("/proc").join(owner).exists()
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            eprintln!("remove {}: {error}", entry.path().display());
        }
    }
}

/// A server of this machine, to be started with `enforcer_tests::process::Running`. The kernel ends it with the thread
/// that has started it, which is that of the suite, so nothing is left when the suites are killed.
pub(crate) fn server(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// A program from a Debian package.
pub(crate) fn installed(path: &str) -> Result<&Path> {
    let path = Path::new(path);
    if !path.is_file() {
        bail!("this machine has no {}: run `cargo xtask setup`", path.display());
    }
    Ok(path)
}

/// This program in another role, as a process that ends with the suite.
pub(crate) fn child(role: &str) -> Result<Command> {
    let mut command = server(env::current_exe().context("find this program")?);
    command.args([CHILD, role]);
    Ok(command)
}

/// Ports of the loopback device that nobody listens at.
pub(crate) fn free_ports<const COUNT: usize>() -> Result<[u16; COUNT]> {
    let listeners = [(); COUNT].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let mut ports = [0; COUNT];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        let listener = listener.as_ref().map_err(|error| anyhow::anyhow!("find a free port: {error}"))?;
        *port = listener.local_addr().context("find a free port")?.port();
    }
    Ok(ports)
}
