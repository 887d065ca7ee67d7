//! Two nodes of different trust domains, each with an authority of its own: they talk where each names the other's bundle,
//! and a bundle is good for the identities of its own trust domain and for nobody else's.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use enforcer_tests::agent::Agent;
use enforcer_tests::authority::{self, Credentials};
use enforcer_tests::config::{Config, Path, Speaks, TRUST_DOMAIN, identity, identity_in};
use enforcer_tests::ground::{A_EDGE, Addresses, Ground, LEGACY, PARTNER};
use enforcer_tests::peer;
use enforcer_tests::program;
use enforcer_tests::settings::kernel_has_tls;
use enforcer_tests::world::{Options, World};
use libtest_mimic::Trial;

use crate::direct::Conversation;
use crate::stage::{marker, on_every_route, pages_come_sealed, promises};

/// Of node `b`, and of one of the machines outside.
const OTHER: &str = "partner.example";

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = promises![beside others;
        workloads_of_two_trust_domains_talk_when_each_names_the_bundle_of_the_other,
        a_trust_domain_without_its_bundle_is_refused,
    ];
    // Who speaks TLS without an agent is relayed.
    if !kernel_has_tls() {
        trials.extend(promises![beside others; a_bundle_vouches_for_its_own_trust_domain_alone]);
    }
    trials
}

fn workloads_of_two_trust_domains_talk_when_each_names_the_bundle_of_the_other() -> Result<()> {
    let world = world(usual())?;
    world.explain(pages_come_sealed(&world))?;
    // Each node says who it is with, while it is.
    let both = [identity("a"), identity_in(OTHER, "b")];
    world.explain(on_every_route(&world, |route| {
        let redis = program::redis(route.server)?;
        let _open = Conversation::start(route.client, &redis, route.target)?;
        for node in [&world.a, &world.b] {
            let (status, port) = (node.agent.status()?, format!(":{}", redis.port));
            let is_it = |line: &str| line.contains(&port) && both.iter().all(|identity| line.contains(identity));
            ensure!(status.lines().any(is_it), "node {} does not say so:\n{status}", node.config.account);
        }
        Ok(())
    }))
}

/// One of the two nodes does not know the other trust domain, or has somebody else's bundle for it.
fn a_trust_domain_without_its_bundle_is_refused() -> Result<()> {
    let mut world = world(usual())?;
    let right = world.b.config.federation.clone();
    let another = world.ground.directory("another-authority");
    authority::init_for(&another, TRUST_DOMAIN)?;
    for federation in [vec![], vec![(TRUST_DOMAIN, another.join("bundle.pem"))]] {
        restart_b(&mut world, federation)?;
        world.explain(on_every_route(&world, |route| {
            let secret = marker();
            let nginx = program::nginx(route.server, &secret)?;
            let capture = world.ground.watch_mesh()?;
            let client = peer::connect(route.client, nginx.at(route.target), &["read", "--text", &secret])?;
            ensure!(client.error().is_some(), "it was served: {client:?}");
            capture.stop()?.prove_absent(&secret)
        }))?;
    }
    // It was the bundle, and nothing else.
    restart_b(&mut world, right)?;
    world.explain(pages_come_sealed(&world))
}

/// The machine outside has two addresses: at one the registry expects an identity of the other trust domain, at the other
/// one of ours.
fn a_bundle_vouches_for_its_own_trust_domain_alone() -> Result<()> {
    let world = world(Path::Relay)?;
    let (ours, theirs) = (&world.a.config.state, &world.b.config.state);
    let (partner, guest) = (identity_in(OTHER, "partner"), identity("legacy"));
    let out = |purpose: &str| world.ground.directory(purpose);
    let rightly = [
        (PARTNER, authority::issue_for(theirs, &partner, &out("their-partner"))?),
        (LEGACY, authority::issue_for(ours, &guest, &out("our-guest"))?),
    ];
    let wrongly = [
        (PARTNER, authority::forge_for(ours, &partner, &out("our-partner"))?),
        (LEGACY, authority::forge_for(theirs, &guest, &out("their-guest"))?),
    ];
    // Whom the machine outside trusts is not the question: it always knows node a's authority.
    let bundle = rightly[1].1.bundle.clone();
    let trusting = |credentials: &Credentials| Credentials { bundle: bundle.clone(), ..credentials.clone() };
    for family in [0, 1] {
        for (certified, is_right) in [(&rightly, true), (&wrongly, false)] {
            for (addresses, credentials) in certified {
                let case = || format!("at {}, certified rightly: {is_right}", addresses[family]);
                let credentials = trusting(credentials);
                let served = is_served(&world.ground, (addresses, family), &credentials).with_context(case)?;
                let asked = is_asked(&world.ground, addresses[family], &credentials).with_context(case)?;
                ensure!(served == is_right, "{}: served as a client {served}\n{}", case(), world.a.agent.log());
                ensure!(asked == is_right, "{}: asked as a server {asked}\n{}", case(), world.a.agent.log());
            }
        }
    }
    Ok(())
}

/// Node `a` is of the trust domain that all other worlds have, node `b` of the other one.
fn world(path: Path) -> Result<World> {
    World::arranged(Ground::create()?, Options { path, ..Options::FOREIGN }, None, |a, b| {
        b.trust_domain = OTHER;
        a.federation = vec![(OTHER, b.state.join("bundle.pem"))];
        b.federation = vec![(TRUST_DOMAIN, a.state.join("bundle.pem"))];
        for peer in &mut a.peers {
            match peer.account {
                "legacy" => peer.speaks = Speaks::Mtls,
                _ => peer.trust_domain = OTHER,
            }
        }
    })
}

fn usual() -> Path {
    if kernel_has_tls() { Path::Direct } else { Path::Relay }
}

fn restart_b(world: &mut World, federation: Vec<(&'static str, std::path::PathBuf)>) -> Result<()> {
    world.b.agent.stop()?;
    world.b.config = Config { federation, ..world.b.config.clone() };
    world.b.agent = Agent::start(&world.b.config, &world.ground.host)?;
    Ok(())
}

/// Whether node `a` serves a page to `openssl s_client`.
fn is_served(ground: &Ground, (from, family): (&Addresses, usize), credentials: &Credentials) -> Result<bool> {
    let secret = marker();
    let nginx = program::nginx(&ground.a, &secret)?;
    let target = nginx.at(A_EDGE[family]);
    let finished = program::openssl_request(&ground.outside, from[family], target, credentials)?.finish()?;
    Ok(finished.stdout.contains(&secret))
}

/// Whether a program on node `a` gets as far as asking `openssl s_server`, and has its answer.
fn is_asked(ground: &Ground, at: IpAddr, credentials: &Credentials) -> Result<bool> {
    let secret = marker();
    let server = program::openssl_server(&ground.outside, at, credentials, &secret)?;
    let page = program::curl(&ground.a, server.at(at))?.finish()?;
    Ok(page.stdout.contains(&secret))
}
