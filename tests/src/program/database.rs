//! Stores: redis, memcached, PostgreSQL, and the benchmarks that come with them.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::unistd::User;

use super::{Server, fresh_directory, socat, text};
use crate::ground::unused_port;
use crate::place::Place;
use crate::process;
use crate::wait;

/// Redis, with nothing in it.
pub fn redis(place: &Place) -> Result<Server> {
    let port = unused_port();
    let directory = fresh_directory(place, "redis", port)?;
    let (number, directory) = (port.to_string(), text(&directory)?.to_owned());
    let arguments =
        ["--port", &number, "--bind", "0.0.0.0", "::", "--protected-mode", "no", "--save", "", "--dir", &directory];
    Server::start(place, port, "redis-server", &arguments)
}

/// One command of `redis-cli`.
pub fn redis_cli(place: &Place, to: SocketAddr, command: &[&str]) -> Result<String> {
    let (host, port) = host_and_port(to);
    place.run("redis-cli", &[&["-h", &host, "-p", &port, "-e"], command].concat())
}

/// So many requests of each kind over ten connections, `pipeline` at a time; gives its table.
pub fn redis_benchmark(place: &Place, to: SocketAddr, requests: usize, pipeline: usize) -> Result<String> {
    let ((host, port), requests, pipeline) = (host_and_port(to), requests.to_string(), pipeline.to_string());
    let load = ["-c", "10", "-n", &requests, "-P", &pipeline, "-d", "256", "-t", "set,get", "--csv"];
    place.run("redis-benchmark", &[&["-h", &host, "-p", &port], &load[..]].concat())
}

/// memcached with four threads.
pub fn memcached(place: &Place) -> Result<Server> {
    let port = unused_port();
    let number = port.to_string();
    Server::start(place, port, "memcached", &["-u", "root", "-l", "0.0.0.0,::", "-p", &number, "-U", "0", "-t", "4"])
}

/// Stores a value and gets it back, in memcached's text protocol, which needs no client of its own; gives what it said.
pub fn memcached_client(place: &Place, to: SocketAddr, value: &str) -> Result<String> {
    let commands = format!("set key 0 0 {}\r\n{value}\r\nget key\r\nquit\r\n", value.len());
    socat(place, to, commands.as_bytes())
}

/// The user that PostgreSQL runs as; it refuses to be root.
const OWNER: &str = "postgres";
const AS_OWNER: &[&str] = &["--reuid", OWNER, "--regid", OWNER, "--clear-groups", "--"];

/// PostgreSQL with a fresh cluster that trusts everybody.
#[derive(Debug)]
pub struct Postgres {
    /// The server.
    pub server: Server,
}

impl Postgres {
    /// Makes a cluster and starts the server; returns when it takes connections.
    pub fn start(place: &Place) -> Result<Postgres> {
        let port = unused_port();
        let directory = fresh_directory(place, "postgres", port)?;
        let owner = User::from_name(OWNER)?.with_context(|| format!("there is no user {OWNER}"))?;
        chown(&directory, Some(owner.uid.as_raw()), Some(owner.gid.as_raw())).context("give the directory away")?;
        let data = directory.join("data");
        make_cluster(&data)?;

        let (number, sockets) = (port.to_string(), format!("unix_socket_directories={}", text(&directory)?));
        let program = postgres_program("postgres")?;
        let server = [text(&program)?, "-D", text(&data)?, "-p", &number, "-c", "listen_addresses=*", "-c", &sockets];
        let cheap = ["-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "jit=off"];
        let mut server = Server::start(place, port, "setpriv", &[AS_OWNER, &server, &cheap].concat())?;

        // It listens before it has recovered; the last line of this file says when it has.
        let state = data.join("postmaster.pid");
        wait::until("PostgreSQL to take connections", wait::patience(), || {
            server.running.check_alive()?;
            let state = fs::read_to_string(&state).unwrap_or_default();
            Ok(state.lines().any(|line| line.trim_end() == "ready").then_some(()))
        })?;
        Ok(Postgres { server })
    }
}

fn make_cluster(data: &Path) -> Result<()> {
    let program = postgres_program("initdb")?;
    let options = ["--auth=trust", "--no-sync", "--no-instructions", "--locale=C", "--encoding=UTF8"];
    let mut initdb = Command::new("setpriv");
    // Small segments: they are written in full before the first connection.
    initdb.args(AS_OWNER).arg(program).args(options).args(["--wal-segsize=1", "--pgdata"]).arg(data).current_dir("/");
    process::run(&mut initdb)?;
    let access = data.join("pg_hba.conf");
    let rules = fs::read_to_string(&access).context("read the access rules")? + "host all all all trust\n";
    fs::write(&access, rules).context("write the access rules")
}

/// What psql prints for one query.
pub fn psql(place: &Place, to: SocketAddr, query: &str) -> Result<String> {
    run_client(place, to, &["psql", "-X", "-q", "-A", "-t", "-c", query])
}

/// pgbench with these options; gives its report.
pub fn pgbench(place: &Place, to: SocketAddr, options: &[&str]) -> Result<String> {
    run_client(place, to, &[&["pgbench"], options].concat())
}

fn run_client(place: &Place, to: SocketAddr, words: &[&str]) -> Result<String> {
    let (host, port) = host_and_port(to);
    let program = postgres_program(words[0])?;
    place.run(program, &[&["-h", &host, "-p", &port, "-U", OWNER], &words[1..], &[OWNER]].concat())
}

/// Debian keeps PostgreSQL's programs off the search path, in a directory for each version.
fn postgres_program(name: &str) -> Result<PathBuf> {
    const VERSIONS: &str = "/usr/lib/postgresql";
    let versions = fs::read_dir(VERSIONS).with_context(|| format!("list {VERSIONS}: is PostgreSQL installed?"))?;
    let programs = versions.map(|version| Ok(version?.path().join("bin").join(name))).collect::<Result<Vec<_>>>()?;
    let newest = programs.into_iter().filter(|program| program.is_file()).max();
    newest.with_context(|| format!("no version in {VERSIONS} has {name}"))
}

fn host_and_port(to: SocketAddr) -> (String, String) {
    (to.ip().to_string(), to.port().to_string())
}
