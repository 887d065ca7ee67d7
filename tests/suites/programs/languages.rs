//! Python, JavaScript, Go and Rust, in every way that their programs wait for the kernel: blocking threads, epoll,
//! io_uring, with timeouts, with signals.

use anyhow::{Result, ensure};
use enforcer_tests::config::Path;
use enforcer_tests::peer::{self, Server};
use enforcer_tests::program::{self, Script};
use enforcer_tests::world::{Options, World};
use libtest_mimic::Trial;

use crate::stage::{Company, marker, on_every_route, promises, script_talks, sealed};

pub(super) fn thorough(options: Options, suffix: &str) -> Vec<Trial> {
    promises![in options, called suffix, Company::Others;
        python_threads_talk,
        python_coroutines_talk,
        python_may_wait_for_a_connection_that_is_not_yet_made,
        python_may_wait_for_it_edge_triggered,
        timeouts_of_python_s_end_when_they_should,
        signals_disturb_no_byte,
        no_call_is_interrupted_without_a_signal,
        node_talks_to_node,
        go_talks_to_go,
        node_and_go_talk_to_each_other,
        tokio_carries_much_over_many_connections,
        io_uring_carries_much,
    ]
}

/// What the direct path does not keep: nobody else can reach a socket that has no descriptor. It is reset.
pub(super) fn without_direct(options: Options, suffix: &str) -> Vec<Trial> {
    promises![in options, called suffix, Company::Others; io_uring_carries_much_on_descriptors_of_its_own]
}

fn python_threads_talk(world: &World) -> Result<()> {
    script_talks(world, Script { name: "threads", serve: "echo", connect: "echo" })
}

fn python_coroutines_talk(world: &World) -> Result<()> {
    script_talks(world, Script { name: "coroutines", serve: "echo", connect: "echo" })
}

fn python_may_wait_for_a_connection_that_is_not_yet_made(world: &World) -> Result<()> {
    script_talks(world, Script { name: "polling", serve: "level", connect: "level" })
}

fn python_may_wait_for_it_edge_triggered(world: &World) -> Result<()> {
    script_talks(world, Script { name: "polling", serve: "edge", connect: "edge" })
}

fn timeouts_of_python_s_end_when_they_should(world: &World) -> Result<()> {
    script_talks(world, Script { name: "timeouts", serve: "echo", connect: "echo" })
}

fn signals_disturb_no_byte(world: &World) -> Result<()> {
    script_talks(world, Script { name: "signals", serve: "timer", connect: "timer" })
}

/// Whatever the agent does to a process must not show as EINTR in a program that handles no signal.
fn no_call_is_interrupted_without_a_signal(world: &World) -> Result<()> {
    script_talks(world, Script { name: "signals", serve: "quiet", connect: "quiet" })
}

fn node_talks_to_node(world: &World) -> Result<()> {
    on_every_route(world, |route| {
        let secret = marker();
        let node = program::node_server(route.server, &secret)?;
        sealed(&world.ground, &secret, node.port, || {
            program::node_client(route.client, node.at(route.target), &secret)?.finish()?.success().map(drop)
        })
    })
}

fn go_talks_to_go(world: &World) -> Result<()> {
    on_every_route(world, |route| {
        let secret = marker();
        let go = program::go_server(route.server, &secret)?;
        sealed(&world.ground, &secret, go.port, || {
            program::go_client(route.client, go.at(route.target), &secret)?.finish()?.success().map(drop)
        })
    })
}

fn node_and_go_talk_to_each_other(world: &World) -> Result<()> {
    on_every_route(world, |route| {
        let secret = marker();
        let node = program::node_server(route.server, &secret)?;
        let go = program::go_server(route.server, &secret)?;
        sealed(&world.ground, &secret, node.port, || {
            program::go_client(route.client, node.at(route.target), &secret)?.finish()?.success()?;
            program::node_client(route.client, go.at(route.target), &secret)?.finish()?.success().map(drop)
        })
    })
}

/// What fits into a send buffer: a program that ends its half while the buffer is full loses data to kernel TLS, which is
/// why `path: auto` relays.
fn much(world: &World, relayed: usize) -> usize {
    const FITS: usize = 16 * 1024;
    if world.a.config.path == Path::Direct { FITS } else { relayed }
}

fn tokio_carries_much_over_many_connections(world: &World) -> Result<()> {
    const CONNECTIONS: usize = 10;
    let length = much(world, 256 * 1024);
    let (connections, bytes) = (CONNECTIONS.to_string(), length.to_string());
    let much = ["bulk", "--by", "tokio", "--bytes", &bytes, "--connections", &connections];
    on_every_route(world, |route| {
        let server = Server::start(route.server, &much)?;
        sealed(&world.ground, "nothing that could be marked", server.port, || {
            let clients = peer::outcomes_of(peer::start(route.client, server.at(route.target), &much)?)?;
            let servers = server.outcomes()?;
            ensure!(clients.len() == CONNECTIONS && servers.len() == CONNECTIONS, "{clients:?} {servers:?}");
            clients.iter().chain(&servers).try_for_each(|end| end.prove_exchanged(length))
        })
    })
}

fn io_uring_carries_much(world: &World) -> Result<()> {
    ring_carries_much(world, "ring")
}

/// What is not in the table of the process's descriptors cannot be reached through it either.
fn io_uring_carries_much_on_descriptors_of_its_own(world: &World) -> Result<()> {
    ring_carries_much(world, "ring-direct")
}

fn ring_carries_much(world: &World, by: &str) -> Result<()> {
    let length = much(world, 1 << 20);
    let bytes = length.to_string();
    on_every_route(world, |route| {
        let server = Server::start(route.server, &["bulk", "--by", by, "--bytes", &bytes])?;
        sealed(&world.ground, "nothing that could be marked", server.port, || {
            let client =
                peer::connect(route.client, server.at(route.target), &["bulk", "--by", by, "--bytes", &bytes])?;
            client.prove_exchanged(length)?;
            server.outcome()?.prove_exchanged(length)
        })?;
        let server = Server::start(route.server, &["echo", "--by", by])?;
        let rounds = ["ping-pong", "--by", by, "--rounds", "50"];
        peer::connect(route.client, server.at(route.target), &rounds)?.details()?;
        server.outcome()?.details().map(drop)
    })
}
