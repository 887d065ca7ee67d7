//! The paths that are compared, and the two nodes on which each is measured.

use std::fmt;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use enforcer_tests::agent::Agent;
use enforcer_tests::config::{Offload, Path as Wanted};
use enforcer_tests::ground::{A_EDGE, Ground, Route, STRANGER};
use enforcer_tests::peer::{self, Server};
use enforcer_tests::wait;
use enforcer_tests::world::{Options, World};

/// How bytes get from one application to the other, in the order of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Path {
    /// In the clear, without agents.
    Plain,
    /// In the clear, from a workload to somewhere outside the mesh, which a rule lets it reach.
    Outside,
    /// Kernel TLS that the applications set up themselves with fixed keys, without agents: no encryption costs less.
    Floor,
    /// Kernel TLS on the applications' sockets, set up by agents.
    Direct,
    /// Through agents that write records themselves.
    Relay,
    /// Through agents whose sockets have kernel TLS.
    RelayKernel,
}

impl Path {
    /// Whether it cannot be measured on a kernel without TLS.
    pub(crate) fn needs_kernel_tls(self) -> bool {
        matches!(self, Path::Outside | Path::Floor | Path::Direct | Path::RelayKernel)
    }

    /// Whether there are agents, and so their programs in the kernel.
    pub(crate) fn has_agents(self) -> bool {
        self.options().is_some()
    }

    /// How many times longer it is measured than the relay. Now and then a machine has something of its own to do; where
    /// a unit costs little, few units would not outweigh it.
    pub(crate) fn stretch(self) -> u32 {
        match self {
            Path::Plain | Path::Outside => 8,
            Path::Floor | Path::Direct => 2,
            Path::Relay | Path::RelayKernel => 1,
        }
    }

    /// What its agents are told; nothing where there are none.
    fn options(self) -> Option<Options> {
        match self {
            Path::Plain | Path::Floor => None,
            Path::Outside => Some(Options { rules: OUTSIDE, ..Options::DIRECT }),
            Path::Direct => Some(Options::DIRECT),
            Path::Relay => Some(Options { offload: Offload::Off, path: Wanted::Relay, ..Options::STRICT }),
            Path::RelayKernel => Some(Options { offload: Offload::On, path: Wanted::Relay, ..Options::STRICT }),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Path::Plain => "plain TCP",
            Path::Outside => "outside the mesh",
            Path::Floor => "kTLS by hand (floor)",
            Path::Direct => "direct",
            Path::Relay => "relay, records in user space",
            Path::RelayKernel => "relay, records in the kernel",
        })
    }
}

/// What the workload of the first node may reach outside the mesh, beside another rule that is for somewhere else.
const OUTSIDE: [&str; 2] = [
    "outbound: { deny: [{ addresses: [192.0.2.0/24] }], plaintext: [{ addresses: [10.78.0.4], ports: ['1000-65535'] }] }",
    "",
];

/// Two nodes between which connections take one path.
pub(crate) struct Site {
    pub(crate) path: Path,
    stage: Stage,
}

enum Stage {
    Bare(Box<Ground>),
    Agents(Box<World>),
}

impl Site {
    /// Makes the nodes, and a first connection: agents shake hands with each other once for all that follow, and
    /// programs are read from the disk once.
    pub(crate) fn create(path: Path) -> Result<Site> {
        let stage = match path.options() {
            Some(options) => Stage::Agents(Box::new(World::arranged(Ground::create()?, options, None, |_a, b| {
                // The other end is outside the mesh: what an agent of it would cost is no cost of ours.
                b.is_enrolled = path != Path::Outside;
            })?)),
            None => Stage::Bare(Box::new(Ground::create()?)),
        };
        let site = Site { path, stage };
        site.explain(site.play(&["turns"], &["visit"]).with_context(|| format!("a first connection, {path}")))?;
        Ok(site)
    }

    /// From the one node to the other.
    pub(crate) fn route(&self) -> Result<Route<'_>> {
        let ground = match &self.stage {
            Stage::Bare(ground) => ground,
            Stage::Agents(world) => &world.ground,
        };
        if self.path == Path::Outside {
            let [source, target] = [A_EDGE[0], STRANGER[0]];
            return Ok(Route { client: &ground.a, server: &ground.outside, source, target });
        }
        ground.routes().into_iter().next().context("the ground has no route")
    }

    /// The agents of client and server, where connections have any.
    pub(crate) fn agents(&self) -> Vec<&Agent> {
        match &self.stage {
            Stage::Bare(_) => Vec::new(),
            Stage::Agents(_) if self.path == Path::Outside => Vec::new(),
            Stage::Agents(world) => vec![&world.a.agent, &world.b.agent],
        }
    }

    /// Starts a server; `arguments` are those of the endpoint program.
    pub(crate) fn serve(&self, arguments: &[&str]) -> Result<Server> {
        Server::start(self.route()?.server, &[arguments, self.encryption()].concat())
    }

    /// The arguments of a client.
    pub(crate) fn client<'a>(&self, arguments: &[&'a str]) -> Vec<&'a str> {
        [arguments, self.encryption()].concat()
    }

    /// Runs a server and a client to the client's end, and gives what the client says.
    pub(crate) fn play(&self, server: &[&str], client: &[&str]) -> Result<serde_json::Value> {
        let (route, mut server) = (self.route()?, self.serve(server)?);
        let client = peer::connect(route.client, server.at(route.target), &self.client(client));
        let details = client.and_then(|client| client.details().cloned());
        // A client that is refused knows less than a server that has given up.
        details.map_err(|error| match server.check_alive() {
            Ok(()) => error,
            Err(reason) => error.context(format!("{reason:#}")),
        })
    }

    fn encryption(&self) -> &'static [&'static str] {
        if self.path == Path::Floor { &["--ktls"] } else { &[] }
    }

    /// Fails when a connection has taken another path than the one that is measured.
    pub(crate) fn prove_path(&self) -> Result<()> {
        let label = match self.path {
            Path::Plain | Path::Outside | Path::Floor => return Ok(()),
            Path::Direct => "path=\"direct\"",
            Path::Relay | Path::RelayKernel => "path=\"relay\"",
        };
        for agent in self.agents() {
            let metrics = wait::until("connections to be counted", wait::patience(), || {
                let metrics = agent.metrics()?;
                let counted = ended(&metrics).count() > 0;
                Ok(counted.then_some(metrics))
            })?;
            let strays: Vec<_> = ended(&metrics).filter(|line| !line.contains(label)).collect();
            ensure!(strays.is_empty(), "{}: some connections took another path: {strays:#?}", self.path);
        }
        Ok(())
    }

    /// Puts what the agents have said lately beside a failure.
    pub(crate) fn explain<T>(&self, result: Result<T>) -> Result<T> {
        match &self.stage {
            Stage::Bare(_) => result,
            Stage::Agents(world) => world.explain(result),
        }
    }
}

/// The metrics of connections that have ended.
fn ended(metrics: &str) -> impl Iterator<Item = &str> {
    metrics.lines().filter(|line| line.starts_with("enforcer_connections_total{"))
}
