//! Proxies beside the applications, as their users would run them: mutual TLS 1.3 between the two, two workers each.
//!
//! Their configurations are in `tests/benches/peers/`, as they are given to the programs. The client connects to the proxy
//! of its own node; that of the other node passes its bytes on to the server over loopback.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path as File;

use anyhow::{Context, Result};
use enforcer_tests::authority::Credentials;
use enforcer_tests::ground::{B, Ground};
use enforcer_tests::place::Place;
use enforcer_tests::process::Running;

use super::Path;
use super::application::fresh_directory;
use super::credentials::Authority;

/// Where the sidecar of the client listens, on its own node.
pub(super) const CLIENTS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15001);

/// Where the sidecar of the server listens, for other nodes.
pub(super) const SIDECARS: SocketAddr = SocketAddr::new(B[0], 15443);

/// A pair of them; they run until it is dropped.
pub(crate) struct Sidecars {
    /// On the node of the client.
    pub(super) client: Sidecar,
    /// On the node of the server.
    pub(super) server: Sidecar,
}

pub(super) struct Sidecar {
    running: Running,
    /// In the network of its node, beside the application; nobody else is in its cgroup.
    pub(super) place: Place,
    /// What it proves its identity with, and whom it trusts.
    pub(super) credentials: Credentials,
}

/// How one program is run.
struct Program {
    name: &'static str,
    /// What comes before the name of the configuration.
    arguments: &'static [&'static str],
    /// Of client and server: name and content.
    configurations: [(&'static str, &'static str); 2],
}

/// Two of the files of `tests/benches/peers/`.
macro_rules! configurations {
    ($client:literal, $server:literal) => {
        [
            ($client, include_str!(concat!("../../../../benches/peers/", $client))),
            ($server, include_str!(concat!("../../../../benches/peers/", $server))),
        ]
    };
}

impl Program {
    fn of(path: Path) -> Option<Program> {
        Some(match path {
            Path::Nginx => Program {
                name: "nginx",
                arguments: &["-e", "stderr", "-p", ".", "-c"],
                configurations: configurations!("nginx-client.conf", "nginx-server.conf"),
            },
            Path::Haproxy => Program {
                name: "haproxy",
                arguments: &["-db", "-f"],
                configurations: configurations!("haproxy-client.cfg", "haproxy-server.cfg"),
            },
            Path::Envoy => Program {
                name: "envoy",
                arguments: ENVOY,
                configurations: configurations!("envoy-client.yaml", "envoy-server.yaml"),
            },
            Path::EnvoyHttp => Program {
                name: "envoy",
                arguments: ENVOY,
                configurations: configurations!("envoy-http-client.yaml", "envoy-http-server.yaml"),
            },
            _ => return None,
        })
    }
}

/// Without hot restart: two of them on one machine would take each other for predecessor and successor.
const ENVOY: &[&str] = &["--concurrency", "2", "--disable-hot-restart", "--log-level", "warning", "-c"];

impl Sidecars {
    /// Starts both; returns when they listen.
    pub(super) fn start(path: Path, ground: &Ground) -> Result<Sidecars> {
        let program = Program::of(path).with_context(|| format!("{path} has no sidecars"))?;
        let authority = Authority::create()?;
        let [at_client, at_server] = &program.configurations;
        let server = Sidecar::start(&program, at_server, &authority, (&ground.beside_b("sidecar-b")?, SIDECARS));
        let client = Sidecar::start(&program, at_client, &authority, (&ground.beside_a("sidecar-a")?, CLIENTS));
        Ok(Sidecars { server: server.context("the sidecar of the server")?, client: client.context("of the client")? })
    }

    /// What they have said until now.
    pub(super) fn said(&self) -> String {
        let said = |sidecar: &Sidecar| sidecar.running.stderr().unwrap_or_default();
        format!("sidecar of the client: {}\nsidecar of the server: {}", said(&self.client), said(&self.server))
    }
}

impl Sidecar {
    fn start(
        program: &Program,
        (name, configuration): &(&str, &str),
        authority: &Authority,
        (place, listens): (&Place, SocketAddr),
    ) -> Result<Sidecar> {
        let directory = fresh_directory(place, program.name)?;
        let account = if listens == CLIENTS { "client" } else { "server" };
        let credentials = authority.issue(account, &directory)?;
        write(&directory, name, configuration)?;
        let place = Place { directory, ..place.clone() };
        let mut running = place.start(program.name, &[program.arguments, &[name]].concat())?;
        place.network()?.wait_for_listener(listens.port(), &mut running)?;
        Ok(Sidecar { running, place, credentials })
    }

    /// All that are in its cgroup.
    pub(super) fn processes(&self) -> Result<Vec<u32>> {
        let file = self.place.cgroup.path().join("cgroup.procs");
        let processes = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        processes.lines().map(|process| process.parse().context("read a process id")).collect()
    }
}

fn write(directory: &File, name: &str, content: &str) -> Result<()> {
    fs::write(directory.join(name), content).with_context(|| format!("write {name}"))
}
