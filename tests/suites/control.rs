//! Nodes whose certificates come from control: they join, live while it is away, and learn at once what is revoked.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use enforcer_tests::config::identity;
use enforcer_tests::control::Control;
use enforcer_tests::program;
use enforcer_tests::settings::kernel_has_tls;
use enforcer_tests::wait;
use enforcer_tests::world::{Options, World};
use libtest_mimic::Trial;

use crate::direct::{Conversation, sockets};
use crate::stage::{pages_come_sealed, promises};

/// From the moment that `enforcer ca revoke` has returned.
const DEAD_WITHIN: Duration = Duration::from_secs(1);

pub(crate) fn trials() -> Vec<Trial> {
    // Control is the same on every kernel; what differs is the connections that it ends.
    if kernel_has_tls() {
        return promises![alone; a_direct_connection_dies_with_the_certificate_it_was_made_under];
    }
    promises![alone;
        workloads_of_nodes_that_have_joined_talk,
        a_relayed_connection_dies_with_the_certificate_it_was_made_under,
        an_agent_that_was_away_learns_what_was_revoked,
        a_revoked_node_is_out_and_comes_back_with_a_token,
        nothing_is_lost_while_control_is_away,
        a_root_follows_another_and_no_connection_is_refused,
    ]
}

fn workloads_of_nodes_that_have_joined_talk() -> Result<()> {
    let world = World::create(Options::CONTROL)?;
    let control = control(&world)?;
    pages_come_sealed(&world)?;
    for account in ["a", "b"] {
        let serial = serial_of(&world, account)?;
        let listed = control.told(&["ca", "list"])?;
        let listed = listed.as_array().context("no list")?.iter().find(|listed| listed["serial"] == serial.as_str());
        let listed = listed.with_context(|| format!("control does not know {serial}"))?;
        ensure!(listed["name"] == identity(account) && listed["node"] == format!("node-{account}"), "{listed}");
        control.has_noted("issued", &identity(account))?;
    }
    // No private key of a workload is in any file of the agent.
    for file in fs::read_dir(&world.a.config.state)? {
        let file = file?.path();
        let has_key = fs::read(&file)?.windows(11).any(|octets| octets == b"PRIVATE KEY");
        ensure!(has_key == file.ends_with("node.pem"), "{} has a key, or has lost the node's", file.display());
    }
    Ok(())
}

fn a_relayed_connection_dies_with_the_certificate_it_was_made_under() -> Result<()> {
    dies_with_its_certificate(Options::CONTROL)
}

fn a_direct_connection_dies_with_the_certificate_it_was_made_under() -> Result<()> {
    dies_with_its_certificate(Options { path: Options::DIRECT.path, ..Options::CONTROL })
}

/// Revoked are: the client's identity, the server's certificate alone, and the client's node.
fn dies_with_its_certificate(options: Options) -> Result<()> {
    let world = World::create(options)?;
    let control = control(&world)?;
    let target = world.ground.routes()[0].target;
    let redis = program::redis(&world.ground.b)?;
    let open = || Conversation::start(&world.ground.a, &redis, target);
    let client = identity("a");
    let mut bystander = 0;
    for revoked in ["client", "server"] {
        let conversation = open()?;
        let serial = serial_of(&world, "b")?;
        let revoke: &[&str] = match revoked {
            "client" => &["ca", "revoke", "--identity", &client, "--reason", "keyCompromise"],
            _ => &["ca", "revoke", "--serial", &serial],
        };
        control.done(revoke)?;
        dead(&world, redis.port, Instant::now()).with_context(|| format!("after the {revoked} was revoked"))?;
        drop(conversation);
        if revoked == "client" {
            let refused = program::redis_cli(&world.ground.a, redis.at(target), &["PING"]);
            ensure!(refused.is_err(), "a revoked identity was let in: {refused:?}");
            control.done(&["ca", "admit", "--identity", &client])?;
        }
        // A workload whose identity may be issued gets another certificate by itself.
        wait::until("the next certificate", wait::patience(), || {
            bystander += 1;
            let answer = program::redis_cli(&world.ground.a, redis.at(target), &["PING"]);
            Ok(answer.is_ok_and(|answer| answer.contains("PONG")).then_some(()))
        })?;
    }
    ensure!(bystander >= 2, "nothing was asked");
    let metrics = [world.a.agent.metrics()?, world.b.agent.metrics()?].concat();
    ensure!(metrics.contains("end=\"certificate-revoked\""), "no connection ended for it:\n{metrics}");
    Ok(())
}

fn an_agent_that_was_away_learns_what_was_revoked() -> Result<()> {
    let mut world = World::create(Options::CONTROL)?;
    let target = world.ground.routes()[0].target;
    let redis = program::redis(&world.ground.b)?;
    drop(Conversation::start(&world.ground.a, &redis, target)?);
    world.b.agent.kill()?;
    // Node a is cut off from control: it goes on with the certificate that it has, and does not learn that it is revoked.
    let serial = serial_of(&world, "a")?;
    world.a.agent.process()?.freeze()?;
    control(&world)?.done(&["ca", "revoke", "--serial", &serial])?;
    world.b.agent.restart()?;
    let list = control(&world)?.told(&["ca", "list", "--revoked"])?;
    ensure!(list.as_array().is_some_and(|list| list.len() == 1 && list[0]["serial"] == serial), "{list}");
    world.a.agent.process()?.thaw()?;
    // Node a learns it too by now, and has another certificate soon; node b never accepts the old one.
    let is_another = || Ok(serial_of(&world, "a").is_ok_and(|now| now != serial).then_some(()));
    wait::until("the next certificate", wait::patience(), is_another)?;
    drop(Conversation::start(&world.ground.a, &redis, target)?);
    Ok(())
}

fn a_revoked_node_is_out_and_comes_back_with_a_token() -> Result<()> {
    let world = World::create(Options::CONTROL)?;
    let control = control(&world)?;
    let target = world.ground.routes()[0].target;
    let redis = program::redis(&world.ground.b)?;
    let conversation = Conversation::start(&world.ground.a, &redis, target)?;
    control.done(&["ca", "revoke", "--node", "node-a", "--reason", "cessationOfOperation"])?;
    dead(&world, redis.port, Instant::now())?;
    drop(conversation);
    let refused = program::redis_cli(&world.ground.a, redis.at(target), &["PING"]);
    ensure!(refused.is_err(), "a revoked node was let in: {refused:?}");
    control.has_noted("banned", "node node-a")?;
    // The same file: the agent reads it when its certificate is of no use any more.
    control.token("node-a")?;
    wait::until("the node to have joined anew", wait::patience(), || {
        let answer = program::redis_cli(&world.ground.a, redis.at(target), &["PING"]);
        Ok(answer.is_ok_and(|answer| answer.contains("PONG")).then_some(()))
    })
}

fn nothing_is_lost_while_control_is_away() -> Result<()> {
    let mut world = World::create(Options::CONTROL)?;
    let target = world.ground.routes()[0].target;
    let redis = program::redis(&world.ground.b)?;
    let mut conversation = Conversation::start(&world.ground.a, &redis, target)?;
    world.control.as_mut().context("no control")?.kill()?;
    conversation.ask("PING", "PONG")?;
    // New connections too: certificates that are held stay in use.
    drop(Conversation::start(&world.ground.a, &redis, target)?);
    // An agent that starts now has no certificate, and is no worse than absent.
    world.b.agent.kill()?;
    world.b.agent.restart()?;
    let refused = program::redis_cli(&world.ground.a, redis.at(target), &["PING"]);
    ensure!(refused.is_err(), "an agent without a certificate has let it in: {refused:?}");
    world.control.as_mut().context("no control")?.restart()?;
    wait::until("a certificate", wait::patience(), || {
        let answer = program::redis_cli(&world.ground.a, redis.at(target), &["PING"]);
        Ok(answer.is_ok_and(|answer| answer.contains("PONG")).then_some(()))
    })
}

fn a_root_follows_another_and_no_connection_is_refused() -> Result<()> {
    let world = World::create(Options::CONTROL)?;
    let control = control(&world)?;
    let redis = program::redis(&world.ground.b)?;
    let (target, done) = (redis.at(world.ground.routes()[0].target), AtomicBool::new(false));
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) {
                // Each request over a connection of its own, with a handshake of its own.
                let (host, port) = (target.ip().to_string(), target.port().to_string());
                let load = ["-h", &host, "-p", &port, "-k", "0", "-c", "4", "-n", "200", "-t", "set", "--csv"];
                let said = world.ground.a.run("redis-benchmark", &load)?;
                ensure!(said.contains("\"SET\""), "the benchmark printed `{said}`");
                rounds += 1;
            }
            Ok(rounds)
        });
        let rotated = rotate(control);
        done.store(true, Ordering::Relaxed);
        let rounds = load.join().map_err(|_panicked| anyhow!("the load panicked"))??;
        rotated?;
        ensure!(rounds > 3, "only {rounds} rounds of load while the root changed");
        Ok(())
    })?;
    let shown = control.told(&["ca", "rotate", "status"])?;
    let authorities = shown["authorities"].as_array().context("no authorities")?;
    ensure!(authorities.len() == 1 && authorities[0]["state"] == "active", "{shown}");
    Ok(())
}

/// Each step as soon as control lets it be taken.
fn rotate(control: &Control) -> Result<()> {
    let early = control.ask(&["ca", "rotate", "activate"])?.failure()?;
    ensure!(early.contains("rotate prepare"), "{early}");
    control.done(&["ca", "rotate", "prepare"])?;
    for step in ["activate", "retire"] {
        wait::until(&format!("the moment to {step}"), wait::patience(), || {
            let asked = control.ask(&["ca", "rotate", step])?;
            ensure!(asked.status.success() || asked.stderr.contains("would refuse connections"), "{}", asked.stderr);
            Ok(asked.status.success().then_some(()))
        })?;
    }
    Ok(())
}

/// Waits until both ends of every connection to this port are gone, and says how long that took if it was too long.
pub(crate) fn dead(world: &World, port: u16, since: Instant) -> Result<()> {
    wait::until("the end of the connection", wait::patience(), || {
        let ends = [sockets(&world.ground.a, port)?, sockets(&world.ground.b, port)?];
        Ok(ends.concat().is_empty().then_some(()))
    })?;
    let took = since.elapsed();
    ensure!(took <= wait::bound(DEAD_WITHIN), "the connection lived on for {took:?}");
    Ok(())
}

/// The serial number of the certificate that a workload has now.
fn serial_of(world: &World, account: &str) -> Result<String> {
    let node = if account == "a" { &world.a } else { &world.b };
    let status = node.agent.report()?;
    let serial = status["workloads"][0]["certificate"]["serial"].as_str();
    serial.map(str::to_owned).with_context(|| format!("workload {account} has no certificate: {status}"))
}

fn control(world: &World) -> Result<&Control> {
    world.control.as_ref().context("the world has no control")
}
