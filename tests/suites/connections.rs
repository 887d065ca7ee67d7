//! A connection through the agents behaves like a plain one: who speaks first, who ends, how much, how many.

use anyhow::{Context, Result, ensure};
use enforcer_tests::ground::Route;
use enforcer_tests::peer::{self, Server};
use enforcer_tests::world::World;
use libtest_mimic::Trial;

use crate::stage::{Company, marker, promises, sealed};

const MIB: usize = 1 << 20;

pub(crate) fn trials() -> Vec<Trial> {
    let light = promises![with every offload, Company::Others;
        a_server_may_speak_first,
        a_client_may_end_its_half_and_still_get_the_answer,
        a_server_may_end_its_half_and_still_be_heard,
        a_reset_by_the_server_is_a_reset_at_the_client,
        a_reset_by_the_client_is_a_reset_at_the_server,
        small_messages_go_back_and_forth,
    ];
    let heavy = promises![with every offload, Company::Nobody;
        a_thousand_connections_at_once_keep_apart,
        sixty_four_mib_both_ways_at_once_arrive_unchanged,
    ];
    light.chain(heavy).collect()
}

fn a_server_may_speak_first(world: &World) -> Result<()> {
    on_every_route(world, |route| {
        let secret = marker();
        let server = Server::start(route.server, &["end-first", "--text", &secret])?;
        sealed(&world.ground, &secret, server.port, || {
            let client = peer::connect(route.client, server.at(route.target), &["answer-at-end", "--text", ""])?;
            ensure!(client.text()? == secret, "the client got `{}`", client.text()?);
            Ok(())
        })
    })
}

fn a_client_may_end_its_half_and_still_get_the_answer(world: &World) -> Result<()> {
    on_every_route(world, |route| {
        let (question, answer) = (marker(), marker());
        let server = Server::start(route.server, &["answer-at-end", "--text", &answer])?;
        sealed(&world.ground, &question, server.port, || {
            let client = peer::connect(route.client, server.at(route.target), &["end-first", "--text", &question])?;
            ensure!(client.text()? == answer, "the client got `{}`", client.text()?);
            let heard = server_text(server)?;
            ensure!(heard == question, "the server got `{heard}`");
            Ok(())
        })
    })
}

fn a_server_may_end_its_half_and_still_be_heard(world: &World) -> Result<()> {
    on_every_route(world, |route| {
        let (greeting, answer) = (marker(), marker());
        let server = Server::start(route.server, &["end-first", "--text", &greeting])?;
        sealed(&world.ground, &answer, server.port, || {
            let client = peer::connect(route.client, server.at(route.target), &["answer-at-end", "--text", &answer])?;
            ensure!(client.text()? == greeting, "the client got `{}`", client.text()?);
            let heard = server_text(server)?;
            ensure!(heard == answer, "the server got `{heard}`");
            Ok(())
        })
    })
}

fn a_reset_by_the_server_is_a_reset_at_the_client(world: &World) -> Result<()> {
    on_every_route(world, |route| {
        let server = Server::start(route.server, &["reset"])?;
        let client = peer::connect(route.client, server.at(route.target), &["read", "--text", "hello"])?;
        ensure!(client.error() == Some("ConnectionReset"), "the client saw {client:?}");
        Ok(())
    })
}

fn a_reset_by_the_client_is_a_reset_at_the_server(world: &World) -> Result<()> {
    on_every_route(world, |route| {
        let server = Server::start(route.server, &["echo"])?;
        peer::connect(route.client, server.at(route.target), &["reset", "--text", "hello"])?.details()?;
        let outcome = server.outcome()?;
        ensure!(outcome.error() == Some("ConnectionReset"), "the server saw {outcome:?}");
        Ok(())
    })
}

fn small_messages_go_back_and_forth(world: &World) -> Result<()> {
    on_every_route(world, |route| {
        let server = Server::start(route.server, &["echo"])?;
        let client = peer::connect(route.client, server.at(route.target), &["ping-pong", "--rounds", "200"])?;
        ensure!(client.details()?["rounds"] == 200, "the client says {client:?}");
        let heard = server.outcome()?;
        ensure!(heard.details()?["received"] == 200 * 64, "the server says {heard:?}");
        Ok(())
    })
}

/// One route of each family: the load is what counts here, and it is the same in both directions.
fn a_thousand_connections_at_once_keep_apart(world: &World) -> Result<()> {
    for route in [world.ground.routes()[0], world.ground.routes()[3]] {
        let server = Server::start(route.server, &["echo", "--connections", "1000"])?;
        let at = server.at(route.target);
        let client = peer::connect(route.client, at, &["parallel", "--connections", "1000"])?;
        ensure!(client.details()?["connections"] == 1000, "{route}: the client says {client:?}");
        for outcome in server.outcomes()? {
            outcome.details().with_context(|| route.to_string())?;
        }
    }
    Ok(())
}

/// The pattern is always the same, and so must its checksum be, whoever writes the records.
fn sixty_four_mib_both_ways_at_once_arrive_unchanged(world: &World) -> Result<()> {
    const BYTES: usize = 64 * MIB;
    let bytes = BYTES.to_string();
    for route in [world.ground.routes()[0], world.ground.routes()[3]] {
        let server = Server::start(route.server, &["bulk", "--bytes", &bytes])?;
        let client = peer::connect(route.client, server.at(route.target), &["bulk", "--bytes", &bytes])?;
        let at_client = client.details()?;
        let server = server.outcome()?;
        for end in [at_client, server.details()?] {
            ensure!(end["received"] == BYTES, "{route}: not all has come: {end}");
            ensure!(end["checksum"] == end["sent"], "{route}: what came is not what was sent: {end}");
        }
    }
    Ok(())
}

fn on_every_route(world: &World, promise: impl Fn(Route<'_>) -> Result<()>) -> Result<()> {
    world.ground.routes().into_iter().try_for_each(|route| promise(route).with_context(|| route.to_string()))
}

fn server_text(server: Server) -> Result<String> {
    Ok(server.outcome()?.text()?.to_owned())
}
