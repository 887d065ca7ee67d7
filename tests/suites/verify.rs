//! `enforcer verify`: it proves what is so, disproves what is not, and never takes one for the other. Its judgement is
//! held against that of the oracle, which captures beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use enforcer_tests::agent;
use enforcer_tests::ground::{IMPOSTOR, LEGACY, Route};
use enforcer_tests::process::{Finished, Running};
use enforcer_tests::program;
use enforcer_tests::settings::{enforcer_binary, kernel_has_tls};
use enforcer_tests::wait;
use enforcer_tests::world::{Node, Options, World};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::direct::Conversation;
use crate::stage::{Company, marker, on_every_route, promises, sealed};

/// The exit codes that `enforcer --help` documents.
const OK: i32 = 0;
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const UNREACHABLE: i32 = 5;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = promises![in Options::STRICT;
        an_idle_connection_is_not_proved,
        somebody_else_is_not_proved,
        nobody_is_said_not_to_be_there,
    ];
    trials.extend(promises![in Options::PERMISSIVE; plaintext_is_disproved]);
    for (suffix, options) in paths() {
        trials.extend(promises![in options, called suffix, Company::Others;
            what_is_sealed_is_proved,
            an_open_connection_is_picked_and_proved,
        ]);
    }
    trials
}

/// The paths that this kernel has.
fn paths() -> Vec<(&'static str, Options)> {
    let mut paths = vec![(" (relay)", Options::STRICT)];
    if kernel_has_tls() {
        paths.extend([(" (direct)", Options::DIRECT), (" (direct at one end)", Options::MIXED)]);
    }
    paths
}

fn what_is_sealed_is_proved(world: &World) -> Result<()> {
    on_every_route(world, |route| {
        let (secret, node) = (marker(), node(world, route));
        let file = capture_file(world, &secret);
        let nginx = program::nginx(route.server, "a page")?;
        let request = format!("GET /{secret} HTTP/1.0\r\n\r\n");
        let other = nginx.at(route.target).to_string();
        let file_name = file.to_str().context("a path that is text")?;
        sealed(&world.ground, &secret, nginx.port, || {
            let arguments = [&other, "--send", &request, "--pcap", file_name];
            let answer = answer_of(verify(world, node, &arguments)?, OK)?;
            is_proved(&answer, node, &answer_path(node))?;
            ensure!(answer["sent"] == request.len(), "not all was sent: {answer}");
            Ok(())
        })?;
        readable_and_without(world, &file, &secret)
    })
}

fn is_proved(answer: &Value, node: &Node, path: &str) -> Result<()> {
    let own = node.config.account;
    let other = if own == "a" { "b" } else { "a" };
    ensure!(answer["verdict"] == "proved" && answer["reasons"] == Value::Array(Vec::new()), "it is {answer:#}");
    let agent = &answer["agent"];
    for (field, expected) in [
        ("path", path.to_owned()),
        ("local", enforcer_tests::config::identity(own)),
        ("peer", enforcer_tests::config::identity(other)),
        ("cipher", "TLS13_AES_128_GCM_SHA256".to_owned()),
        ("group", "X25519MLKEM768".to_owned()),
    ] {
        ensure!(agent[field] == expected, "{field} is not {expected}: {answer:#}");
    }
    for serial in ["local_serial", "peer_serial"] {
        ensure!(agent[serial].as_str().is_some_and(|serial| serial.len() > 8), "no {serial}: {answer:#}");
    }
    for side in ["client", "server"] {
        let records = &answer["wire"][side]["records"];
        ensure!(records["application_data"].as_u64() > Some(0), "the {side} has sent no record: {answer:#}");
    }
    Ok(())
}

/// The path that a node's connections take in these worlds.
fn answer_path(node: &Node) -> String {
    let is_direct = node.config.path == enforcer_tests::config::Path::Direct;
    if is_direct { "direct".to_owned() } else { "relay".to_owned() }
}

/// As tcpdump, which is not ours, reads it.
fn readable_and_without(world: &World, file: &Path, secret: &str) -> Result<()> {
    let name = file.to_str().context("a path that is text")?;
    let packets = world.ground.host.run("tcpdump", &["-n", "-Z", "root", "-r", name])?;
    ensure!(packets.lines().count() > 5, "tcpdump reads of {name} only:\n{packets}");
    let octets = fs::read(file).with_context(|| format!("read {name}"))?;
    ensure!(!octets.windows(secret.len()).any(|window| window == secret.as_bytes()), "`{secret}` is in {name}");
    Ok(())
}

fn an_open_connection_is_picked_and_proved(world: &World) -> Result<()> {
    on_every_route(world, |route| {
        let node = node(world, route);
        let redis = program::redis(route.server)?;
        let mut conversation = Conversation::start(route.client, &redis, route.target)?;
        let other = redis.at(route.target).to_string();
        for (observer, arguments) in
            [(node, vec![other.as_str(), "--existing"]), (far_node(world, route), vec![node.config.account])]
        {
            let mut verifying = verify(world, observer, &arguments)?;
            while verifying.check_alive().is_ok() {
                conversation.ask("PING", "PONG")?;
            }
            let answer = answer_of(verifying, OK)?;
            is_proved_open(&answer, observer)?;
        }
        Ok(())
    })
}

/// Its handshake, if there was one, is over; so the group may be known to the agent alone.
fn is_proved_open(answer: &Value, observer: &Node) -> Result<()> {
    is_proved(answer, observer, &answer_path(observer))?;
    ensure!(answer["candidates"].as_u64() >= Some(1), "no open connection was there: {answer:#}");
    ensure!(answer["sent"].is_null() && answer["wire"]["agreed"].is_null(), "it was not open already: {answer:#}");
    Ok(())
}

fn an_idle_connection_is_not_proved(world: &World) -> Result<()> {
    let route = world.ground.routes()[0];
    let redis = program::redis(route.server)?;
    let _conversation = Conversation::start(route.client, &redis, route.target)?;
    let other = redis.at(route.target).to_string();
    let answer = answer_of(verify(world, &world.a, &[&other, "--existing", "--within", "1"])?, FAILED)?;
    ensure!(answer["verdict"] == "not-proved" && reasons(&answer).contains(&"idle"), "it is {answer:#}");
    let nobody = format!("{}:1", route.target);
    let answer = answer_of(verify(world, &world.a, &[&nobody, "--existing"])?, FAILED)?;
    ensure!(answer["verdict"] == "not-proved" && reasons(&answer) == ["no-connection"], "it is {answer:#}");
    Ok(())
}

/// The registry of `a` expects another identity at these addresses of `b`.
fn somebody_else_is_not_proved(world: &World) -> Result<()> {
    for address in IMPOSTOR {
        let nginx = program::nginx(&world.ground.b, "a page")?;
        let other = nginx.at(address).to_string();
        let answer = answer_of(verify(world, &world.a, &[&other])?, FAILED)?;
        ensure!(answer["verdict"] == "not-proved", "it is {answer:#}");
        ensure!(reasons(&answer).contains(&"connection-failed"), "it does not say why: {answer:#}");
    }
    Ok(())
}

fn plaintext_is_disproved(world: &World) -> Result<()> {
    for address in LEGACY {
        let secret = marker();
        let nginx = program::nginx(&world.ground.outside, "a page")?;
        let request = format!("GET /{secret} HTTP/1.0\r\n\r\n");
        let other = nginx.at(address).to_string();
        let capture = world.ground.watch_edge()?;
        let answer = answer_of(verify(world, &world.a, &[&other, "--send", &request])?, FAILED)?;
        ensure!(capture.stop()?.contains(&secret), "the oracle did not see what was sent");
        ensure!(answer["verdict"] == "disproved", "it is {answer:#}");
        for reason in ["marker-seen", "not-tls", "in-the-clear"] {
            ensure!(reasons(&answer).contains(&reason), "no {reason} in {answer:#}");
        }
        let octets: Vec<_> =
            answer["reasons"].as_array().into_iter().flatten().map(|one| &one["seen"]["octets"]).collect();
        // `GET /`, in hexadecimal.
        let shows = octets.iter().any(|octets| octets.as_str().is_some_and(|octets| octets.starts_with("474554202f")));
        ensure!(shows, "the octets are not shown: {answer:#}");
    }
    Ok(())
}

fn nobody_is_said_not_to_be_there(world: &World) -> Result<()> {
    for (one, other, expected) in [
        ("nobody", "b:80", "no Workload and no Peer \"nobody\""),
        ("b", "a:80", "is no workload of this node, which has a"),
        ("a", "nobody:80", "no Workload and no Peer \"nobody\""),
    ] {
        let finished = start(world, world.a.config.admin, &[one, other])?.finish()?;
        ensure!(finished.status.code() == Some(USAGE), "{one} {other}: {finished:?}");
        ensure!(finished.stderr.contains(expected), "{one} {other}: {}", finished.stderr);
    }
    let finished = start(world, agent::free_address()?, &["a", "b:80"])?.finish()?;
    ensure!(finished.status.code() == Some(UNREACHABLE), "without an agent: {finished:?}");
    Ok(())
}

/// The node whose workload is the client.
fn node<'a>(world: &'a World, route: Route<'_>) -> &'a Node {
    if std::ptr::eq(route.client, &world.ground.a) { &world.a } else { &world.b }
}

fn far_node<'a>(world: &'a World, route: Route<'_>) -> &'a Node {
    if std::ptr::eq(route.client, &world.ground.a) { &world.b } else { &world.a }
}

/// Begins to verify connections of a node's workload, with the answer as JSON.
fn verify(world: &World, node: &Node, arguments: &[&str]) -> Result<Running> {
    let within = wait::bound(Duration::from_secs(10)).as_secs().to_string();
    let within = if arguments.contains(&"--within") { vec![] } else { vec!["--within", &within] };
    start(world, node.config.admin, &[&["--json", node.config.account], arguments, &within].concat())
}

fn start(world: &World, admin: std::net::SocketAddr, arguments: &[&str]) -> Result<Running> {
    let admin = admin.to_string();
    world.ground.host.start(enforcer_binary()?, &[&["verify", "--admin", &admin], arguments].concat())
}

fn answer_of(verifying: Running, code: i32) -> Result<Value> {
    let Finished { status, stdout, stderr, .. } = verifying.finish_within(wait::patience() * 2)?;
    ensure!(status.code() == Some(code), "it ended with {status}:\n{stdout}{stderr}");
    stdout.parse().with_context(|| format!("it printed:\n{stdout}"))
}

fn reasons(answer: &Value) -> Vec<&str> {
    answer["reasons"].as_array().into_iter().flatten().filter_map(|reason| reason["code"].as_str()).collect()
}

fn capture_file(world: &World, name: &str) -> PathBuf {
    world.ground.directory(&format!("{name}.pcap"))
}
