//! What a strict node refuses: everything that is not mutual TLS with the identity that its registry expects. Not a
//! byte of the application's passes, and the application is told soon.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use enforcer_tests::authority::{self, Credentials};
use enforcer_tests::ground::{A, A_EDGE, Ground, IMPOSTOR, LEGACY, PARTNER, STRANGER, unused_port};
use enforcer_tests::peer::{self, Outcome, Server};
use enforcer_tests::place::Place;
use enforcer_tests::program;
use enforcer_tests::wait;
use enforcer_tests::wire::Recording;
use enforcer_tests::world::{Options, World};
use libtest_mimic::Trial;

use crate::stage::{marker, promises};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = promises![in Options::STRICT;
        a_server_that_does_not_listen_is_a_quick_error,
        a_peer_that_speaks_plaintext_is_not_connected_to,
        a_stranger_is_not_served,
        plaintext_from_a_peer_is_not_served,
        garbage_instead_of_tls_is_reset,
        garbage_from_a_server_ends_the_connection,
        silence_instead_of_a_handshake_ends_at_its_deadline,
        a_server_with_another_identity_than_registered_gets_nothing,
        a_client_without_a_certificate_is_not_served,
        a_client_with_another_identity_than_registered_is_not_served,
        a_client_with_an_expired_certificate_is_not_served,
        a_client_with_a_certificate_of_another_ca_is_not_served,
        a_foreign_server_with_another_identity_gets_nothing,
        a_foreign_server_with_an_expired_certificate_gets_nothing,
    ];
    trials.extend(promises![in Options::FOREIGN; nodes_of_different_cas_do_not_talk]);
    trials
}

fn a_server_that_does_not_listen_is_a_quick_error(world: &World) -> Result<()> {
    for route in world.ground.routes() {
        let nobody = (route.target, unused_port()).into();
        refused_soon(&peer::connect(route.client, nobody, &["read"])?).with_context(|| route.to_string())?;
    }
    Ok(())
}

fn a_peer_that_speaks_plaintext_is_not_connected_to(world: &World) -> Result<()> {
    for address in LEGACY {
        let server = program::nginx(&world.ground.outside, &marker())?;
        let capture = world.ground.watch_edge()?;
        let client = peer::connect(&world.ground.a, server.at(address), &["read", "--text", "GET / HTTP/1.0\r\n\r\n"])?;
        refused_soon(&client).with_context(|| address.to_string())?;
        capture.stop()?.prove_silent(server.port)?;
    }
    Ok(())
}

fn a_stranger_is_not_served(world: &World) -> Result<()> {
    for family in [0, 1] {
        not_served(world, |ground, port| {
            let client = program::curl_from(&ground.outside, STRANGER[family], (A_EDGE[family], port).into())?;
            client.finish()?.failure().map(drop)
        })?;
    }
    Ok(())
}

/// The source address is that of an enrolled node, but the program there is not of its workload.
fn plaintext_from_a_peer_is_not_served(world: &World) -> Result<()> {
    for address in A {
        not_served(world, |ground, port| {
            program::curl(&unenrolled_on_b(ground), (address, port).into())?.finish()?.failure().map(drop)
        })?;
    }
    Ok(())
}

fn garbage_instead_of_tls_is_reset(world: &World) -> Result<()> {
    for address in A {
        for seed in ["1", "2", "3"] {
            let server = program::nginx(&world.ground.a, &marker())?;
            let garbage = ["garbage", "--bytes", seed];
            let client = peer::connect(&unenrolled_on_b(&world.ground), server.at(address), &garbage)?;
            refused_soon(&client).with_context(|| format!("{address}, garbage {seed}"))?;
        }
    }
    Ok(())
}

fn garbage_from_a_server_ends_the_connection(world: &World) -> Result<()> {
    for address in PARTNER {
        let secret = marker();
        let server = Server::start(&world.ground.outside, &["banner", "--text", "220 this is not TLS\r\n"])?;
        let capture = world.ground.watch_edge()?;
        let client = peer::connect(&world.ground.a, server.at(address), &["read", "--text", &secret])?;
        refused_soon(&client).with_context(|| address.to_string())?;
        capture.stop()?.prove_absent(&secret)?;
    }
    Ok(())
}

/// The server never accepts a byte, the client never sends one. A client that has an agent is given the time in which
/// that agent may still offer the connection.
fn silence_instead_of_a_handshake_ends_at_its_deadline(world: &World) -> Result<()> {
    let silent_server = Server::start(&world.ground.outside, &["stall"])?;
    let unreached = Server::start(&world.ground.a, &["banner", "--text", "never"])?;
    let asking = peer::start(&world.ground.a, silent_server.at(PARTNER[0]), &["read", "--text", "hello"])?;
    let silent = peer::start(&unenrolled_on_b(&world.ground), unreached.at(A[0]), &["read"])?;
    for (client, seconds) in [(asking, 5), (silent, 30)] {
        let outcome = peer::outcome_of(client)?;
        let took = outcome.field("milliseconds").as_f64().context("no time")?;
        ensure!(outcome.error().is_some(), "the silence was accepted: {outcome:?}");
        let latest = wait::bound(Duration::from_secs(seconds + 3)).as_secs_f64() * 1e3;
        ensure!(took > seconds as f64 * 800.0 && took < latest, "it took {took} ms");
    }
    Ok(())
}

fn a_server_with_another_identity_than_registered_gets_nothing(world: &World) -> Result<()> {
    let [asked, unasked] = IMPOSTOR.map(|address| -> Result<_> {
        let secret = marker();
        let server = program::nginx(&world.ground.b, &secret)?;
        let capture = world.ground.watch_mesh()?;
        let client = peer::connect(&world.ground.a, server.at(address), &["read", "--text", &secret])?;
        refused_soon(&client).with_context(|| address.to_string())?;
        Ok((capture.stop()?, secret, server.port))
    });
    // The agent says that it has no such workload, before there is a connection; the certificate says it where nobody can be asked.
    let (recording, secret, port) = asked?;
    recording.prove_absent(&secret)?;
    ensure!(recording.packets_to(port) == 0, "connected to a workload that its agent does not have");
    let (recording, secret, port) = unasked?;
    refused_in_handshake(&recording, &secret, port)
}

fn a_client_without_a_certificate_is_not_served(world: &World) -> Result<()> {
    for family in [0, 1] {
        not_served(world, |ground, port| {
            let url = format!("https://{}/index.html", std::net::SocketAddr::new(A_EDGE[family], port));
            let from = PARTNER[family].to_string();
            let arguments =
                ["--silent", "--insecure", "--noproxy", "*", "--max-time", "60", "--interface", &from, &url];
            ground.outside.run_refused("curl", &arguments).map(drop)
        })?;
    }
    Ok(())
}

fn a_client_with_another_identity_than_registered_is_not_served(world: &World) -> Result<()> {
    let directory = world.ground.directory("client-with-another-identity");
    let credentials = authority::issue(&world.a.config.state, "someone-else", &directory)?;
    not_served_with(world, &credentials)
}

fn a_client_with_an_expired_certificate_is_not_served(world: &World) -> Result<()> {
    let directory = world.ground.directory("client-with-expired-certificate");
    let credentials = authority::forge_expired(&world.a.config.state, "partner", &directory)?;
    not_served_with(world, &credentials)
}

fn a_client_with_a_certificate_of_another_ca_is_not_served(world: &World) -> Result<()> {
    let other = world.ground.directory("other-ca");
    authority::init(&other)?;
    let credentials = authority::issue(&other, "partner", &world.ground.directory("client-of-other-ca"))?;
    // The client itself trusts our CA: it is we who must refuse.
    not_served_with(world, &Credentials { bundle: our_bundle(world, "bundle-for-other-ca")?, ..credentials })
}

fn a_foreign_server_with_another_identity_gets_nothing(world: &World) -> Result<()> {
    let directory = world.ground.directory("server-with-another-identity");
    let credentials = authority::issue(&world.a.config.state, "someone-else", &directory)?;
    not_asked(world, &credentials)
}

fn a_foreign_server_with_an_expired_certificate_gets_nothing(world: &World) -> Result<()> {
    let directory = world.ground.directory("server-with-expired-certificate");
    let credentials = authority::forge_expired(&world.a.config.state, "partner", &directory)?;
    not_asked(world, &credentials)
}

fn nodes_of_different_cas_do_not_talk(world: &World) -> Result<()> {
    for route in world.ground.routes() {
        let secret = marker();
        let server = program::nginx(route.server, &secret)?;
        let capture = world.ground.watch_mesh()?;
        let client = peer::connect(route.client, server.at(route.target), &["read", "--text", &secret])?;
        refused_soon(&client).with_context(|| route.to_string())?;
        refused_in_handshake(&capture.stop()?, &secret, server.port)?;
    }
    Ok(())
}

/// Lets somebody try to get a page of node `a`, who must fail, and of the page nobody must see a byte.
fn not_served(world: &World, attempt: impl FnOnce(&Ground, u16) -> Result<()>) -> Result<()> {
    let secret = marker();
    let nginx = program::nginx(&world.ground.a, &secret)?;
    let captures = [world.ground.watch_mesh()?, world.ground.watch_edge()?];
    attempt(&world.ground, nginx.port)?;
    captures.into_iter().try_for_each(|capture| capture.stop()?.prove_absent(&secret))
}

/// How the record of a connection ends whose client proved to be nobody who may.
const REFUSED: [&str; 2] = [r#"end="peer-certificate-invalid""#, r#"end="peer-identity-mismatch""#];

/// The same with `openssl s_client` at the address of the partner.
fn not_served_with(world: &World, credentials: &Credentials) -> Result<()> {
    for family in [0, 1] {
        let secret = marker();
        let nginx = program::nginx(&world.ground.a, &secret)?;
        let target = nginx.at(A_EDGE[family]);
        let client = program::openssl_request(&world.ground.outside, PARTNER[family], target, credentials)?;
        let finished = client.finish()?;
        ensure!(!finished.stdout.contains(&secret), "{target} served a page: {finished:?}");
        // Not a broken test: the client got as far as TLS, and was told why it is refused. Where it was writing at that
        // moment, the reset that answers it has overtaken the alert; then the agent has said why.
        let told = finished.stderr.contains("alert");
        let (log, to) = (world.a.agent.log(), format!("destination={target} "));
        let said = |line: &str| line.contains(&to) && REFUSED.iter().any(|end| line.contains(end));
        ensure!(told || log.lines().any(said), "{target} did not refuse by an alert: {finished:?}");
    }
    Ok(())
}

/// Lets a program on node `a` ask a TLS server outside, which must not get the question.
fn not_asked(world: &World, credentials: &Credentials) -> Result<()> {
    for address in PARTNER {
        let secret = marker();
        let server = program::openssl_server(&world.ground.outside, address, credentials, &marker())?;
        let capture = world.ground.watch_edge()?;
        let client = peer::connect(&world.ground.a, server.at(address), &["read", "--text", &secret])?;
        refused_soon(&client).with_context(|| address.to_string())?;
        refused_in_handshake(&capture.stop()?, &secret, server.port)?;
    }
    Ok(())
}

/// A program in the network of node `b` that is not of its workload, so that its agent leaves it alone.
pub(crate) fn unenrolled_on_b(ground: &Ground) -> Place {
    Place { namespace: ground.b.namespace.clone(), ..ground.outside.clone() }
}

/// The trust bundle of the nodes, as every certificate that they issue comes with it.
fn our_bundle(world: &World, directory: &str) -> Result<std::path::PathBuf> {
    Ok(authority::issue(&world.a.config.state, "partner", &world.ground.directory(directory))?.bundle)
}

/// Both ends began a handshake, and nothing of the application's was seen: it was the certificate that did it.
fn refused_in_handshake(recording: &Recording, secret: &str, port: u16) -> Result<()> {
    recording.prove_absent(secret)?;
    recording.prove_only_tls(port)
}

/// The connection was refused or reset within three seconds.
fn refused_soon(outcome: &Outcome) -> Result<()> {
    let refused = matches!(outcome.error(), Some("ConnectionRefused" | "ConnectionReset"));
    ensure!(refused, "neither refused nor reset: {outcome:?}");
    let took = outcome.field("milliseconds").as_f64().context("no time")?;
    let limit = wait::bound(Duration::from_secs(3)).as_secs_f64() * 1e3;
    ensure!(took < limit, "it took {took} ms: {outcome:?}");
    Ok(())
}
