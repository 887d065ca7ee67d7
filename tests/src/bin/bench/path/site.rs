//! Two nodes between which connections take one path.

use std::net::SocketAddr;

use anyhow::{Context, Result, anyhow, bail};
use enforcer_tests::agent::Agent;
use enforcer_tests::ground::{A_EDGE, Ground, Route, STRANGER};
use enforcer_tests::peer::{self, Server};
use enforcer_tests::world::{Node, World};

use super::application::{self, Application};
use super::processor::Time;
use super::sidecar::{self, Sidecars};
use super::tunnel;
use super::{Path, memory, quiet};

/// Two nodes between which connections take one path.
pub(crate) struct Site {
    pub(crate) path: Path,
    pub(super) stage: Stage,
}

pub(super) enum Stage {
    Bare(Box<Ground>),
    Agents(Box<World>),
    /// The proxies end before what they stand on.
    Sidecars(Box<Sidecars>, Box<Ground>),
}

impl Site {
    /// Makes the nodes, and a first connection: agents shake hands with each other once for all that follow, and
    /// programs are read from the disk once.
    pub(crate) fn create(path: Path) -> Result<Site> {
        quiet::settle()?;
        let site = Site { path, stage: Stage::of(path)? };
        site.explain(site.begin().with_context(|| format!("a first connection, {path}")))?;
        Ok(site)
    }

    fn begin(&self) -> Result<()> {
        self.prove_on_wire()?;
        if self.path == Path::EnvoyHttp {
            return Ok(());
        }
        self.play(&["turns"], &["visit"]).map(drop)
    }

    /// Gets the page of an unmodified server once.
    pub(super) fn get_page(&self) -> Result<serde_json::Value> {
        let _server = Application::web(self)?;
        self.ask(application::PORT, &["get"])
    }

    /// From the one node to the other.
    pub(crate) fn route(&self) -> Result<Route<'_>> {
        let ground = self.ground();
        if self.path == Path::Outside {
            let [source, target] = [A_EDGE[0], STRANGER[0]];
            return Ok(Route { client: &ground.a, server: &ground.outside, source, target });
        }
        let route = ground.routes().into_iter().next().context("the ground has no route")?;
        if self.path == Path::Wireguard {
            let [source, target] = tunnel::INSIDE;
            return Ok(Route { source, target, ..route });
        }
        Ok(route)
    }

    pub(super) fn ground(&self) -> &Ground {
        match &self.stage {
            Stage::Bare(ground) | Stage::Sidecars(_, ground) => ground,
            Stage::Agents(world) => &world.ground,
        }
    }

    /// The agents of client and server, where connections have any.
    pub(crate) fn agents(&self) -> Vec<&Agent> {
        match &self.stage {
            Stage::Agents(world) if self.path != Path::Outside => vec![&world.a.agent, &world.b.agent],
            _ => Vec::new(),
        }
    }

    /// What the node of the client stands on, and that node, where connections have agents.
    pub(crate) fn node(&mut self) -> Result<(&Ground, &mut Node)> {
        match &mut self.stage {
            Stage::Agents(world) => Ok((&world.ground, &mut world.a)),
            Stage::Bare(_) | Stage::Sidecars(..) => bail!("{} has no agents", self.path),
        }
    }

    /// Bytes of memory of the agents or sidecars on the nodes of client and server, where there are any.
    pub(crate) fn memory(&self) -> Result<Option<[f64; 2]>> {
        let [client, server] = match (&self.stage, self.agents().as_slice()) {
            (_, [client, server]) => [vec![client.pid()?], vec![server.pid()?]],
            (Stage::Sidecars(sidecars, _), _) => [sidecars.client.processes()?, sidecars.server.processes()?],
            _ => return Ok(None),
        };
        Ok(Some([memory::resident(&client)?, memory::resident(&server)?]))
    }

    /// For how long the applications, and the agents or sidecars, have run until now.
    pub(crate) fn processor_time(&self) -> Result<[Time; 2]> {
        let (route, ground) = (self.route()?, self.ground());
        let proxies = match &self.stage {
            Stage::Bare(_) => Vec::new(),
            Stage::Agents(_) => vec![&ground.host.cgroup],
            Stage::Sidecars(sidecars, _) => vec![&sidecars.client.place.cgroup, &sidecars.server.place.cgroup],
        };
        let applications = [&route.client.cgroup, &route.server.cgroup];
        Ok([Time::of(&applications)?, Time::of(&proxies)?])
    }

    /// Starts a server; `arguments` are those of the endpoint program.
    pub(crate) fn serve(&self, arguments: &[&str]) -> Result<Server> {
        let (place, arguments) = (self.route()?.server, [arguments, self.encryption()].concat());
        // Sidecars pass connections on to one port.
        match &self.stage {
            Stage::Sidecars(..) => Server::start_on(place, application::PORT, &arguments),
            Stage::Bare(_) | Stage::Agents(_) => Server::start(place, &arguments),
        }
    }

    /// Where a client connects to that wants the server on this port.
    pub(crate) fn address(&self, port: u16) -> Result<SocketAddr> {
        match &self.stage {
            Stage::Sidecars(..) => Ok(sidecar::CLIENTS),
            Stage::Bare(_) | Stage::Agents(_) => Ok(SocketAddr::new(self.route()?.target, port)),
        }
    }

    /// The arguments of a client.
    pub(crate) fn client<'a>(&self, arguments: &[&'a str]) -> Vec<&'a str> {
        [arguments, self.encryption()].concat()
    }

    /// Runs a server and a client to the client's end, and gives what the client says.
    pub(crate) fn play(&self, server: &[&str], client: &[&str]) -> Result<serde_json::Value> {
        let mut server = self.serve(server)?;
        // A client that is refused knows less than a server that has given up.
        self.ask(server.port, client).map_err(|error| match server.check_alive() {
            Ok(()) => error,
            Err(reason) => error.context(format!("{reason:#}")),
        })
    }

    /// Runs a client of the server on this port to its end, and gives what it says.
    pub(crate) fn ask(&self, port: u16, client: &[&str]) -> Result<serde_json::Value> {
        peer::connect(self.route()?.client, self.address(port)?, &self.client(client))?.details().cloned()
    }

    fn encryption(&self) -> &'static [&'static str] {
        if self.path == Path::Floor { &["--ktls"] } else { &[] }
    }

    /// Puts what agents or sidecars have said lately beside a failure.
    pub(crate) fn explain<T>(&self, result: Result<T>) -> Result<T> {
        match &self.stage {
            Stage::Bare(_) => result,
            Stage::Agents(world) => world.explain(result),
            Stage::Sidecars(sidecars, _) => result.map_err(|error| anyhow!("{error:#}\n{}", sidecars.said())),
        }
    }
}

impl Stage {
    fn of(path: Path) -> Result<Stage> {
        let ground = Box::new(Ground::create()?);
        if let Some(options) = path.options() {
            // Outside the mesh is no agent: what it would cost is no cost of ours.
            let world = World::arranged(*ground, options, None, |_a, b| b.is_enrolled = path != Path::Outside)?;
            return Ok(Stage::Agents(Box::new(world)));
        }
        if path.has_sidecars() {
            return Ok(Stage::Sidecars(Box::new(Sidecars::start(path, &ground)?), ground));
        }
        tunnel::dig(path, &ground)?;
        Ok(Stage::Bare(ground))
    }
}
