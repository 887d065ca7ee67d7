//! A connection through the agents behaves like a plain one: who speaks first, who ends and how soon, how much, how
//! many, and which process holds it.
//!
//! `trials_in` gives all of this in any world: another path for the same connections is another line in `trials`.

mod brief;
mod crowds;
mod moved;

use anyhow::{Context, Result, ensure};
use enforcer_tests::config::Path;
use enforcer_tests::peer::{self, Server};
use enforcer_tests::program::Script;
use enforcer_tests::settings::{Depth, direct_depth, is_quick, kernel_keeps_whole_records};
use enforcer_tests::world::{Options, World};
use libtest_mimic::Trial;

use crate::stage::{Company, every_offload, marker, on_every_route, promises, script_talks, sealed};

const MIB: usize = 1 << 20;

pub(crate) fn trials() -> Vec<Trial> {
    let everywhere =
        every_offload().flat_map(|(suffix, options)| [light_in(options, suffix), heavy_in(options, suffix)]);
    // As with programs: once where it is quick, and direct where that is possible.
    let once = match direct_depth() {
        Depth::Thorough => {
            vec![trials_in(Options::DIRECT, " (direct)"), brief::trials_without_relay_in(Options::DIRECT, " (direct)")]
        }
        Depth::Everyday => vec![
            light_in(Options::DIRECT, " (direct)"),
            brief::trials_in(Options::DIRECT, " (direct)"),
            brief::trials_without_relay_in(Options::DIRECT, " (direct)"),
            moved::trials_in(Options::DIRECT, " (direct)"),
        ],
        Depth::Nothing => vec![
            brief::trials_in(Options::STRICT, ""),
            brief::full_in(Options::STRICT, ""),
            brief::trials_without_direct_in(Options::STRICT, ""),
            moved::trials_in(Options::STRICT, ""),
            crowds::trials_in(Options::STRICT, ""),
            crowds::trials_without_direct_in(Options::STRICT, ""),
        ],
    };
    let full = kernel_keeps_whole_records().then(|| brief::full_in(Options::DIRECT, " (direct)"));
    let mixed = |trials: fn(Options, &str) -> Vec<Trial>| trials(Options::MIXED, " (direct at one end)");
    // Once open they are relayed, and relays have their load elsewhere.
    let mixed = match direct_depth() {
        Depth::Thorough => vec![mixed(light_in), mixed(brief::trials_in)],
        Depth::Everyday => vec![mixed(light_in)],
        Depth::Nothing => Vec::new(),
    };
    everywhere.chain(once).chain(full).chain(mixed).flatten().collect()
}

/// All of them in the world with these options; `suffix` tells their names apart from those in other worlds.
fn trials_in(options: Options, suffix: &str) -> Vec<Trial> {
    [
        light_in(options, suffix),
        brief::trials_in(options, suffix),
        moved::trials_in(options, suffix),
        heavy_in(options, suffix),
        crowds::trials_in(options, suffix),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn light_in(options: Options, suffix: &str) -> Vec<Trial> {
    promises![in options, called suffix, Company::Others;
        a_server_may_speak_first,
        a_server_may_ask_for_connections_all_the_time,
        a_server_may_end_its_half_and_still_be_heard,
        a_client_may_end_its_half_and_still_get_the_answer,
        a_reset_by_the_server_is_a_reset_at_the_client,
        a_reset_by_the_client_is_a_reset_at_the_server,
        small_messages_go_back_and_forth,
    ]
}

fn heavy_in(options: Options, suffix: &str) -> Vec<Trial> {
    promises![in options, called suffix, Company::Nobody;
        crowds_of_connections_keep_apart,
        sixty_four_mib_both_ways_at_once_arrive_unchanged,
    ]
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

fn a_server_may_ask_for_connections_all_the_time(world: &World) -> Result<()> {
    script_talks(world, Script { name: "polling", serve: "spin", connect: "talk" })
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
/// A thousand at once. Where the processor is emulated relays have fewer: each of theirs has a handshake, which waits half a
/// minute for its turn at most.
fn crowds_of_connections_keep_apart(world: &World) -> Result<()> {
    let relays = world.a.config.path == Path::Relay || world.b.config.path == Path::Relay;
    let connections = if is_quick() || !relays { 1000 } else { 300 };
    let number = connections.to_string();
    for route in world.ground.there_and_back() {
        let server = Server::start(route.server, &["echo", "--connections", &number])?;
        let at = server.at(route.target);
        let client = peer::connect(route.client, at, &["parallel", "--connections", &number])?;
        ensure!(client.details()?["connections"] == connections, "{route}: the client says {client:?}");
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
    for route in world.ground.there_and_back() {
        let server = Server::start(route.server, &["bulk", "--bytes", &bytes])?;
        let client = peer::connect(route.client, server.at(route.target), &["bulk", "--bytes", &bytes])?;
        client.prove_exchanged(BYTES).with_context(|| route.to_string())?;
        server.outcome()?.prove_exchanged(BYTES).with_context(|| route.to_string())?;
    }
    Ok(())
}

fn server_text(server: Server) -> Result<String> {
    Ok(server.outcome()?.text()?.to_owned())
}
