//! Addresses and ports are those that the applications would see without us, and so are those on the wire.

mod moved;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use enforcer_tests::ground::{B, unused_port};
use enforcer_tests::peer::{self, Server};
use enforcer_tests::world::{Options, World};
use libtest_mimic::Trial;

use crate::stage::{marker, promises, sealed};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = promises![in Options::STRICT;
        the_client_sees_the_server_as_its_peer,
        the_server_sees_the_client_as_its_peer,
        an_ipv4_address_in_ipv6_clothes_is_the_same_peer,
        the_port_on_the_wire_is_the_application_s,
        a_server_may_start_again_on_its_port,
    ];
    trials.extend(moved::trials());
    trials
}

fn the_client_sees_the_server_as_its_peer(world: &World) -> Result<()> {
    for route in world.ground.routes() {
        let server = Server::start(route.server, &["echo"])?;
        let client = peer::connect(route.client, server.at(route.target), &["ping-pong"])?;
        client.details()?;
        let peer = client.address("peer")?;
        ensure!(peer == server.at(route.target), "{route}: the client sees {peer}");
    }
    Ok(())
}

fn the_server_sees_the_client_as_its_peer(world: &World) -> Result<()> {
    for route in world.ground.routes() {
        let server = Server::start(route.server, &["echo"])?;
        let at = server.at(route.target);
        peer::connect(route.client, at, &["ping-pong"])?.details()?;
        let outcome = server.outcome()?;
        let (peer, local) = (outcome.address("peer")?, outcome.address("local")?);
        ensure!(peer.ip() == route.source, "{route}: the server sees {peer}");
        ensure!(local == at, "{route}: the server was reached at {local}");
    }
    Ok(())
}

fn an_ipv4_address_in_ipv6_clothes_is_the_same_peer(world: &World) -> Result<()> {
    let IpAddr::V4(plain) = B[0] else { unreachable!("the first address of everything is IPv4") };
    let secret = marker();
    let server = Server::start(&world.ground.b, &["end-first", "--text", &secret])?;
    let clothed = SocketAddr::new(IpAddr::V6(Ipv4Addr::to_ipv6_mapped(&plain)), server.port);
    sealed(&world.ground, &secret, server.port, || {
        let client = peer::connect(&world.ground.a, clothed, &["answer-at-end"])?;
        ensure!(client.text()? == secret, "the client got `{}`", client.text()?);
        let peer = client.field("peer").as_str().context("no peer")?;
        ensure!(peer.parse() == Ok(clothed), "the client sees {peer}");
        Ok(())
    })
}

/// `sealed` looks for TLS on the port that the application asked for, and only there.
fn the_port_on_the_wire_is_the_application_s(world: &World) -> Result<()> {
    for route in world.ground.routes() {
        let server = Server::start(route.server, &["echo"])?;
        let at = server.at(route.target);
        let capture = world.ground.watch_mesh()?;
        peer::connect(route.client, at, &["ping-pong"])?.details()?;
        let seen_by_server = server.outcome()?.address("peer")?;
        let recording = capture.stop()?;
        recording.prove_only_tls(at.port())?;
        ensure!(
            recording.has_stream(seen_by_server, at),
            "{route}: no connection {seen_by_server} -> {at} on the wire"
        );
    }
    Ok(())
}

/// Whichever end has closed first, and waits for what may still be on its way.
fn a_server_may_start_again_on_its_port(world: &World) -> Result<()> {
    for route in world.ground.routes() {
        let port = unused_port();
        for (serve, connect) in
            [("end-first", "answer-at-end"), ("banner", "end-first"), ("end-first", "answer-at-end")]
        {
            let server = Server::start_on(route.server, port, &[serve, "--text", "hello"])?;
            let client = peer::connect(route.client, server.at(route.target), &[connect, "--text", "hello"])?;
            ensure!(client.text()? == "hello", "{route}: {client:?}");
            server.outcome()?.details()?;
        }
    }
    Ok(())
}
