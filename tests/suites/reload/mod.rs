//! The configuration changes while the agent runs: it is in force at once or not at all, what it does not let be any more
//! ends, everything else goes on, and nothing is in the clear meanwhile.

mod paths;
mod peers;
mod refused;
mod workloads;

use anyhow::{Context, Result, ensure};
use enforcer_tests::config::Config;
use enforcer_tests::program;
use enforcer_tests::settings::{is_quick, kernel_has_tls};
use enforcer_tests::wait;
use enforcer_tests::world::{Node, Options, World};
use libtest_mimic::Trial;

use crate::stage::{marker, page_comes_sealed};

pub(crate) fn trials() -> Vec<Trial> {
    // What is not put in force is so on any path.
    let refusals = is_quick().then(refused::trials);
    let trials = [peers::trials(), workloads::trials(), paths::trials()];
    trials.into_iter().chain(refusals).flatten().collect()
}

/// Direct where the kernel can, else relayed.
fn usual() -> Options {
    if kernel_has_tls() { Options::DIRECT } else { Options::STRICT }
}

/// Changes the file of a node, and returns when it is in force.
pub(crate) fn put_in_force(node: &mut Node, change: impl FnOnce(&mut Config)) -> Result<()> {
    let before = changes(node);
    change(&mut node.config);
    node.agent.rewrite(&node.config)?;
    let what = format!("the change to be in force on node {}", node.config.account);
    wait::until(&what, wait::patience(), || Ok((changes(node) > before).then_some(())))
        .with_context(|| format!("{:?}", node.agent.status()))
}

/// How often another configuration came into force, as the log tells.
fn changes(node: &Node) -> usize {
    entries(node).len()
}

/// How many map entries each change has written or removed.
fn entries(node: &Node) -> Vec<usize> {
    let said = node.agent.process().and_then(|agent| agent.stderr()).unwrap_or_default();
    let lines = said.lines().filter(|line| line.contains("another configuration is in force"));
    lines.filter_map(|line| line.split_once("entries=")?.1.split_whitespace().next()?.parse().ok()).collect()
}

/// On each route from this node's workload to the other's a page comes, sealed.
fn pages_come_from(world: &World, client: &str) -> Result<()> {
    let place = if client == "a" { &world.ground.a } else { &world.ground.b };
    let routes = world.ground.routes().into_iter().filter(|route| std::ptr::eq(route.client, place));
    routes.into_iter().try_for_each(|route| page_comes_sealed(world, route).with_context(|| route.to_string()))
}

/// On no route from this node's workload to the other's a page comes, and its text is not on the wire.
fn no_page_comes_from(world: &World, client: &str) -> Result<()> {
    let place = if client == "a" { &world.ground.a } else { &world.ground.b };
    for route in world.ground.routes().into_iter().filter(|route| std::ptr::eq(route.client, place)) {
        let secret = marker();
        let nginx = program::nginx(route.server, &secret)?;
        let capture = world.ground.watch_mesh()?;
        let came = program::curl(route.client, nginx.at(route.target))?.finish()?.failure();
        came.with_context(|| route.to_string())?;
        capture.stop()?.prove_absent(&secret)?;
    }
    Ok(())
}

/// Connections that the node has ended because they may not be any more.
fn ended_by_change(node: &Node) -> Result<()> {
    let metrics = node.agent.metrics()?;
    ensure!(metrics.contains("end=\"policy-changed\""), "no connection ended for the change:\n{metrics}");
    Ok(())
}
