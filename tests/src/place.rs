//! Where a program runs: a namespace, a cgroup, and a directory for what it writes.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cgroup::Cgroup;
use crate::netns::Namespace;
use crate::process::Running;

/// Joins the cgroup first, then becomes the program inside the namespace, so that not one instruction of the
/// program runs outside either, and the process id stays the one that was started. `ip netns exec` would hide
/// the cgroup mount.
const ENTER: &str =
    r#"echo $$ > "$1/cgroup.procs" && namespace="$2" && shift 2 && exec nsenter --net="$namespace" -- "$@""#;

/// The same for programs that stay in the host's namespace.
const ENTER_CGROUP: &str = r#"echo $$ > "$1/cgroup.procs" && shift && exec "$@""#;

/// Where a program runs.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its network; `None` is the network of the host.
    pub namespace: Option<Namespace>,
    /// Its control group.
    pub cgroup: Cgroup,
    /// Where its output, configuration and data go.
    pub directory: PathBuf,
    /// Its programs have the processor only where nobody else wants it, as those of a pod that is promised nothing.
    pub is_best_effort: bool,
}

impl Place {
    /// Its network, which must not be that of the host.
    pub fn network(&self) -> Result<&Namespace> {
        self.namespace.as_ref().context("this place is in the network of the host")
    }

    /// Starts a program here.
    pub fn start(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Result<Running> {
        let program = program.as_ref();
        let name = Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned();
        let mut command = Command::new("nice");
        command.args(["-n", if self.is_best_effort { "19" } else { "0" }, "sh"]);
        match &self.namespace {
            Some(namespace) => {
                command.args(["-c", ENTER, "enter"]).arg(self.cgroup.path()).arg(namespace.path());
            }
            None => {
                command.args(["-c", ENTER_CGROUP, "enter"]).arg(self.cgroup.path());
            }
        }
        command.arg(program).args(arguments).current_dir(&self.directory);
        Running::start(&mut command, &name, &self.directory)
    }

    /// Runs a program here to its successful end and gives its standard output.
    pub fn run(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Result<String> {
        self.start(program, arguments)?.finish()?.success()
    }

    /// Runs a program here that must fail, and gives what it said on standard error.
    pub fn run_refused(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Result<String> {
        self.start(program, arguments)?.finish()?.failure()
    }
}
