//! Agents come and go, and open connections do not notice; new ones wait for the next agent, and nothing leaks.

use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use enforcer_tests::place::Place;
use enforcer_tests::process::Running;
use enforcer_tests::program;
use enforcer_tests::settings::{Depth, direct_depth};
use enforcer_tests::wait;
use enforcer_tests::wire::Capture;
use enforcer_tests::world::{Node, Options, World};
use libtest_mimic::Trial;

use super::{Conversation, get_page, pinned_links, sockets, tls_sockets};
use crate::stage::{marker, promises};

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = promises![alone;
        open_connections_outlive_killed_agents_and_new_ones_wait,
        a_connection_that_has_no_keys_yet_is_left_to_the_next_agent,
        an_offer_that_is_not_answered_outlives_the_agents_of_both_ends,
        an_answer_that_nobody_heard_is_given_again,
        a_relay_learns_soon_that_the_other_agent_is_back,
        uninstalling_lets_open_connections_go_on_and_plaintext_pass,
    ];
    if direct_depth() == Depth::Thorough {
        trials.extend(promises![alone; a_hundred_connections_under_load_outlive_their_agents]);
    }
    trials
}

fn open_connections_outlive_killed_agents_and_new_ones_wait() -> Result<()> {
    let mut world = World::create(Options::DIRECT)?;
    let secret = marker();
    for route in [0, 3] {
        let target = world.ground.routes()[route].target;
        let (client, server) =
            (world.ground.routes()[route].client.clone(), world.ground.routes()[route].server.clone());
        let (redis, nginx) = (program::redis(&server)?, program::nginx(&server, &secret)?);
        let mut open = Conversation::start(&client, &redis, target)?;
        let capture = world.ground.watch_mesh()?;
        let links = kernel_links(&world.a)?;
        nodes(&mut world).into_iter().try_for_each(|node| node.agent.kill())?;
        open.ask(&format!("SET key {secret}"), "OK")?;
        open.ask("GET key", &secret)?;
        let mut waiting = program::curl(&client, nginx.at(target))?;
        open.ask("GET key", &secret)?;
        waiting.check_alive()?;
        nodes(&mut world).into_iter().try_for_each(|node| node.agent.restart())?;
        let page = waiting.finish()?.success()?;
        ensure!(page == secret, "curl got `{page}`");
        open.ask("GET key", &secret)?;
        ensure!(kernel_links(&world.a)? == links, "the next agent attached the same programs to the kernel again");
        for node in [&world.a, &world.b] {
            let status = node.agent.status()?;
            ensure!(status.contains(&format!(":{}", redis.port)), "the next agent does not know it:\n{status}");
        }
        sealed(capture, &secret, &[redis.port, nginx.port])?;
    }
    Ok(())
}

/// Both agents were away, and the one that relays is back first: it asks in vain how the other one takes connections.
fn a_relay_learns_soon_that_the_other_agent_is_back() -> Result<()> {
    let mut world = World::create(Options::MIXED)?;
    let (back, secret) = (2, marker());
    let (client, target) = (world.ground.routes()[back].client.clone(), world.ground.routes()[back].target);
    let nginx = program::nginx(world.ground.routes()[back].server, &secret)?;
    let capture = world.ground.watch_mesh()?;
    nodes(&mut world).into_iter().try_for_each(|node| node.agent.kill())?;
    world.b.agent.restart()?;
    let in_vain = || world.b.agent.log().matches("no pair session").count();
    let before = in_vain();
    let _early = program::curl(&client, nginx.at(target))?;
    wait::until("the other agent to be asked", wait::patience(), || Ok((in_vain() > before).then_some(())))?;
    world.a.agent.restart()?;
    let page = world.explain(program::curl(&client, nginx.at(target))?.finish()?.success())?;
    ensure!(page == secret, "curl got `{page}`");
    sealed(capture, &secret, &[nginx.port])
}

/// The record layer is under the socket already when the agent dies, and nobody has keys for it.
fn a_connection_that_has_no_keys_yet_is_left_to_the_next_agent() -> Result<()> {
    let mut world = World::create(Options::DIRECT)?;
    for route in [0, 1] {
        let (secret, target) = (marker(), world.ground.routes()[route].target);
        let nginx = program::nginx(&world.ground.b, &secret)?;
        let capture = world.ground.watch_mesh()?;
        world.b.agent.kill()?;
        let mut waiting = program::curl(&world.ground.a, nginx.at(target))?;
        wait::until("the record layer", wait::patience(), || {
            waiting.check_alive()?;
            Ok((tls_sockets(&world.ground.a, nginx.port)?.len() == 1).then_some(()))
        })?;
        world.a.agent.kill()?;
        world.b.agent.restart()?;
        world.a.agent.restart()?;
        let page = world.explain(waiting.finish()?.success())?;
        ensure!(page == secret, "curl got `{page}`");
        sealed(capture, &secret, &[nginx.port])?;
    }
    Ok(())
}

fn a_hundred_connections_under_load_outlive_their_agents() -> Result<()> {
    const CONNECTIONS: usize = 100;
    let mut world = World::create(Options::DIRECT)?;
    let target = world.ground.routes()[0].target;
    let redis = program::redis(&world.ground.b)?;
    let (host, port) = (target.to_string(), redis.port.to_string());
    let capture = world.ground.watch_mesh()?;
    let load = ["-h", &host, "-p", &port, "-c", "100", "-n", "150000", "-t", "set", "--csv"];
    let mut benchmark = world.ground.a.start("redis-benchmark", &load)?;
    wait::until("a hundred connections", wait::patience(), || {
        benchmark.check_alive()?;
        Ok((tls_sockets(&world.ground.a, redis.port)?.len() >= CONNECTIONS).then_some(()))
    })?;
    for node in nodes(&mut world) {
        node.agent.kill()?;
        node.agent.restart()?;
    }
    benchmark.check_alive()?;
    let finished = benchmark.finish().with_context(|| stuck(&world, redis.port))?;
    let said = finished.success()?;
    ensure!(said.contains("\"SET\""), "the benchmark printed `{said}`");
    capture.stop()?.prove_only_tls(redis.port)
}

/// A server that does not accept leaves its connection offered and unanswered, with keys at one end.
fn an_offer_that_is_not_answered_outlives_the_agents_of_both_ends() -> Result<()> {
    let mut world = World::create(Options::DIRECT)?;
    for (route, killed) in [(0, [true, false]), (1, [false, true]), (0, [true, true])] {
        let secret = marker();
        let redis = program::redis(&world.ground.b)?;
        let capture = world.ground.watch_mesh()?;
        redis.process().freeze()?;
        let client = offered(&world, route, &redis, &secret)?;
        let killed = || [0, 1].into_iter().filter(|&node| killed[node]);
        killed().try_for_each(|node| nodes(&mut world)[node].agent.kill())?;
        killed().try_for_each(|node| nodes(&mut world)[node].agent.restart())?;
        redis.process().thaw()?;
        ensure!(client.finish()?.success()?.contains("OK"), "the server has not taken it");
        sealed(capture, &secret, &[redis.port])?;
    }
    Ok(())
}

/// The other end is open, and the agent that offered it dies before it learns that.
fn an_answer_that_nobody_heard_is_given_again() -> Result<()> {
    let mut world = World::create(Options::DIRECT)?;
    let secret = marker();
    let redis = program::redis(&world.ground.b)?;
    let capture = world.ground.watch_mesh()?;
    // The session is there before the offer, so that what is said in it can be told from its beginning.
    drop(Conversation::start(&world.ground.a, &redis, world.ground.routes()[0].target)?);
    redis.process().freeze()?;
    let before = said_to_b(&world)?;
    let client = offered(&world, 0, &redis, &secret)?;
    wait::until("the offer to be made", wait::patience(), || Ok((said_to_b(&world)? > before).then_some(())))?;
    world.a.agent.process()?.freeze()?;
    redis.process().thaw()?;
    let port = format!(":{}", redis.port);
    let is_open = || Ok(world.b.agent.status()?.contains(&port).then_some(()));
    wait::until("the server's end to be open", wait::patience(), is_open)?;
    world.a.agent.kill()?;
    world.a.agent.restart()?;
    ensure!(client.finish()?.success()?.contains("OK"), "the client's end was not opened");
    sealed(capture, &secret, &[redis.port])
}

/// Octets that the agent of node `a` has sent in its pair sessions, and that have arrived.
fn said_to_b(world: &World) -> Result<u64> {
    let filter = format!("dport = :{}", world.b.config.pair.port());
    let sessions = world.ground.host.run("ss", &["-tinOH", "state", "established", &filter])?;
    let acknowledged = sessions.split_whitespace().filter_map(|word| word.strip_prefix("bytes_acked:"));
    acknowledged.map(|octets| octets.parse::<u64>().context("octets of a pair session")).sum()
}

/// A client whose connection has its keys, and waits for a server that does not accept.
fn offered(world: &World, route: usize, redis: &program::Server, secret: &str) -> Result<Running> {
    let (host, port) = (world.ground.routes()[route].target.to_string(), redis.port.to_string());
    let mut client = world.ground.a.start("redis-cli", &["-h", &host, "-p", &port, "SET", "key", secret])?;
    wait::until("the client's end to have keys", wait::patience(), || {
        client.check_alive()?;
        Ok((tls_sockets(&world.ground.a, redis.port)?.len() == 1).then_some(()))
    })?;
    Ok(client)
}

fn uninstalling_lets_open_connections_go_on_and_plaintext_pass() -> Result<()> {
    let mut world = World::create(Options::DIRECT)?;
    let (secret, target) = (marker(), world.ground.routes()[0].target);
    let (redis, nginx) = (program::redis(&world.ground.b)?, program::nginx(&world.ground.b, &secret)?);
    let mut open = Conversation::start(&world.ground.a, &redis, target)?;
    for node in nodes(&mut world) {
        node.agent.stop()?;
        node.agent.uninstall()?;
    }
    let capture = world.ground.watch_mesh()?;
    open.ask("PING", "PONG")?;
    ensure!(tls_sockets(&world.ground.a, redis.port)?.len() == 1, "the open connection lost its record layer");
    get_page(&world.ground.a, &nginx, target)?;
    ensure!(capture.stop()?.contains(&secret), "something still encrypts new connections");
    for place in [&world.ground.a, &world.ground.b] {
        let usual = place.run("cat", &["/proc/sys/net/ipv4/tcp_notsent_lowat"])?;
        ensure!(usual.trim() == u32::MAX.to_string(), "new sockets are still gated: {usual}");
    }
    Ok(())
}

/// The connections to this port at both ends, for the report of a load that does not end.
fn stuck(world: &World, port: u16) -> String {
    let at = |place: &Place| sockets(place, port).unwrap_or_else(|error| error.to_string());
    format!("client:\n{}server:\n{}", at(&world.ground.a), at(&world.ground.b))
}

/// Names and inodes of the pins that hold programs at kernel functions.
fn kernel_links(node: &Node) -> Result<Vec<(String, u64)>> {
    let mut links = Vec::new();
    for link in pinned_links(node)? {
        let name = link.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("trace-") {
            links.push((name, link.metadata()?.ino()));
        }
    }
    ensure!(links.len() >= 10, "only {} programs at kernel functions", links.len());
    links.sort();
    Ok(links)
}

fn nodes(world: &mut World) -> [&mut Node; 2] {
    [&mut world.a, &mut world.b]
}

fn sealed(capture: Capture, secret: &str, ports: &[u16]) -> Result<()> {
    let recording = capture.stop()?;
    recording.prove_absent(secret)?;
    ports.iter().try_for_each(|port| recording.prove_only_tls(*port))
}
