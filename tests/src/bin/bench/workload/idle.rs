//! By how much agents grow for each connection that is open and does nothing. The memory of the kernel is not counted.

use anyhow::{Context, Result};
use enforcer_tests::agent::Agent;
use enforcer_tests::peer::{self, Server};
use enforcer_tests::process::Running;
use enforcer_tests::wait;

use crate::figures::Figures;
use crate::path::{Path, Site};

/// Few and many connections at the same time. The difference is free of what an agent needs anyway.
const DIRECT: [u32; 2] = [1000, 4000];

/// A handshake for each of them takes its time.
const RELAYED: [u32; 2] = [100, 400];

pub(super) fn measure(site: &Site, figures: &mut Figures) -> Result<()> {
    let agents = site.agents();
    let &[client, server] = agents.as_slice() else { return Ok(()) };
    let [few, many] = if site.path == Path::Direct { DIRECT } else { RELAYED };
    let _first = Idle::open(site, few)?;
    let before = resident([client, server])?;
    let _more = Idle::open(site, many - few)?;
    let after = resident([client, server])?;
    let growth = |node: usize| (after[node] - before[node]) / f64::from(many - few);
    figures.remember(site.path, [growth(0), growth(1)]);
    Ok(())
}

fn resident(agents: [&Agent; 2]) -> Result<[f64; 2]> {
    let kib = |agent: &Agent| Ok::<_, anyhow::Error>(f64::from(u32::try_from(agent.resident()? / 1024)?));
    Ok([kib(agents[0])? * 1024.0, kib(agents[1])? * 1024.0])
}

/// Connections that stay open until this is dropped.
struct Idle {
    _server: Server,
    _client: Running,
}

impl Idle {
    /// Returns when a byte has come through each of them.
    fn open(site: &Site, connections: u32) -> Result<Idle> {
        let number = connections.to_string();
        let mut server = site.serve(&["keep", "--connections", &number])?;
        let (route, address) = (site.route()?, server.at(site.route()?.target));
        let hold = site.client(&["hold", "--connections", &number]);
        let mut client = peer::start(route.client, address, &hold)?;
        wait::until("idle connections", wait::patience() * 6, || {
            client.check_alive()?;
            server.check_alive()?;
            Ok(server.said()?.contains("held").then_some(()))
        })
        .with_context(|| format!("open {connections} connections"))?;
        Ok(Idle { _server: server, _client: client })
    }
}
