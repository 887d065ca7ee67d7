//! Unmodified programs, as a distribution ships them, with the least configuration that they run with; and programs of
//! our own where the point is how they call the kernel.
//!
//! A server is there when its port listens in its namespace; clients fail rather than hang.

mod web;

mod database;
mod shell;
mod tls;

mod language;

use std::fs::{self, Permissions};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use self::database::{Postgres, memcached, memcached_client, pgbench, psql, redis, redis_benchmark, redis_cli};
pub use self::language::{Script, go_client, go_server, node_client, node_server, python_http};
pub use self::shell::{Ssh, sha256, socat, socat_echo};
pub use self::tls::{openssl_page, openssl_request, openssl_server};
pub use self::web::{
    Pages, curl, curl_by_name, curl_from, curl_over_one_connection, curl_side_by_side, haproxy_before, nginx,
    nginx_before, nginx_on, nginx_with_workers, wget,
};
use crate::place::Place;
use crate::process::Running;

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct Server {
    /// The port it listens on; unless said otherwise, on every address of both families.
    pub port: u16,
    running: Running,
}

impl Server {
    /// The address to reach it under.
    pub fn at(&self, address: IpAddr) -> SocketAddr {
        SocketAddr::new(address, self.port)
    }

    /// The server itself.
    pub fn process(&self) -> &Running {
        &self.running
    }

    /// Waits for the successful end of a server that ends by itself.
    pub fn finish(self) -> Result<()> {
        self.running.finish()?.success().map(drop)
    }

    /// Starts a program and waits until it listens on `port`.
    fn start(place: &Place, port: u16, program: &str, arguments: &[&str]) -> Result<Server> {
        let mut running = place.start(program, arguments)?;
        let namespace = place.namespace.as_ref().context("servers run in namespaces")?;
        namespace.wait_for_listener(port, &mut running)?;
        Ok(Server { port, running })
    }
}

/// A directory for one server; ports are unique, so its name is.
fn fresh_directory(place: &Place, program: &str, port: u16) -> Result<PathBuf> {
    let directory = place.directory.join(format!("{program}-{port}"));
    fs::create_dir(&directory).with_context(|| format!("create {}", directory.display()))?;
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).context("open the directory to the server")?;
    Ok(directory)
}

fn write(file: &Path, content: &str) -> Result<()> {
    fs::write(file, content).with_context(|| format!("write {}", file.display()))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not text", path.display()))
}
