//! Workloads that want a certificate of their own: the agent gives each its own, and nobody another's.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use enforcer_tests::authority::{self, Credentials};
use enforcer_tests::config::identity;
use enforcer_tests::ground::{A_EDGE, STRANGER};
use enforcer_tests::place::Place;
use enforcer_tests::process::Finished;
use enforcer_tests::program;
use enforcer_tests::settings;
use enforcer_tests::world::{Options, World};
use libtest_mimic::Trial;

use crate::stage::{marker, promises};

pub(crate) fn trials() -> Vec<Trial> {
    promises![in Options::STRICT;
        a_workload_fetches_its_certificate_and_proves_its_identity_with_it,
        a_process_elsewhere_is_given_nothing,
    ]
}

/// A server that no agent looks after accepts the workload, which speaks TLS itself, and the other way round.
fn a_workload_fetches_its_certificate_and_proves_its_identity_with_it(world: &World) -> Result<()> {
    let inner = world.ground.a.cgroup.child("inner")?;
    let inside = Place { cgroup: inner.clone(), ..world.ground.a.clone() };
    for place in [&world.ground.a, &inside] {
        let out = world.ground.directory("fetched");
        let said = fetch(world, place, &out)?.success()?;
        ensure!(said.contains(&identity("a")), "it is not a's: {said}");
        let [certificate, key, bundle] = ["chain.pem", "key.pem", "bundle.pem"].map(|name| out.join(name));
        let fetched = Credentials { certificate, key, bundle };
        let judged = authority::check(&fetched, "a")?;
        ensure!(judged.status.success(), "peers would refuse it: {judged:?}");

        let secret = marker();
        let partner = authority::issue(&world.a.config.state, "partner", &world.ground.directory("trusting"))?;
        let server = program::openssl_server(&world.ground.outside, STRANGER[0], &partner, &secret)?;
        let client = program::openssl_request(place, A_EDGE[0], server.at(STRANGER[0]), &fetched)?;
        let finished = client.finish()?;
        ensure!(finished.stdout.contains(&secret), "no page: {finished:?}");
    }
    inner.remove()?;
    // What the agent itself uses is another one.
    let status = world.a.agent.report()?;
    let own = status["workloads"][0]["certificate"]["serial"].as_str().context("the agent has no certificate")?;
    let chain = world.ground.directory("fetched").join("chain.pem");
    let shown = world.ground.host.run("openssl", &["x509", "-noout", "-serial", "-in", &chain.to_string_lossy()])?;
    let serial = shown.trim().trim_start_matches("serial=").to_lowercase();
    ensure!(!serial.is_empty() && serial != own, "the workload has the agent's own certificate: {serial}");
    Ok(())
}

fn a_process_elsewhere_is_given_nothing(world: &World) -> Result<()> {
    let ground = &world.ground;
    let places = [
        ("another node", ground.b.clone()),
        ("a machine without an agent", ground.outside.clone()),
        ("the host", ground.host.clone()),
        ("the namespace alone", Place { cgroup: ground.outside.cgroup.clone(), ..ground.a.clone() }),
        ("the group alone", Place { namespace: ground.b.namespace.clone(), ..ground.a.clone() }),
        ("the group on the host", Place { namespace: None, ..ground.a.clone() }),
    ];
    let out = ground.directory("stolen");
    for (where_it_is, place) in places {
        let said = fetch(world, &place, &out)?.failure()?;
        ensure!(said.contains("no identity issued"), "from {where_it_is}: {said}");
    }
    ensure!(!out.exists(), "something was written to {}", out.display());
    let metrics = world.a.agent.metrics()?;
    ensure!(metrics.contains("workload_api_answers_total{answer=\"not-enrolled\"}"), "not counted:\n{metrics}");
    Ok(())
}

/// Asks the agent of node a.
fn fetch(world: &World, place: &Place, out: &Path) -> Result<Finished> {
    let (socket, out) = (world.a.config.workload_api.to_string_lossy(), out.to_string_lossy());
    place.start(settings::endpoint_binary()?, &["svid", "--socket", &socket, "--out", &out])?.finish()
}
