//! Held connections: whatever an application, a peer or bad luck does meanwhile, nothing passes in the clear, and what
//! cannot be opened ends.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use enforcer_tests::ground::{A, Route};
use enforcer_tests::leaks::{self, HoldTable};
use enforcer_tests::peer::{self, Server};
use enforcer_tests::program;
use enforcer_tests::wait;
use enforcer_tests::world::{Node, Options, World};
use libtest_mimic::Trial;

use super::{get_page, pinned_links};
use crate::refuses::unenrolled_on_b;
use crate::stage::{marker, promises};

/// Tries to open the gate of its own socket, and says what it could send and what it is told of the gate.
const MEDDLER: &str = "
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
# The kernel takes longer values than it shows to programs, and looks at the first four octets.
for value, length in ((1 << 30, 4), (0, 4), (7, 4), (9, 5000)):
    s.setsockopt(socket.IPPROTO_TCP, 25, value.to_bytes(length, 'little'))
    assert s.getsockopt(socket.IPPROTO_TCP, 25) == value, value
    try:
        s.send(sys.argv[3].encode(), socket.MSG_DONTWAIT)
        sys.exit('sent through a closed gate')
    except BlockingIOError:
        pass
";

/// A program on a peer's node that no agent looks after: it opens its own gate and sends plaintext.
const TRAITOR: &str = "
import socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)
s.setsockopt(socket.IPPROTO_TCP, 25, 1 << 30)
s.connect((sys.argv[1], int(sys.argv[2])))
s.sendall(sys.argv[3].encode())
try:
    sys.exit(len(s.recv(1)))
except ConnectionError:
    pass
";

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = promises![in Options::DIRECT; plaintext_of_a_compromised_peer_is_not_delivered];
    trials.extend(promises![beside others;
        what_an_application_sets_on_a_held_socket_does_not_open_it,
        a_process_that_is_killed_while_it_is_held_leaves_nothing,
        without_the_peer_s_agent_a_connection_ends_in_time,
        when_the_hold_table_is_full_connections_are_refused,
        a_server_that_waits_is_known_after_another_agent_has_come,
        an_accepted_connection_is_found_when_no_program_tells,
    ]);
    trials
}

/// The server may accept it; not a byte comes, and it ends.
fn plaintext_of_a_compromised_peer_is_not_delivered(world: &World) -> Result<()> {
    for address in A {
        let secret = marker();
        let server = Server::start(&world.ground.a, &["hear"])?;
        let traitor = ["-c", TRAITOR, &address.to_string(), &server.port.to_string(), &secret];
        let traitor = unenrolled_on_b(&world.ground).start("python3", &traitor)?;
        let heard = server.outcome()?;
        ensure!(heard.error().is_some() || heard.text()?.is_empty(), "{address}: the server heard {heard:?}");
        traitor.finish_within(wait::bound(Duration::from_secs(60)))?.success()?;
    }
    Ok(())
}

fn what_an_application_sets_on_a_held_socket_does_not_open_it() -> Result<()> {
    let mut world = World::create(Options::DIRECT)?;
    world.a.agent.kill()?;
    for route in [0, 1] {
        let secret = marker();
        let nginx = program::nginx(&world.ground.b, &secret)?;
        let capture = world.ground.watch_mesh()?;
        let target = world.ground.routes()[route].target.to_string();
        world.ground.a.run("python3", &["-c", MEDDLER, &target, &nginx.port.to_string(), &secret])?;
        capture.stop()?.prove_silent(nginx.port)?;
    }
    Ok(())
}

fn a_process_that_is_killed_while_it_is_held_leaves_nothing() -> Result<()> {
    let mut world = World::create(Options::DIRECT)?;
    let target = world.ground.routes()[0].target;
    let nginx = program::nginx(&world.ground.b, &marker())?;
    world.b.agent.kill()?;
    let held = program::curl(&world.ground.a, nginx.at(target))?;
    let entries = || leaks::connection_entries(&world.a.config.bpf);
    wait::until("a held connection", wait::patience(), || Ok((entries()? == 1).then_some(())))?;
    held.kill()?;
    // The agent has the socket too, as long as it tries.
    wait::until("nothing to be left", wait::patience() * 3, || Ok((entries()? == 0).then_some(())))?;
    world.b.agent.restart()?;
    get_page(&world.ground.a, &nginx, target)
}

fn without_the_peer_s_agent_a_connection_ends_in_time() -> Result<()> {
    let mut world = World::create(Options::DIRECT)?;
    let (secret, target) = (marker(), world.ground.routes()[0].target);
    let nginx = program::nginx(&world.ground.b, &secret)?;
    world.b.agent.kill()?;
    let capture = world.ground.watch_mesh()?;
    let said = program::curl(&world.ground.a, nginx.at(target))?.finish()?.failure()?;
    ensure!(!said.contains("timed out"), "nobody ended it: {said}");
    capture.stop()?.prove_silent(nginx.port)?;
    let metrics = world.a.agent.metrics()?;
    ensure!(metrics.contains("peer-agent-unreachable"), "no end is counted as such:\n{metrics}");
    Ok(())
}

fn when_the_hold_table_is_full_connections_are_refused() -> Result<()> {
    let world = World::create(Options::DIRECT)?;
    let (secret, target) = (marker(), world.ground.routes()[0].target);
    let nginx = program::nginx(&world.ground.b, &secret)?;
    let mut table = HoldTable::open(&world.a.config.bpf)?;
    let filled = table.fill().context("fill the hold table")?;
    ensure!(filled > 60_000, "the table was full at {filled}");
    let capture = world.ground.watch_mesh()?;
    program::curl(&world.ground.a, nginx.at(target))?.finish()?.failure()?;
    capture.stop()?.prove_silent(nginx.port)?;
    table.empty()?;
    get_page(&world.ground.a, &nginx, target)
}

/// Another agent attaches its programs to the same functions of the kernel, and threads that are inside of them leave
/// them without ours.
fn a_server_that_waits_is_known_after_another_agent_has_come() -> Result<()> {
    let world = World::create(Options::DIRECT)?;
    for route in world.ground.there_and_back() {
        let server = Server::start(route.server, &["hear"])?;
        drop(World::create(Options::DIRECT)?);
        tells(&server, route)?;
        server.outcome()?.details()?;
    }
    for node in [&world.a, &world.b] {
        ensure!(searches(node)? == 0.0, "a socket had to be searched for");
    }
    Ok(())
}

fn an_accepted_connection_is_found_when_no_program_tells() -> Result<()> {
    let world = World::create(Options::DIRECT)?;
    detach(&world.b, "grafted")?;
    for route in [world.ground.routes()[0], world.ground.routes()[1]] {
        let server = Server::start(route.server, &["hear"])?;
        tells(&server, route)?;
        server.outcome()?.details()?;
    }
    ensure!(searches(&world.b)? > 0.0, "something has told all the same");
    Ok(())
}

fn tells(server: &Server, route: Route<'_>) -> Result<()> {
    peer::connect(route.client, server.at(route.target), &["tell", "--text", &marker()])?.details().map(drop)
}

/// How many sockets were not where programs had seen them.
fn searches(node: &Node) -> Result<f64> {
    let metrics = node.agent.metrics()?;
    let count = metrics.lines().find_map(|line| line.strip_prefix("enforcer_descriptor_searches_total "));
    count.with_context(|| format!("no count of searches:\n{metrics}"))?.parse().context("the count of searches")
}

/// Takes a program away from its function in the kernel.
fn detach(node: &Node, program: &str) -> Result<()> {
    let prefix = format!("trace-{program}-");
    for link in pinned_links(node)? {
        if link.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)) {
            return fs::remove_file(&link).with_context(|| format!("remove {}", link.display()));
        }
    }
    bail!("no program {program}")
}
