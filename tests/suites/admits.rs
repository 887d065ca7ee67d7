//! What a node lets pass: mutual TLS of peers without an agent, and, when permissive, plaintext for a named reason.

use anyhow::{Result, ensure};
use enforcer_tests::authority;
use enforcer_tests::ground::{A_EDGE, LEGACY, PARTNER, STRANGER};
use enforcer_tests::program;
use enforcer_tests::settings::kernel_has_tls;
use enforcer_tests::world::{Options, World};
use libtest_mimic::Trial;

use crate::stage::{Company, marker, pages_come_sealed, promises};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = foreign_in(Options::STRICT, "");
    if kernel_has_tls() {
        // Where connections with other peers are direct.
        trials.extend(foreign_in(Options::AUTO, " (beside direct)"));
    }
    trials.extend(promises![in Options::PERMISSIVE;
        a_permissive_node_reaches_a_plaintext_peer_and_says_why,
        a_permissive_node_serves_a_stranger_and_says_why,
        permissive_nodes_still_encrypt_between_each_other,
    ]);
    trials
}

fn foreign_in(options: Options, suffix: &str) -> Vec<Trial> {
    promises![in options, called suffix, Company::Others;
        a_client_with_mutual_tls_of_its_own_is_served,
        a_server_with_mutual_tls_of_its_own_is_reached,
    ]
}

fn a_client_with_mutual_tls_of_its_own_is_served(world: &World) -> Result<()> {
    let directory = world.ground.directory("client-with-mutual-tls");
    let credentials = authority::issue(&world.a.config.state, "partner", &directory)?;
    for family in [0, 1] {
        let secret = marker();
        let nginx = program::nginx(&world.ground.a, &secret)?;
        let capture = world.ground.watch_edge()?;
        let target = nginx.at(A_EDGE[family]);
        let client = program::openssl_request(&world.ground.outside, PARTNER[family], target, &credentials)?;
        let finished = client.finish()?;
        ensure!(finished.stdout.contains(&secret), "{target}: no page: {finished:?}");
        let recording = capture.stop()?;
        recording.prove_absent(&secret)?;
        recording.prove_only_tls(nginx.port)?;
    }
    Ok(())
}

fn a_server_with_mutual_tls_of_its_own_is_reached(world: &World) -> Result<()> {
    let directory = world.ground.directory("server-with-mutual-tls");
    let credentials = authority::issue(&world.a.config.state, "partner", &directory)?;
    for address in PARTNER {
        let secret = marker();
        let server = program::openssl_server(&world.ground.outside, address, &credentials, &secret)?;
        let capture = world.ground.watch_edge()?;
        let page = program::curl(&world.ground.a, server.at(address))?.finish()?.success()?;
        ensure!(page.contains(&secret), "{address}: curl got `{page}`");
        let recording = capture.stop()?;
        recording.prove_absent(&secret)?;
        recording.prove_only_tls(server.port)?;
    }
    Ok(())
}

fn a_permissive_node_reaches_a_plaintext_peer_and_says_why(world: &World) -> Result<()> {
    for address in LEGACY {
        let secret = marker();
        let nginx = program::nginx(&world.ground.outside, &secret)?;
        let page = program::curl(&world.ground.a, nginx.at(address))?.finish()?.success()?;
        ensure!(page == secret, "{address}: curl got `{page}`");
    }
    said_why(world, "permissive-plaintext-peer")
}

fn a_permissive_node_serves_a_stranger_and_says_why(world: &World) -> Result<()> {
    for family in [0, 1] {
        let secret = marker();
        let nginx = program::nginx(&world.ground.a, &secret)?;
        let client = program::curl_from(&world.ground.outside, STRANGER[family], nginx.at(A_EDGE[family]))?;
        let page = client.finish()?.success()?;
        ensure!(page == secret, "{}: curl got `{page}`", STRANGER[family]);
    }
    said_why(world, "permissive-unknown-source")
}

fn permissive_nodes_still_encrypt_between_each_other(world: &World) -> Result<()> {
    pages_come_sealed(world)
}

/// The reason is the label that the metrics of node `a` count the connection under.
fn said_why(world: &World, reason: &str) -> Result<()> {
    let metrics = world.a.agent.metrics()?;
    ensure!(metrics.contains(reason), "no connection is counted as {reason}:\n{metrics}");
    Ok(())
}
