//! A reader that stalls stalls its sender, and costs the agents a bounded amount of memory.

use anyhow::{Context, Result, ensure};
use enforcer_tests::agent::Agent;
use enforcer_tests::config::Offload;
use enforcer_tests::ground::Route;
use enforcer_tests::peer::{self, Server};
use enforcer_tests::process::Running;
use enforcer_tests::settings::kernel_has_tls;
use enforcer_tests::wait;
use enforcer_tests::world::{Options, World};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::stage::promises;

const MIB: u64 = 1 << 20;
const CONNECTIONS: u64 = 2;

/// What a sender may get rid of before it is stopped: mostly the buffers of its own socket and of the reader's,
/// which the kernel grows to 4 and 6 MiB.
const ON_THE_WAY: u64 = 16 * MIB;

/// What an agent may grow by for each stalled connection.
const PER_CONNECTION: u64 = MIB;

/// And for all of them together: each of its threads allocates from an arena of its own, and which ones the first
/// connections have met is chance.
const SHARED: u64 = 4 * MIB;

pub(crate) fn trials() -> Vec<Trial> {
    promises![alone; a_stalled_reader_stops_its_sender_and_costs_little_memory]
}

fn a_stalled_reader_stops_its_sender_and_costs_little_memory() -> Result<()> {
    // Records in user space are the same on every kernel, so they are tried where it is quick.
    let offload = if kernel_has_tls() { Offload::On } else { Offload::Off };
    let world = World::create(Options { offload, ..Options::STRICT })?;
    for route in world.ground.there_and_back() {
        world.explain(stall(&world, route).with_context(|| format!("{route}, {offload:?}")))?;
    }
    Ok(())
}

fn stall(world: &World, route: Route<'_>) -> Result<()> {
    let connections = CONNECTIONS.to_string();
    let mut server = Server::start(route.server, &["stall", "--connections", &connections])?;
    let agents = [&world.a.agent, &world.b.agent];
    warm_up(route)?;
    let before = agents.map(Agent::resident);

    let flood = ["flood", "--bytes", &(32 * MIB).to_string()];
    let clients = (0..CONNECTIONS).map(|_| peer::start(route.client, server.at(route.target), &flood));
    let clients = clients.collect::<Result<Vec<_>>>()?;
    for client in &clients {
        let accepted = stalled_after(client)?;
        ensure!(accepted <= ON_THE_WAY, "the sender got rid of {accepted} bytes");
    }
    for (agent, before) in agents.iter().zip(before) {
        let grown = agent.resident()?.saturating_sub(before?);
        ensure!(grown <= SHARED + CONNECTIONS * PER_CONNECTION, "an agent has grown by {grown} bytes");
    }

    server.release();
    let mut sent = clients.into_iter().map(peer::outcome_of).map(|outcome| checksum(&outcome?));
    let sent = sent.by_ref().collect::<Result<Vec<_>>>()?;
    for outcome in server.outcomes()? {
        let received = checksum(&outcome)?;
        ensure!(sent.contains(&received), "{received} came of {sent:?}");
    }
    Ok(())
}

/// The first connections make the agent grow by what every later one shares: each of its threads allocates from an arena
/// of its own, so there are as many at once as are measured.
fn warm_up(route: Route<'_>) -> Result<()> {
    let bulk = ["bulk", "--bytes", "1048576"];
    let server = Server::start(route.server, &[&bulk[..], &["--connections", &CONNECTIONS.to_string()]].concat())?;
    let clients = (0..CONNECTIONS).map(|_| peer::start(route.client, server.at(route.target), &bulk));
    let clients = clients.collect::<Result<Vec<_>>>()?;
    clients.into_iter().try_for_each(|client| peer::outcome_of(client)?.details().map(drop))
}

/// Waits until the client says that nothing more is taken from it.
fn stalled_after(client: &Running) -> Result<u64> {
    wait::until("the sender to stall", wait::patience() * 3, || {
        let said = client.stdout()?;
        let Some((line, _)) = said.split_once('\n') else { return Ok(None) };
        let line: Value = line.parse().with_context(|| format!("the client printed {line}"))?;
        line["stalled_after"].as_u64().with_context(|| format!("the sender was never stopped: {line}")).map(Some)
    })
}

fn checksum(outcome: &peer::Outcome) -> Result<Value> {
    Ok(outcome.details()?["checksum"].clone())
}
