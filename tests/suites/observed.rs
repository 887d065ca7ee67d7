//! What an operator is told is what has happened.

use anyhow::{Context, Result, ensure};
use enforcer_tests::authority;
use enforcer_tests::ground::{A_EDGE, PARTNER};
use enforcer_tests::peer::{self, Server};
use enforcer_tests::program;
use enforcer_tests::wait;
use enforcer_tests::world::{Options, World};
use libtest_mimic::Trial;

use crate::stage::{marker, promises};

pub(crate) fn trials() -> Vec<Trial> {
    promises![in Options::STRICT;
        the_status_shows_an_open_connection_with_both_identities_and_its_cipher,
        an_end_without_close_notify_is_recorded_as_truncated,
    ]
}

fn the_status_shows_an_open_connection_with_both_identities_and_its_cipher(world: &World) -> Result<()> {
    for route in world.ground.routes() {
        let server = Server::start(route.server, &["banner", "--text", "hello"])?;
        let client = peer::start(route.client, server.at(route.target), &["read"])?;
        for node in [&world.a, &world.b] {
            let port = format!(":{}", server.port);
            let shown = wait::until("the connection in the status", wait::patience(), || {
                let status = node.agent.status()?;
                Ok(status.lines().find(|line| line.contains(&port) && line.contains("TLS13_")).map(str::to_owned))
            })
            .with_context(|| format!("{route}, node {}", node.config.account))?;
            for expected in ["sa/a", "sa/b", "relay"] {
                ensure!(shown.contains(expected), "{route}: no `{expected}` in `{shown}`");
            }
        }
        drop(client);
    }
    Ok(())
}

/// A TLS client that is killed says no goodbye: what it sent may be the beginning of something longer.
fn an_end_without_close_notify_is_recorded_as_truncated(world: &World) -> Result<()> {
    let directory = world.ground.directory("client-that-is-killed");
    let credentials = authority::issue(&world.a.config.state, "partner", &directory)?;
    for family in [0, 1] {
        let answer = marker();
        let server = Server::start(&world.ground.a, &["banner", "--text", &answer])?;
        let at = server.at(A_EDGE[family]);
        let client = program::openssl_request(&world.ground.outside, PARTNER[family], at, &credentials)?;
        wait::until("the answer", wait::patience(), || Ok(client.stdout()?.contains(&answer).then_some(())))?;
        client.kill()?;
        let outcome = server.outcome()?;
        ensure!(outcome.error().is_some(), "the server took a truncated stream for a whole one: {outcome:?}");
    }
    let metrics = world.a.agent.metrics()?;
    ensure!(metrics.contains("end=\"truncated\""), "no end is counted as truncated:\n{metrics}");
    Ok(())
}
