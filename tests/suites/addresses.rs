//! Addresses and ports are those that the applications would see without us, and so are those on the wire.

mod moved;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use enforcer_tests::ground::{A_EDGE, B, Ground, STRANGER, unused_port};
use enforcer_tests::peer::{self, Server};
use enforcer_tests::program;
use enforcer_tests::settings::kernel_has_tls;
use enforcer_tests::world::{Options, World};
use libtest_mimic::Trial;

use crate::stage::{Company, marker, promises, sealed};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = promises![in Options::STRICT;
        the_client_sees_the_server_as_its_peer,
        the_server_sees_the_client_as_its_peer,
        an_ipv4_address_in_ipv6_clothes_is_the_same_peer,
        the_port_on_the_wire_is_the_application_s,
        a_server_may_start_again_on_its_port,
        a_client_may_choose_its_source_address,
    ];
    if kernel_has_tls() {
        trials.extend(promises![in Options::DIRECT, called " (direct)", Company::Others;
            a_client_may_choose_its_source_address,
        ]);
    }
    trials.extend(promises![beside others; a_loopback_address_that_is_reached_from_outside_is_no_way_in]);
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

/// To a peer, and to itself: the one may be sent to the agent's listener on the loopback, the other goes there anyway.
fn a_client_may_choose_its_source_address(world: &World) -> Result<()> {
    for route in world.ground.routes() {
        let secret = marker();
        let nginx = program::nginx(route.server, &secret)?;
        sealed(&world.ground, &secret, nginx.port, || {
            let page = program::curl_from(route.client, route.source, nginx.at(route.target))?.finish()?.success()?;
            ensure!(page == secret, "{route}: the client got `{page}`");
            Ok(())
        })?;
        let itself = program::nginx(route.client, &secret)?;
        let loopback = if route.source.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        let page = program::curl_from(route.client, route.source, itself.at(loopback))?.finish()?.success()?;
        ensure!(page == secret, "{route}: the client got `{page}` from itself");
    }
    Ok(())
}

/// Where `route_localnet` is set, as it is on nodes of Kubernetes, the next machine can send to 127.0.0.1.
fn a_loopback_address_that_is_reached_from_outside_is_no_way_in() -> Result<()> {
    let (secret, port) = (marker(), unused_port());
    let options = if kernel_has_tls() { Options::DIRECT } else { Options::STRICT };
    let world = World::arranged(Ground::create()?, options, None, |a, _b| a.ports = vec![port])?;
    let (a, outside) = (&world.ground.a, &world.ground.outside);
    lead_to_loopback_of_a(&world.ground)?;
    let answer = ["end-first", "--text", &secret];
    let (enrolled, free) = (Server::start_on(a, port, &answer)?, Server::start(a, &answer)?);
    let [there, refused] = [&free, &enrolled]
        .map(|server| peer::connect(outside, server.at(Ipv4Addr::LOCALHOST.into()), &["answer-at-end"]));
    let there = there.context("a port that is none of the workload's")?;
    ensure!(there.text()? == secret, "nothing leads there: {there:?}");
    let refused = refused?;
    ensure!(refused.error().is_some() && !format!("{refused:?}").contains(&secret), "it was let in: {refused:?}");
    Ok(())
}

fn lead_to_loopback_of_a(ground: &Ground) -> Result<()> {
    for place in [&ground.a, &ground.outside] {
        let namespace = place.namespace.as_ref().context("places of a ground have namespaces")?;
        namespace.run(|| Ok(fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1")?))?;
    }
    let outside = ground.outside.namespace.as_ref().context("places of a ground have namespaces")?;
    let (via, from) = (A_EDGE[0], STRANGER[0]);
    outside.configure(&format!("addr del 127.0.0.1/8 dev lo\nroute add 127.0.0.1 via {via} src {from}\n"))
}
