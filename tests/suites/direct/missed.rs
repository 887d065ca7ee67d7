//! What a program misses on a direct connection is told to who runs it.

use std::process::Command;

use anyhow::{Result, ensure};
use enforcer_tests::ground::Route;
use enforcer_tests::process;
use enforcer_tests::program::Script;
use enforcer_tests::settings;
use enforcer_tests::world::{Node, Options, World};
use libtest_mimic::Trial;

use crate::stage::{marker, promises, sealed};

pub(super) fn trials() -> Vec<Trial> {
    promises![beside others; who_asks_for_zero_copy_is_told_that_a_direct_connection_has_none]
}

/// Node `a` is direct and node `b` relays: only there the kernel refuses what the program asked for.
fn who_asks_for_zero_copy_is_told_that_a_direct_connection_has_none() -> Result<()> {
    let mut world = World::create(Options::MIXED)?;
    let (there, back) = (0, 2);
    for (route, mode) in [(there, "plain"), (back, "relayed")] {
        talk(&world, world.ground.routes()[route], mode)?;
        for node in [&world.a, &world.b] {
            ensure!(told(node)? == [false; 4], "{mode}: something was missed:\n{}", node.agent.status()?);
        }
    }
    for times in 1..=2 {
        talk(&world, world.ground.routes()[there], "direct")?;
        let (metrics, counted) = (world.a.agent.metrics()?, format!("{COUNTED} {times}\n"));
        ensure!(metrics.contains(&counted), "no `{counted}` in:\n{metrics}");
    }
    world.a.agent.kill()?;
    world.a.agent.restart()?;
    ensure!(told(&world.a)? == [true; 4], "the next agent does not tell it:\n{}", world.a.agent.status()?);
    ensure!(told(&world.b)? == [false; 4], "it is told of the wrong workload:\n{}", world.b.agent.status()?);
    Ok(())
}

const COUNTED: &str = r#"enforcer_missed_features_total{workload="a",feature="msg-zerocopy"}"#;

fn talk(world: &World, route: Route<'_>, mode: &'static str) -> Result<()> {
    let (script, secret) = (Script { name: "zerocopy", serve: "echo", connect: mode }, marker());
    let server = script.start(route.server, &secret)?;
    sealed(&world.ground, &secret, server.port, || {
        script.connect(route.client, server.at(route.target), &secret)?.finish()?.success()?;
        server.finish()
    })
}

/// Whether the metrics, both forms of the status, and the doctor say that something is missed.
fn told(node: &Node) -> Result<[bool; 4]> {
    let ask = |verb: &[&str]| {
        let (mut enforcer, admin) = (Command::new(settings::enforcer_binary()?), node.config.admin.to_string());
        process::run(enforcer.args(verb).args(["--admin", &admin]))
    };
    Ok([
        node.agent.metrics()?.contains(r#"feature="msg-zerocopy"} 2"#),
        ask(&["status"])?.contains("missed msg-zerocopy 2 times"),
        ask(&["status", "--json"])?.contains(r#""feature": "msg-zerocopy""#),
        ask(&["doctor"])?.contains("missed msg-zerocopy 2 times"),
    ])
}
