//! Programs that kernel TLS would take data from are found out, and spared.

use anyhow::{Context, Result, ensure};
use enforcer_tests::peer::{self, Server};
use enforcer_tests::program;
use enforcer_tests::settings::kernel_keeps_whole_records;
use enforcer_tests::wait;
use enforcer_tests::world::{Node, Options, World};
use libtest_mimic::Trial;

use super::get_page;
use crate::stage::{marker, promises, sealed};

pub(super) fn trials() -> Vec<Trial> {
    // Elsewhere the agent spares every program.
    match kernel_keeps_whole_records() {
        true => promises![beside others; a_program_that_lost_data_to_more_loses_none_again],
        false => Vec::new(),
    }
}

/// The first time cannot be helped. From then on the workload's connections are relayed at its end, whoever opens them, and
/// whatever becomes of the agent.
fn a_program_that_lost_data_to_more_loses_none_again() -> Result<()> {
    let mut world = World::create(Options::AUTO)?;
    ensure!(tell_more(&world)?.is_empty(), "nothing was lost: it is not the direct path");
    wait::until("the workload to be spared", wait::patience(), || Ok(is_spared(&world.a)?.then_some(())))?;
    ensure!(world.a.agent.log().contains("relayed from now on"), "the log does not say it:\n{}", world.a.agent.log());
    for _ in 0..2 {
        let secret = marker();
        let capture = world.ground.watch_mesh()?;
        let heard = tell_more(&world)?;
        ensure!(!heard.is_empty(), "data was lost again");
        capture.stop()?.prove_absent(&heard)?;
        let nginx = program::nginx(&world.ground.a, &secret)?;
        let target = world.ground.routes()[2].target;
        sealed(&world.ground, &secret, nginx.port, || get_page(&world.ground.b, &nginx, target))?;
        for direction in ["outbound", "inbound"] {
            let counted =
                format!(r#"direction="{direction}",path="relay",reason="program-loses-the-end",end="closed""#);
            let metrics = world.a.agent.metrics()?;
            ensure!(metrics.contains(&counted), "no connection is counted as {counted}:\n{metrics}");
        }
        world.a.agent.kill()?;
        world.a.agent.restart()?;
        ensure!(is_spared(&world.a)?, "the next agent has forgotten it");
    }
    ensure!(!is_spared(&world.b)?, "the other end is spared too");
    Ok(())
}

/// Says something with MSG_MORE and closes. What the server heard.
fn tell_more(world: &World) -> Result<String> {
    let (route, secret) = (world.ground.routes()[0], marker());
    let server = Server::start(route.server, &["banner", "--text", &secret])?;
    peer::connect(route.client, server.at(route.target), &["tell-more", "--text", &secret])?.details()?;
    let heard = server.outcome()?.text()?.to_owned();
    ensure!(heard.is_empty() || heard == secret, "the server heard `{heard}`");
    Ok(heard)
}

/// The status says so, and then also what was lost.
fn is_spared(node: &Node) -> Result<bool> {
    let status = node.agent.status().context("the status")?;
    let is_spared = status.contains("program-loses-the-end");
    ensure!(!is_spared || status.contains("missed msg-more once"), "the loss is not counted:\n{status}");
    Ok(is_spared)
}
