//! Many connections soon after each other, many workers at one port, many clients before the first is accepted.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use enforcer_tests::peer::{self, Server};
use enforcer_tests::program::Script;
use enforcer_tests::wait;
use enforcer_tests::world::{Options, World};
use libtest_mimic::Trial;

use crate::stage::{Company, marker, on_every_route, promises, sealed};

pub(super) fn trials_in(options: Options, suffix: &str) -> Vec<Trial> {
    let mut trials = promises![in options, called suffix, Company::Others;
        fifty_clients_may_have_written_before_the_first_is_accepted,
        workers_may_share_a_listener,
        workers_may_each_have_a_listener,
    ];
    trials.extend(promises![in options, called suffix, Company::Nobody; five_thousand_connections_are_all_served]);
    trials
}

fn fifty_clients_may_have_written_before_the_first_is_accepted(world: &World) -> Result<()> {
    const CLIENTS: &str = "50";
    on_every_route(world, |route| {
        let mut server = Server::start(route.server, &["echo", "--late", "--connections", CLIENTS])?;
        sealed(&world.ground, "this is connection", server.port, || {
            let at = server.at(route.target);
            let mut client = peer::start(route.client, at, &["parallel", "--connections", CLIENTS])?;
            wait::until("all clients to have written", wait::patience(), || {
                client.check_alive()?;
                Ok(client.stdout()?.contains("written").then_some(()))
            })?;
            server.release();
            peer::outcome_of(client)?.details()?;
            server.outcomes()?.iter().try_for_each(|outcome| outcome.details().map(drop))
        })
    })
}

fn workers_may_share_a_listener(world: &World) -> Result<()> {
    workers_answer(world, "fork", 1)
}

/// The kernel spreads the connections; that all of them meet one worker of four will not happen.
fn workers_may_each_have_a_listener(world: &World) -> Result<()> {
    workers_answer(world, "reuseport", 2)
}

fn workers_answer(world: &World, serve: &'static str, at_least: usize) -> Result<()> {
    const TIMES: &str = "40";
    let script = Script { name: "workers", serve, connect: "" };
    on_every_route(world, |route| {
        let secret = marker();
        let server = script.start(route.server, &secret)?;
        sealed(&world.ground, &secret, server.port, || {
            let line = format!("{secret}\n");
            let client = ["read", "--text", &line, "--times", TIMES];
            let mut workers = HashSet::new();
            for outcome in peer::outcomes_of(peer::start(route.client, server.at(route.target), &client)?)? {
                let text = outcome.text()?;
                let (worker, said) = text.split_once(' ').with_context(|| format!("a worker said `{text}`"))?;
                ensure!(said == line, "a worker heard `{said}`");
                workers.insert(worker.to_owned());
            }
            ensure!(workers.len() >= at_least, "only {workers:?} answered");
            Ok(())
        })
    })
}

/// Two hundred at a time, as fast as one thread can, and all of them open at the end. In larger waves a relay on an
/// emulated processor would miss the deadline of its handshakes. One way through the mesh: it is the number that
/// counts here.
fn five_thousand_connections_are_all_served(world: &World) -> Result<()> {
    const CONNECTIONS: usize = 5000;
    let connections = CONNECTIONS.to_string();
    let route = world.ground.routes()[0];
    let server = Server::start(route.server, &["echo", "--by", "tokio", "--connections", &connections])?;
    let waves = ["parallel", "--connections", &connections, "--wave", "200"];
    let client = peer::connect(route.client, server.at(route.target), &waves)?;
    ensure!(client.details()?["connections"] == CONNECTIONS, "the client says {client:?}");
    server.outcomes()?.iter().try_for_each(|outcome| outcome.details().map(drop))
}
