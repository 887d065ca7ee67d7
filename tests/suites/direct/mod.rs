//! The direct path: the application's own socket carries kernel TLS, and the agent is not in the way.
//!
//! What every path promises is tried in the direct world by `programs` and `connections`. Here is what this path alone
//! promises (`outlives`), and what it refuses (`held`). All of it needs kernel TLS.

mod held;
mod missed;
mod outlives;
mod spared;

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use enforcer_tests::ground::PARTNER;
use enforcer_tests::peer::{self, Server};
use enforcer_tests::place::Place;
use enforcer_tests::process::Running;
use enforcer_tests::program;
use enforcer_tests::settings::kernel_has_tls;
use enforcer_tests::wait;
use enforcer_tests::world::{Node, Options, World};
use libtest_mimic::Trial;

use crate::stage::{marker, on_every_route, promises, sealed};

pub(crate) fn trials() -> Vec<Trial> {
    if !kernel_has_tls() {
        return Vec::new();
    }
    let mut trials = promises![in Options::DIRECT;
        kernel_tls_is_on_the_applications_own_sockets,
        a_peer_without_an_agent_is_refused_by_a_policy_that_wants_direct,
        a_stream_that_more_was_announced_for_is_cut_short_and_said_to_be,
    ];
    trials.extend(promises![alone; the_cipher_that_is_asked_for_is_the_kernel_s]);
    trials.extend(promises![in Options::AUTO; the_path_that_is_chosen_is_the_one_that_is_shown]);
    let others = [held::trials(), missed::trials(), outlives::trials(), spared::trials()];
    trials.into_iter().chain(others.into_iter().flatten()).collect()
}

fn kernel_tls_is_on_the_applications_own_sockets(world: &World) -> Result<()> {
    on_every_route(world, |route| {
        let redis = program::redis(route.server)?;
        let _client = Conversation::start(route.client, &redis, route.target)?;
        for (place, program) in [(route.client, "redis-cli"), (route.server, "redis-server")] {
            let socket = tls_sockets(place, redis.port)?.into_iter().find(|socket| socket.contains(program));
            socket.with_context(|| format!("no socket of {program} carries kernel TLS"))?;
        }
        for node in [&world.a, &world.b] {
            let port = format!(":{}", redis.port);
            let status = node.agent.status()?;
            let line = status.lines().find(|line| line.contains(&port)).context("the status does not show it")?;
            ensure!(
                line.contains("direct") && line.contains("sa/a") && line.contains("sa/b"),
                "the status says `{line}`"
            );
        }
        Ok(())
    })
}

/// `ss` of Debian 12 has no name for ChaCha20-Poly1305, so the agents are asked what they gave to the kernel.
fn the_cipher_that_is_asked_for_is_the_kernel_s() -> Result<()> {
    for (asked, suite) in
        [("aes-256-gcm", "TLS13_AES_256_GCM_SHA384"), ("chacha20-poly1305", "TLS13_CHACHA20_POLY1305_SHA256")]
    {
        let world = World::create(Options { cipher: Some(asked), ..Options::DIRECT })?;
        for route in world.ground.there_and_back() {
            let redis = program::redis(route.server)?;
            let _client = Conversation::start(route.client, &redis, route.target)?;
            for (place, node) in [(&world.ground.a, &world.a), (&world.ground.b, &world.b)] {
                let sockets = tls_sockets(place, redis.port)?;
                ensure!(sockets.len() == 1 && !sockets[0].contains("aes-gcm-128"), "{asked}: {sockets:?}");
                let (status, port) = (node.agent.status()?, format!(":{}", redis.port));
                let line = status.lines().find(|line| line.contains(&port)).context("the status does not show it")?;
                ensure!(line.contains("direct") && line.contains(suite), "{asked}: the status says `{line}`");
            }
        }
    }
    Ok(())
}

fn a_peer_without_an_agent_is_refused_by_a_policy_that_wants_direct(world: &World) -> Result<()> {
    let server = program::nginx(&world.ground.outside, &marker())?;
    let capture = world.ground.watch_edge()?;
    program::curl(&world.ground.a, server.at(PARTNER[0]))?.finish()?.failure()?;
    capture.stop()?.prove_silent(server.port)?;
    let metrics = world.a.agent.metrics()?;
    ensure!(metrics.contains("direct-impossible"), "no connection is counted as direct-impossible:\n{metrics}");
    Ok(())
}

/// What kernel TLS does to MSG_MORE before a close cannot be prevented; here is what is said of it where the policy wants
/// direct connections all the same. A stream that is not cut is not said to be.
fn a_stream_that_more_was_announced_for_is_cut_short_and_said_to_be(world: &World) -> Result<()> {
    let cut = r#"path="direct",reason="peer-enrolled",end="open-record-lost"} 1"#;
    let route = world.ground.routes()[0];
    for (tell, hear, is_cut) in [("tell", "hear", false), ("tell-more", "banner", true)] {
        let secret = marker();
        let server = Server::start(route.server, &[hear, "--text", &secret])?;
        peer::connect(route.client, server.at(route.target), &[tell, "--text", &secret])?.details()?;
        let heard = server.outcome()?.text()?.to_owned();
        ensure!(heard == if is_cut { "" } else { &secret }, "{tell}: the server heard `{heard}`");
        let said = || Ok((world.a.agent.metrics()?.contains(cut) == is_cut).then_some(()));
        wait::until("the end to be counted", wait::patience(), said)?;
    }
    let (log, status) = (world.a.agent.log(), world.a.agent.status()?);
    ensure!(log.contains("path: relay") && status.contains("missed msg-more"), "no advice is given:\n{log}\n{status}");
    Ok(())
}

/// Direct where nothing can be lost, else relayed for a named reason; sealed in any case.
fn the_path_that_is_chosen_is_the_one_that_is_shown(world: &World) -> Result<()> {
    let secret = marker();
    let nginx = program::nginx(&world.ground.b, &secret)?;
    sealed(&world.ground, &secret, nginx.port, || get_page(&world.ground.a, &nginx, world.ground.routes()[0].target))?;
    // The machine outside speaks no TLS at all on this port: what counts is the path that was tried.
    let foreign = program::nginx(&world.ground.outside, &secret)?;
    program::curl(&world.ground.a, foreign.at(PARTNER[0]))?.finish()?.failure()?;
    let (status, metrics) = (world.a.agent.status()?, world.a.agent.metrics()?);
    let ours = match status.contains("kernel-loses-the-end") {
        true => r#"path="relay",reason="kernel-loses-the-end""#,
        false => r#"path="direct",reason="peer-enrolled""#,
    };
    for path in [ours, r#"path="relay",reason="peer-foreign""#] {
        ensure!(metrics.contains(path), "no connection is counted as {path}:\n{metrics}\n{status}");
    }
    Ok(())
}

/// The pins that hold the programs of a node in their places.
fn pinned_links(node: &Node) -> Result<Vec<PathBuf>> {
    let mut links = Vec::new();
    for layout in fs::read_dir(&node.config.bpf)? {
        for link in fs::read_dir(layout?.path().join("links"))? {
            links.push(link?.path());
        }
    }
    Ok(links)
}

fn get_page(client: &Place, nginx: &program::Server, target: IpAddr) -> Result<()> {
    program::curl(client, nginx.at(target))?.finish()?.success().map(drop)
}

/// The sockets to or from this port that carry kernel TLS, each with its process.
fn tls_sockets(place: &Place, port: u16) -> Result<Vec<String>> {
    Ok(sockets(place, port)?.lines().filter(|line| line.contains("tcp-ulp-tls")).map(str::to_owned).collect())
}

/// The established connections to or from this port, a line each, with their processes and the state of TCP.
pub(crate) fn sockets(place: &Place, port: u16) -> Result<String> {
    let filter = format!("( sport = :{port} or dport = :{port} )");
    place.run("ss", &["-tienmpOH", "state", "established", &filter])
}

/// A client that keeps its one connection, and is told what to say.
pub(crate) struct Conversation {
    client: Running,
}

impl Conversation {
    /// Connects, and returns when the server has answered.
    pub(crate) fn start(client: &Place, redis: &program::Server, target: IpAddr) -> Result<Conversation> {
        let (host, port) = (target.to_string(), redis.port.to_string());
        let mut conversation = Conversation { client: client.start("redis-cli", &["-h", &host, "-p", &port])? };
        conversation.ask("PING", "PONG")?;
        Ok(conversation)
    }

    /// Says a line, and waits for the answer.
    pub(crate) fn ask(&mut self, line: &str, answer: &str) -> Result<()> {
        let before = self.client.stdout()?.len();
        self.client.feed(format!("{line}\n").as_bytes())?;
        wait::until(&format!("the answer to {line}"), wait::patience(), || {
            self.client.check_alive()?;
            Ok(self.client.stdout()?.get(before..).is_some_and(|said| said.contains(answer)).then_some(()))
        })
    }
}
