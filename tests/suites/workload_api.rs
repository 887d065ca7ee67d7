//! The SPIFFE Workload API from both sides. Workloads that want a certificate of their own: the agent gives each its own,
//! and nobody another's. And agents that have their certificates from somebody else.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use enforcer::ca;
use enforcer::identity::source::{Local, Source};
use enforcer::identity::workload_api::{Endpoint, Member, Parts, Roll};
use enforcer::kernel::netns::Id;
use enforcer::observe::metrics::{Metrics, Sources};
use enforcer_tests::authority::{self, Credentials};
use enforcer_tests::config::{TRUST_DOMAIN, identity};
use enforcer_tests::ground::{A_EDGE, Ground, STRANGER};
use enforcer_tests::place::Place;
use enforcer_tests::process::Finished;
use enforcer_tests::program;
use enforcer_tests::settings;
use enforcer_tests::wait;
use enforcer_tests::world::{Options, World, workload_api};
use libtest_mimic::Trial;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::stage::{pages_come_sealed, promises};

pub(crate) fn trials() -> Vec<Trial> {
    // Its own TLS is nothing that the agent knows of.
    let rules = ["outbound: { plaintext: [{ name: stranger, addresses: [10.78.0.4] }] }", ""];
    let mut trials = promises![in Options { rules, ..Options::STRICT };
        a_workload_fetches_its_certificate_and_proves_its_identity_with_it,
        a_process_elsewhere_is_given_nothing,
    ];
    trials.extend(promises![beside others; nodes_talk_with_certificates_of_somebody_else]);
    trials
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

        let partner = authority::issue(&world.a.config.state, "partner", &world.ground.directory("trusting"))?;
        let server = program::openssl_server(
            &world.ground.outside,
            STRANGER[0],
            &partner,
            "for whoever has proved an identity",
        )?;
        let client = program::openssl_request(place, A_EDGE[0], server.at(STRANGER[0]), &fetched)?;
        let finished = client.finish()?;
        // It answers only after it has accepted the client's certificate.
        ensure!(finished.stdout.contains("200 ok"), "no answer: {finished:?}");
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

/// Nobody is there when the agents start; then somebody is, then nobody again.
fn nodes_talk_with_certificates_of_somebody_else() -> Result<()> {
    let ground = Ground::create()?;
    let other = Other::new(&ground)?;
    let world = World::on(ground, Options::SVIDS)?;
    let target = world.ground.routes()[0].target;
    let nginx = program::nginx(&world.ground.b, "unread")?;
    program::curl(&world.ground.a, nginx.at(target))?.finish()?.failure().context("there were no certificates yet")?;
    let stop = other.serve(&world.ground)?;
    world.explain(wait::until("certificates", wait::patience(), || {
        let held = [&world.a, &world.b].map(|node| node.agent.report());
        let [a, b] = held.map(|report| Ok::<_, anyhow::Error>(report?["workloads"][0]["certificate"].is_object()));
        Ok((a? && b?).then_some(()))
    }))?;
    world.explain(pages_come_sealed(&world))?;
    stop.cancel();
    world.explain(pages_come_sealed(&world))
}

/// What an agent has its certificates from: it knows agents by their control group, in the network of the host.
struct Other {
    runtime: Runtime,
    source: Arc<dyn Source>,
}

impl Other {
    fn new(ground: &Ground) -> Result<Other> {
        let authority = ca::open_or_create(&ground.directory("other-authority"), TRUST_DOMAIN)?;
        Ok(Other { runtime: Runtime::new()?, source: Arc::new(Local::new(authority)?) })
    }

    /// Serves the agents of both nodes, each at a socket of its own, until the result is cancelled.
    fn serve(&self, ground: &Ground) -> Result<CancellationToken> {
        let _context = self.runtime.enter();
        let stop = CancellationToken::new();
        let group = ground.host.cgroup.path().metadata().context("look at the agents' group")?.ino();
        for account in ["a", "b"] {
            let namespace = Id::of_process(std::process::id())?;
            let member = Member { name: account.into(), identity: identity(account).parse()?, namespace };
            let sources = Sources {
                refusals: Box::new(Vec::new),
                missed: Box::new(Vec::new),
                usage: Box::new(Vec::new),
                certificates: Box::new(Vec::new),
            };
            let parts = Parts {
                source: Arc::clone(&self.source),
                trust_domain: TRUST_DOMAIN.to_owned(),
                members: Roll::new(HashMap::from([(group, member)])),
                metrics: Arc::new(Metrics::new(sources)),
            };
            let socket: PathBuf = workload_api(ground, account);
            self.runtime.spawn(Endpoint::bind(&socket)?.serve(parts, stop.clone()));
        }
        Ok(stop)
    }
}

/// Asks the agent of node a.
fn fetch(world: &World, place: &Place, out: &Path) -> Result<Finished> {
    let (socket, out) = (world.a.config.workload_api.to_string_lossy(), out.to_string_lossy());
    place.start(settings::endpoint_binary()?, &["svid", "--socket", &socket, "--out", &out])?.finish()
}
