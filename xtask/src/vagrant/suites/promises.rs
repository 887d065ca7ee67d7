//! The promises that need agents, one function each.

use anyhow::{Result, ensure};

use super::World;
use super::apps::{self, MARKER, PAYLOAD_SIZE, Program, enrolled};
use super::mesh::{self, Authority};
use crate::vagrant::capture::Capture;
use crate::vagrant::node::{Family, Node};

/// How curl ends when its `-m` runs out, and timeout(1): the client was neither answered nor refused.
const LEFT_HANGING: [i32; 2] = [28, 124];

/// The payload arrives whole, and an onlooker sees TLS and no marker.
pub(super) fn carries(world: &World<'_>, program: Program, family: Family) -> Result<()> {
    let before = apps::marked_requests(world)?;
    let capture = Capture::start(&world.b, &world.a)?;
    let fetched = apps::fetch(world, program, family);
    let wire = capture.stop()?;
    fetched?;
    wire.prove_hidden(program.telltale(), program.port(), PAYLOAD_SIZE)?;
    if program == Program::Http {
        let arrived = apps::marked_requests(world)? - before;
        ensure!(arrived == 1, "nginx saw the marked header {arrived} times");
    }
    Ok(())
}

/// On a connection that is open, `ss` shows kernel TLS on the agents' sockets on both nodes.
pub(super) fn kernel_tls(world: &World<'_>) -> Result<()> {
    let port = Program::Redis.port();
    let subscribe = format!("redis-cli -h {} -p {port} SUBSCRIBE open", world.b.ipv4);
    world.a.check(&format!("systemd-run --quiet --collect --unit=suite-open --slice={} {subscribe}", apps::SLICE))?;
    let seen = world
        .b
        .wait_until("the subscriber", "redis-cli PUBSUB CHANNELS | grep -q open")
        .and_then(|()| shows_kernel_tls(&world.a, world, port))
        .and_then(|()| shows_kernel_tls(&world.b, world, port));
    world.a.check("systemctl stop suite-open")?;
    seen
}

/// The one socket of the connection over the wire, as `node` has it, has kernel TLS in both directions.
#[expect(clippy::print_stdout, reason = "the cipher is part of the report")]
fn shows_kernel_tls(node: &Node<'_>, world: &World<'_>, port: u16) -> Result<()> {
    let sockets = node.check(&format!("ss -tieHnO \"( sport = :{port} or dport = :{port} )\""))?;
    let sockets = String::from_utf8_lossy(&sockets);
    let (client, server) = (format!("{}:", world.a.ipv4), format!("{}:{port}", world.b.ipv4));
    let tls = sockets
        .lines()
        .filter(|socket| socket.contains(&client) && socket.contains(&server))
        .find_map(|socket| socket.split_once("tcp-ulp-tls").map(|(_, shown)| shown));
    let shown = tls.ok_or_else(|| anyhow::anyhow!("no tcp-ulp-tls on {node}: {sockets}"))?;
    // "version: 1.3 cipher: aes-gcm-256 rxconf: sw txconf: sw"
    let words: Vec<&str> = shown.split_whitespace().take(8).collect();
    ensure!(words.contains(&"rxconf:") && words.contains(&"txconf:"), "kernel TLS in one direction only: {words:?}");
    println!("        {node}: kernel TLS, {}", words.join(" "));
    Ok(())
}

/// A plaintext client that no agent takes care of gets no answer, soon, and nginx does not see it.
pub(super) fn unenrolled(world: &World<'_>, family: Family) -> Result<()> {
    // Its own request is in the clear, as nobody protects it: it must not carry the marker.
    let client = format!("curl -sS -m 60 http://{}/payload", world.b.host(family));
    let requests = "wc -l </run/suite/headers";
    let before = world.b.check(requests)?;
    let capture = Capture::start(&world.b, &world.a)?;
    let outcome = world.a.run(&client);
    let wire = capture.stop()?;
    refused(outcome?.status.code())?;
    ensure!(wire.frames_with(MARKER) == 0, "the server answered in the clear");
    ensure!(world.b.check(requests)? == before, "the request reached nginx");
    Ok(())
}

/// With a CA of its own behind it, `node-a` gets nothing from `node-b`; with the shared one it does again.
pub(super) fn other_authority(world: &World<'_>) -> Result<()> {
    mesh::restart(&world.a, Authority::Other)?;
    let outcome = refuses_enrolled_client(world);
    mesh::restart(&world.a, Authority::Shared)?;
    outcome?;
    carries(world, Program::Http, Family::V4)
}

/// With the agent of `node-b` killed, nothing gets in and nothing crosses in the clear; with a new one it does again.
pub(super) fn agent_killed(world: &World<'_>) -> Result<()> {
    world.b.check("systemctl kill --signal=SIGKILL enforcer")?;
    world.b.wait_until("the agent to be gone", "! pidof enforcer")?;
    let outcome = refuses_enrolled_client(world);
    mesh::restart(&world.b, Authority::Shared)?;
    outcome?;
    carries(world, Program::Http, Family::V4)
}

/// An enrolled curl on `node-a` fails, the marker does not show on the wire and does not reach nginx.
fn refuses_enrolled_client(world: &World<'_>) -> Result<()> {
    let before = apps::marked_requests(world)?;
    let capture = Capture::start(&world.b, &world.a)?;
    let outcome = world.a.run(&enrolled(&Program::Http.client(&world.b, Family::V4)));
    let wire = capture.stop()?;
    refused(outcome?.status.code())?;
    ensure!(wire.frames_with(MARKER) == 0, "the marker crossed in the clear");
    ensure!(apps::marked_requests(world)? == before, "the request reached nginx");
    Ok(())
}

/// curl failed, and not because its patience ended.
fn refused(code: Option<i32>) -> Result<()> {
    ensure!(code != Some(0), "the client was answered");
    ensure!(!LEFT_HANGING.map(Some).contains(&code), "the client was left hanging");
    Ok(())
}
