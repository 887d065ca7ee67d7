//! The environment of the suites: where the binaries are, how slow the machine is, what its kernel can do.
//!
//! The environment variables named here are all there are. Without them the binaries are looked for beside the running
//! test, where cargo puts them. A binary that is missing fails the test that needs it, with the command
//! that builds it.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// The agent under test: `ENFORCER_BIN`, or `enforcer` in the target directory of the running test.
pub fn enforcer_binary() -> Result<PathBuf> {
    binary("ENFORCER_BIN", "enforcer", "cargo build -p enforcer")
}

/// The program behind `peer`: `ENFORCER_ENDPOINT`, or `endpoint` in the target directory of the running test.
pub fn endpoint_binary() -> Result<PathBuf> {
    binary("ENFORCER_ENDPOINT", "endpoint", "cargo build -p enforcer-tests --bin endpoint")
}

/// The program in Go: `ENFORCER_GO_PROGRAM`, or `go-program` in the target directory of the running test.
pub fn go_binary() -> Result<PathBuf> {
    binary("ENFORCER_GO_PROGRAM", "go-program", "cargo xtask test --only namespaces")
}

/// How many times longer than on a real processor everything may take: `ENFORCER_TEST_SLOW`, or 1.
///
/// Emulated machines set it. It stretches bounds; it never makes a suite wait longer for a state it has.
pub fn slowness() -> u32 {
    env::var("ENFORCER_TEST_SLOW").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

/// Whether this is a real processor, as far as anybody has said.
pub fn is_quick() -> bool {
    slowness() == 1
}

/// Whether this kernel can write TLS records.
pub fn kernel_has_tls() -> bool {
    let protocols = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp").unwrap_or_default();
    protocols.split_whitespace().any(|protocol| protocol == "tls")
}

/// Whether a direct connection of this kernel keeps what a writer that does not block has written last.
pub fn kernel_keeps_whole_records() -> bool {
    kernel_has_tls() && !kernel_release().starts_with("6.1.")
}

/// As in `uname -r`.
fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default()
}

/// What is tried on the direct path of this kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Nothing: it has no kernel TLS.
    Nothing,
    /// The everyday programs, and how connections begin and end.
    Everyday,
    /// Everything.
    Thorough,
}

/// Thorough on one kernel, because it takes long in an emulated processor: `ENFORCER_TEST_DEPTH` asks for `everyday`
/// or `thorough` on any kernel.
pub fn direct_depth() -> Depth {
    const REFERENCE: &str = "6.12.";
    match (kernel_has_tls(), env::var("ENFORCER_TEST_DEPTH").as_deref()) {
        (false, _) => Depth::Nothing,
        (true, Ok("thorough")) => Depth::Thorough,
        (true, Ok("everyday")) => Depth::Everyday,
        (true, _) if kernel_release().starts_with(REFERENCE) => Depth::Thorough,
        (true, _) => Depth::Everyday,
    }
}

/// The variable wins; otherwise the executable's own directory (demo) and the one above it (`deps/`) are searched.
fn binary(variable: &str, name: &str, build: &str) -> Result<PathBuf> {
    if let Some(path) = env::var_os(variable).map(PathBuf::from) {
        if !path.is_file() {
            bail!("{variable} names {}, which is not a file", path.display());
        }
        return Ok(path);
    }
    let executable = env::current_exe().context("find the running executable")?;
    let mut directories = executable.ancestors().skip(1).take(2);
    directories
        .find_map(|directory| Some(directory.join(name)).filter(|path| path.is_file()))
        .with_context(|| format!("no {name} beside {}: run `{build}` or set {variable}", executable.display()))
}
