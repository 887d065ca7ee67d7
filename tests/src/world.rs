//! A world: the ground with an agent on each of its two nodes. The machine outside has none.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};

use crate::agent::{self, Agent};
use crate::authority;
use crate::config::{Config, Membership, Mode, Offload, Path, Peer, Side, Speaks, TRUST_DOMAIN};
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
    /// The fields of a policy with rules, for each node; empty where it has none.
    pub rules: [&'static str; 2],
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
        rules: ["", ""],
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
        let control = match options.authorities {
            Authorities::Control => Some(Control::start(&ground.directory("authority"), &["a", "b"])?),
            Authorities::Shared | Authorities::Foreign | Authorities::WorkloadApi => None,
        };
        World::arranged(ground, options, control, |_a, _b| {})
    }

    /// The same, with a control that runs already where one is wanted, and with what a suite changes in the configuration
    /// of each node before there are authorities and agents.
    pub fn arranged(
        ground: Ground,
        options: Options,
        control: Option<Control>,
        arrange: impl FnOnce(&mut Config, &mut Config),
    ) -> Result<World> {
        let [mut a, mut b] = [config(&ground, "a", options)?, config(&ground, "b", options)?];
        (a.peers, b.peers) = (peers_of_a(b.pair), peers_of_b(a.pair));
        if let Some(control) = &control {
            (a.control, b.control) = (Some(membership(control, "node-a")?), Some(membership(control, "node-b")?));
        }
        arrange(&mut a, &mut b);
        match options.authorities {
            Authorities::Shared => {
                authority::init_for(&a.state, a.trust_domain)?;
                authority::enrol_node(&a.state, "node-b", &b.state)?;
            }
            Authorities::Foreign => {
                [&a, &b].into_iter().try_for_each(|node| authority::init_for(&node.state, node.trust_domain))?;
            }
            Authorities::Control | Authorities::WorkloadApi => {}
        }
        teardown::mount_bpf()?;
        let (a, b) = (start_node(&ground, a)?, start_node(&ground, b)?);
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
    Ok(Membership { address: control.address, token: control.token(node)?, grace: None })
}

fn start_node(ground: &Ground, config: Config) -> Result<Node> {
    Ok(Node { agent: Agent::start(&config, &ground.host)?, config })
}

/// Node `a` knows peers of every kind; three of them are where the agent of node `b` is, which has one of them. Of the
/// other two, one has no agent to ask.
fn peers_of_a(pair_of_b: SocketAddr) -> Vec<Peer> {
    let others = |account, addresses: [IpAddr; 2], speaks| Peer {
        speaks,
        agent: None,
        ..enrolled(account, addresses, pair_of_b)
    };
    vec![
        enrolled("b", B, pair_of_b),
        Peer { addresses: vec![IMPOSTOR[0]], ..enrolled("someone-else", IMPOSTOR, pair_of_b) },
        Peer { addresses: vec![IMPOSTOR[1]], ..others("another", IMPOSTOR, Speaks::Enforcer) },
        others("partner", PARTNER, Speaks::Mtls),
        others("legacy", LEGACY, Speaks::Plaintext),
    ]
}

/// Node `b` knows node `a`.
fn peers_of_b(pair_of_a: SocketAddr) -> Vec<Peer> {
    vec![enrolled("a", A, pair_of_a)]
}

fn enrolled(account: &'static str, addresses: [IpAddr; 2], agent: SocketAddr) -> Peer {
    let (trust_domain, addresses) = (TRUST_DOMAIN, addresses.into());
    Peer { account, trust_domain, addresses, speaks: Speaks::Enforcer, agent: Some(agent) }
}

/// A configuration that knows no peers yet.
fn config(ground: &Ground, account: &'static str, options: Options) -> Result<Config> {
    let place = if account == "a" { &ground.a } else { &ground.b };
    let namespace = place.namespace.as_ref().context("workloads run in namespaces")?;
    Ok(Config {
        account,
        is_enrolled: true,
        workloads: Vec::new(),
        trust_domain: TRUST_DOMAIN,
        federation: Vec::new(),
        state: ground.directory(&format!("ca-{account}")),
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
        rules: options.rules[usize::from(account == "b")],
        peers: Vec::new(),
        guard: None,
        more: String::new(),
        control: None,
        workload_api: workload_api(ground, account),
        side: if options.authorities == Authorities::WorkloadApi { Side::Asks } else { Side::Offers },
        clock: None,
        public: None,
    })
}

/// Where the Workload API is that a node serves, or that serves the node.
pub fn workload_api(ground: &Ground, account: &str) -> PathBuf {
    ground.directory(&format!("workload-api-{account}/api.sock"))
}
