//! The binaries that the suites and the demo need, built once and found where cargo says that they are.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::process;

/// Paths of what was built.
pub(crate) struct Artifacts {
    /// The agent.
    pub(crate) enforcer: PathBuf,
    /// Small clients and servers of the suites.
    pub(crate) endpoint: PathBuf,
    /// What measures connections.
    pub(crate) bench: PathBuf,
    /// The demo.
    pub(crate) demo: PathBuf,
    /// All suites that want worlds.
    pub(crate) suites: PathBuf,
    /// Those of the authority.
    pub(crate) issuer: PathBuf,
}

/// For what the binaries are optimized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Being built soon.
    Dev,
    /// Running fast.
    Release,
}

/// Builds them; what is up to date costs nothing.
///
/// All of the workspace in one command, the same as for the unit tests: cargo compiles a dependency anew for each set of
/// features that the packages of a command want of it.
pub(crate) fn build() -> Result<Artifacts> {
    let built = executables(&["test", Profile::Dev.flag(), "--workspace", "--no-run"])?;
    Ok(Artifacts {
        enforcer: find(&built, "enforcer")?,
        endpoint: find(&built, "endpoint")?,
        bench: find(&built, "bench")?,
        demo: find(&built, "demo")?,
        suites: find(&built, "suites")?,
        issuer: find(&built, "issuer")?,
    })
}

/// Builds the program with all fuzz targets.
///
/// By the same command as [`build`], so that its dependencies are the same; the wrapper is for packages of this workspace
/// alone, and cargo keeps what it makes of them apart.
pub(crate) fn fuzz() -> Result<PathBuf> {
    let mut cargo = process::command(env!("CARGO"));
    cargo.args(["test", Profile::Dev.flag(), "--locked", "--workspace", "--no-run", "--bin", "fuzz"]).args(AS_MESSAGES);
    cargo.env("RUSTC_WORKSPACE_WRAPPER", process::workspace().join("tests/fuzz/rustc.sh"));
    let messages = process::output(&mut cargo)?;
    // There is but one.
    messages.lines().find_map(|message| field(message, "executable")).map(PathBuf::from).context("cargo built no fuzz")
}

/// Builds only these programs of the suites' package; gives each name with its path.
pub(crate) fn programs(profile: Profile, names: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let mut arguments = vec!["build", profile.flag(), "--package", "enforcer-tests"];
    arguments.extend(names.iter().flat_map(|name| ["--bin", name]));
    let built = executables(&arguments)?;
    names.iter().map(|name| Ok(((*name).to_owned(), find(&built, name)?))).collect()
}

/// Builds the one program of the suites that is not written in Rust, beside the others, where the suites look for it.
///
/// Linked statically, so that it runs in a virtual machine that knows nothing of Go.
pub(crate) fn go_program(artifacts: &Artifacts) -> Result<PathBuf> {
    let program = artifacts.endpoint.with_file_name("go-program");
    let mut go = process::command("go");
    go.args(["build", "-trimpath", "-o"]).arg(&program).arg(".");
    go.env("CGO_ENABLED", "0").env("GOPROXY", "off").current_dir(process::workspace().join("tests/programs/go"));
    process::run(&mut go)?;
    Ok(program)
}

/// Builds the agent alone.
pub(crate) fn enforcer(profile: Profile) -> Result<PathBuf> {
    find(&executables(&["build", profile.flag(), "--package", "enforcer", "--bins"])?, "enforcer")
}

impl Profile {
    fn flag(self) -> &'static str {
        match self {
            Self::Dev => "--profile=dev",
            Self::Release => "--profile=release",
        }
    }
}

/// How cargo says what it has built.
const AS_MESSAGES: [&str; 2] = ["--quiet", "--message-format=json-render-diagnostics"];

/// The name of each target with its executable.
fn executables(arguments: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let mut cargo = process::command(env!("CARGO"));
    cargo.args(arguments).args(AS_MESSAGES);
    let messages = process::output(&mut cargo)?;
    Ok(messages.lines().filter_map(executable).collect())
}

fn find(executables: &[(String, PathBuf)], name: &str) -> Result<PathBuf> {
    let found = executables.iter().find(|(target, _)| target == name);
    found.map(|(_, path)| path.clone()).with_context(|| format!("cargo built no {name}"))
}

/// Target and executable of one of cargo's messages, which is one line of JSON; none for the unit tests of a library or a
/// program. The fields that matter hold names and paths of this build, so looking for them needs no parser.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let target = message.split_once("\"target\":")?.1;
    let profile = message.split_once("\"profile\":{")?.1.split_once('}')?.0;
    let is_test = profile.contains("\"test\":true");
    if is_test && !target.starts_with("{\"kind\":[\"test\"]") {
        return None;
    }
    Some((field(target, "name")?, field(message, "executable")?.into()))
}

fn field(message: &str, name: &str) -> Option<String> {
    let value = message.split_once(&format!("\"{name}\":\""))?.1;
    value.split_once('"').map(|(value, _)| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_found_in_cargos_messages() {
        let message = |kind: &str, test: bool, path: &str| {
            let target = format!(r#""target":{{"kind":["{kind}"],"name":"x","test":true}}"#);
            format!(r#"{{"reason":"compiler-artifact",{target},"profile":{{"test":{test}}},"executable":{path}}}"#)
        };
        let found = Some(("x".to_owned(), "/t/x-1".into()));
        assert_eq!(executable(&message("test", true, r#""/t/x-1""#)), found);
        assert_eq!(executable(&message("bin", false, r#""/t/x-1""#)), found);
        assert_eq!(executable(&message("bin", true, r#""/t/x-1""#)), None, "unit tests of a program");
        assert_eq!(executable(&message("lib", false, "null")), None);
    }
}
