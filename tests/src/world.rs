//! A world: the ground with an agent on each of its two nodes. The machine outside has none.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};

use crate::agent::{self, Agent};
use crate::authority;
use crate::config::{Config, Membership, Mode, Offload, Path, Peer, Side, Speaks};
use crate::control::Control;
use crate::ground::{A, B, Ground, IMPOSTOR, LEGACY, PARTNER};
use crate::teardown;

/// What distinguishes one world from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Options {
    /// What both nodes refuse.
    pub mode: Mode,
    /// Who writes their records.
    pub offload: Offload,
    /// Which path their connections take.
    pub path: Path,
    /// Which path those of the second node take, if it is another one.
    pub path_of_b: Option<Path>,
    /// What their connections are encrypted with, if that is not left to the agents.
    pub cipher: Option<&'static str>,
    /// Whom they trust.
    pub authorities: Authorities,
    /// The ports of the workloads on which connections are taken; none means every port.
    pub ports: &'static [u16],
}

/// Whom the two nodes trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Authorities {
    /// The same CA.
    Shared,
    /// Each its own, of the same trust domain.
    Foreign,
    /// That of an `enforcer control`.
    Control,
    /// That of whoever serves a SPIFFE Workload API at [`workload_api`]; the suite does so before it makes the world.
    WorkloadApi,
}

/// Two nodes with an agent each. Dropping it takes it down.
#[derive(Debug)]
pub struct World {
    /// The first node; it has the CA.
    pub a: Node,
    /// The second node.
    pub b: Node,
    /// What issues their certificates, if they do not do it themselves.
    pub control: Option<Control>,
    /// What they stand on.
    pub ground: Ground,
}

/// A node with its one workload.
#[derive(Debug)]
pub struct Node {
    /// Its agent.
    pub agent: Agent,
    /// What its agent was started with.
    pub config: Config,
}

impl Options {
    /// Strict nodes that trust the same CA, with every connection relayed; the agents decide who writes the records.
    pub const STRICT: Options = Options {
        mode: Mode::Strict,
        offload: Offload::Auto,
        path: Path::Relay,
        path_of_b: None,
        cipher: None,
        authorities: Authorities::Shared,
        ports: &[],
    };

    /// The same, with every connection direct: what cannot be is refused.
    pub const DIRECT: Options = Options { path: Path::Direct, ..Options::STRICT };

    /// The same, with the ends of each connection on different paths.
    pub const MIXED: Options = Options { path: Path::Direct, path_of_b: Some(Path::Relay), ..Options::STRICT };

    /// The same, with the path left to the agents.
    pub const AUTO: Options = Options { path: Path::Auto, ..Options::STRICT };

    /// Nodes whose certificates come from control.
    pub const CONTROL: Options = Options { authorities: Authorities::Control, ..Options::STRICT };

    /// Nodes whose certificates come from a SPIFFE Workload API.
    pub const SVIDS: Options = Options { authorities: Authorities::WorkloadApi, ..Options::STRICT };

    /// Permissive nodes.
    pub const PERMISSIVE: Options = Options { mode: Mode::Permissive, ..Options::STRICT };

    /// Strict nodes that do not trust each other's CA.
    pub const FOREIGN: Options = Options { authorities: Authorities::Foreign, ..Options::STRICT };
}

impl World {
    /// Makes a world; returns when both agents are ready.
    pub fn create(options: Options) -> Result<World> {
        World::on(Ground::create()?, options)
    }

    /// Makes a world on ground that has no agents yet.
    pub fn on(ground: Ground, options: Options) -> Result<World> {
        let (state_a, state_b) = (ground.directory("ca-a"), ground.directory("ca-b"));
        let control = match options.authorities {
            Authorities::Control => Some(Control::start(&ground.directory("authority"), &["a", "b"])?),
            Authorities::Shared | Authorities::Foreign | Authorities::WorkloadApi => None,
        };
        match options.authorities {
            Authorities::Shared => {
                authority::init(&state_a)?;
                authority::enrol_node(&state_a, "node-b", &state_b)?;
            }
            Authorities::Foreign => [&state_a, &state_b].into_iter().try_for_each(|state| authority::init(state))?,
            Authorities::Control | Authorities::WorkloadApi => {}
        }
        teardown::mount_bpf()?;
        let (config_a, config_b) = (config(&ground, "a", state_a, options)?, config(&ground, "b", state_b, options)?);
        let (peers_a, peers_b) = (peers_of_a(config_b.pair), peers_of_b(config_a.pair));
        let join = |node| control.as_ref().map(|control| membership(control, node)).transpose();
        let a = start_node(&ground, Config { peers: peers_a, control: join("node-a")?, ..config_a })?;
        let b = start_node(&ground, Config { peers: peers_b, control: join("node-b")?, ..config_b })?;
        Ok(World { a, b, control, ground })
    }

    /// Puts what the agents have said lately beside a failure.
    pub fn explain<T>(&self, result: Result<T>) -> Result<T> {
        let control = self.control.as_ref().map(|control| format!("\ncontrol: {}", control.log())).unwrap_or_default();
        let logs = || format!("node a: {}\nnode b: {}{control}", self.a.agent.log(), self.b.agent.log());
        result.map_err(|error| anyhow!("{error:#}\n{}", logs()))
    }
}

fn membership(control: &Control, node: &str) -> Result<Membership> {
    Ok(Membership { address: control.address, token: control.token(node)? })
}

fn start_node(ground: &Ground, config: Config) -> Result<Node> {
    Ok(Node { agent: Agent::start(&config, &ground.host)?, config })
}

/// Node `a` knows peers of every kind; two of them are where the agent of node `b` is.
fn peers_of_a(pair_of_b: SocketAddr) -> Vec<Peer> {
    let others =
        |account, addresses: [IpAddr; 2], speaks| Peer { account, addresses: addresses.into(), speaks, agent: None };
    vec![
        enrolled("b", B, pair_of_b),
        enrolled("someone-else", IMPOSTOR, pair_of_b),
        others("partner", PARTNER, Speaks::Mtls),
        others("legacy", LEGACY, Speaks::Plaintext),
    ]
}

/// Node `b` knows node `a`.
fn peers_of_b(pair_of_a: SocketAddr) -> Vec<Peer> {
    vec![enrolled("a", A, pair_of_a)]
}

fn enrolled(account: &'static str, addresses: [IpAddr; 2], agent: SocketAddr) -> Peer {
    Peer { account, addresses: addresses.into(), speaks: Speaks::Enforcer, agent: Some(agent) }
}

/// A configuration that knows no peers yet.
fn config(ground: &Ground, account: &'static str, state: PathBuf, options: Options) -> Result<Config> {
    let place = if account == "a" { &ground.a } else { &ground.b };
    let namespace = place.namespace.as_ref().context("workloads run in namespaces")?;
    Ok(Config {
        account,
        state,
        bpf: ground.pins(account),
        admin: agent::free_address()?,
        // Agents are in the network of the host, and reach each other there.
        pair: agent::free_address()?,
        cgroup: place.cgroup.path().to_owned(),
        network: namespace.path(),
        ports: options.ports.to_vec(),
        offload: options.offload,
        path: options.path_of_b.filter(|_| account == "b").unwrap_or(options.path),
        mode: options.mode,
        cipher: options.cipher,
        peers: Vec::new(),
        control: None,
        workload_api: workload_api(ground, account),
        side: if options.authorities == Authorities::WorkloadApi { Side::Asks } else { Side::Offers },
        public: None,
    })
}

/// Where the Workload API is that a node serves, or that serves the node.
pub fn workload_api(ground: &Ground, account: &str) -> PathBuf {
    ground.directory(&format!("workload-api-{account}/api.sock"))
}
