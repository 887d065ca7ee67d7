//! What leaves a workload that is not mutual TLS: refused at once, unless policy says otherwise.

mod alike;

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use enforcer_tests::ground::{A, B, STRANGER};
use enforcer_tests::peer::reach;
use enforcer_tests::place::Place;
use enforcer_tests::program;
use enforcer_tests::settings::{Depth, direct_depth};
use enforcer_tests::wait;
use enforcer_tests::world::{Node, Options, World};
use libtest_mimic::Trial;

use crate::stage::{beside_others, marker, promises};

/// Nothing listens there, and nobody else goes there.
const PORT: u16 = 4;
const PERMITTED: i64 = 0;
const EPERM: i64 = libc::EPERM as i64;

/// `a` may reach the stranger, by TCP and UDP.
const RULES: [&str; 2] = [
    "outbound: { plaintext: [{ name: stranger, addresses: [10.78.0.4, 'fd78::4'], protocols: [tcp, udp] }] }",
    "outbound: { plaintext: [{ name: talk, addresses: [10.77.0.0/16, 'fd77::/64'], protocols: [udp], toPeers: true }, \
     { name: all, protocols: [other] }] }",
];
/// `a` would be refused what it is not when this is in force.
const TRIED: [&str; 2] =
    ["audit: true, outbound: { plaintext: [{ name: web, addresses: [10.78.0.4], ports: [80] }] }", ""];

pub(crate) fn trials() -> Vec<Trial> {
    let strict = promises![in Options::STRICT;
        what_no_rule_lets_pass_is_refused_at_once_and_nothing_leaves,
        what_stays_in_the_namespace_passes,
    ];
    let ruled = promises![in Options { rules: RULES, ..Options::STRICT };
        what_a_rule_lets_pass_arrives,
        datagrams_to_peers_and_other_protocols_have_rules_of_their_own,
    ];
    let alike = beside_others("outside::kernel_and_agent_decide_alike", alike::kernel_and_agent_decide_alike);
    let same = [strict, ruled, vec![alike]].into_iter().flatten();
    if direct_depth() == Depth::Everyday {
        return same.collect();
    }
    let tried = promises![in Options { rules: TRIED, ..Options::STRICT }; strict_egress_can_be_tried_first];
    let permissive = promises![in Options::PERMISSIVE; a_permissive_node_lets_pass_and_says_so];
    let changed = promises![beside others; changed_rules_are_in_force_at_once];
    same.chain([tried, permissive, changed].into_iter().flatten()).collect()
}

/// The stranger's addresses, with a port where nothing listens.
fn stranger() -> [SocketAddr; 2] {
    STRANGER.map(|address| SocketAddr::new(address, PORT))
}

/// Every way to reach an address.
fn every_way(to: SocketAddr) -> [(&'static str, SocketAddr); 3] {
    ["tcp", "udp", "udp-connected"].map(|kind| (kind, to))
}

fn what_no_rule_lets_pass_is_refused_at_once_and_nothing_leaves(world: &World) -> Result<()> {
    let capture = world.ground.watch_edge()?;
    for to in stranger() {
        let outcomes = reach(&world.ground.a, &every_way(to))?;
        ensure!(outcomes == [EPERM; 3], "{to}: {outcomes:?}");
        let curl = program::curl(&world.ground.a, to)?.finish()?.failure()?;
        ensure!(curl.contains("curl: (7)"), "curl said {curl}");
    }
    // Of these nobody asks where they go.
    for kind in ["raw", "mptcp"] {
        ensure!(reach(&world.ground.a, &[(kind, stranger()[0])])? == [EPERM], "{kind}");
    }
    // Peers are refused what is not encrypted, too.
    let peer = SocketAddr::new(B[0], PORT);
    ensure!(reach(&world.ground.a, &[("udp", peer), ("udp-connected", peer)])? == [EPERM; 2], "UDP to a peer");
    let seen = capture.stop()?;
    ensure!(seen.packets_to(PORT) == 0, "something left");
    noted(&world.a, ("tcp", Some(stranger()[0])), ("egress-refused", false, None))?;
    noted(&world.a, ("udp", Some(peer)), ("egress-refused", false, None))?;
    noted(&world.a, ("262", None), ("egress-refused", false, None))
}

fn what_stays_in_the_namespace_passes(world: &World) -> Result<()> {
    let secret = marker();
    let nginx = program::nginx(&world.ground.a, &secret)?;
    for address in A {
        let page = program::curl(&world.ground.a, nginx.at(address))?.finish()?.success()?;
        ensure!(page == secret, "curl got `{page}` from its own {address}");
        ensure!(reach(&world.ground.a, &[("udp", SocketAddr::new(address, PORT))])? == [PERMITTED], "{address}");
    }
    // One that comes later.
    let later: IpAddr = [10, 79, 0, 1].into();
    world
        .ground
        .host
        .run("ip", &["-n", &namespace(&world.ground.a)?, "address", "add", "10.79.0.1/32", "dev", "lo"])?;
    wait::until("the new address to be known", wait::patience(), || {
        let page = program::curl(&world.ground.a, nginx.at(later))?.finish()?.success();
        Ok(page.is_ok_and(|page| page == secret).then_some(()))
    })
}

fn namespace(place: &Place) -> Result<String> {
    let path = place.namespace.as_ref().context("no namespace")?.path();
    Ok(path.file_name().context("no name")?.to_string_lossy().into_owned())
}

fn what_a_rule_lets_pass_arrives(world: &World) -> Result<()> {
    let secret = marker();
    let nginx = program::nginx(&world.ground.outside, &secret)?;
    for address in STRANGER {
        let page = program::curl(&world.ground.a, nginx.at(address))?.finish()?.success()?;
        ensure!(page == secret, "curl got `{page}` from {address}");
        let outcomes = reach(&world.ground.a, &every_way(SocketAddr::new(address, PORT)))?;
        ensure!(outcomes == [PERMITTED; 3], "{address}: {outcomes:?}");
    }
    let other = SocketAddr::from(([10, 78, 0, 77], PORT));
    ensure!(reach(&world.ground.a, &every_way(other))? == [EPERM; 3], "beside the rule");
    Ok(())
}

fn datagrams_to_peers_and_other_protocols_have_rules_of_their_own(world: &World) -> Result<()> {
    for address in A {
        let outcomes = reach(&world.ground.b, &every_way(SocketAddr::new(address, PORT))[1..])?;
        ensure!(outcomes == [PERMITTED; 2], "{address}: {outcomes:?}");
    }
    let raw = reach(&world.ground.b, &[("raw", stranger()[0]), ("tcp", stranger()[0])])?;
    ensure!(raw == [PERMITTED, EPERM], "{raw:?}");
    // The rule of `a` is wide enough for a peer, and does not say that it is for peers.
    ensure!(reach(&world.ground.a, &[("udp", SocketAddr::new(B[0], PORT))])? == [EPERM], "UDP to a peer");
    Ok(())
}

fn strict_egress_can_be_tried_first(world: &World) -> Result<()> {
    let [to, _] = stranger();
    ensure!(reach(&world.ground.a, &every_way(to))? == [PERMITTED; 3]);
    noted(&world.a, ("tcp", Some(to)), ("egress-audited", true, Some("rules/outbound.plaintext")))?;
    let web = SocketAddr::new(to.ip(), 80);
    ensure!(reach(&world.ground.a, &[("tcp", web)])? == [PERMITTED]);
    ensure!(!world.a.agent.status()?.contains(&web.to_string()), "the rule would let it pass");
    Ok(())
}

fn a_permissive_node_lets_pass_and_says_so(world: &World) -> Result<()> {
    let [to, _] = stranger();
    ensure!(reach(&world.ground.a, &every_way(to))? == [PERMITTED; 3]);
    noted(&world.a, ("udp", Some(to)), ("permissive-unknown-destination", true, None))
}

fn changed_rules_are_in_force_at_once() -> Result<()> {
    let mut world = World::create(Options::STRICT)?;
    let [to, _] = stranger();
    let may = |world: &World, expected| {
        wait::until("other rules", wait::patience(), || {
            Ok((reach(&world.ground.a, &every_way(to))? == [expected; 3]).then_some(()))
        })
    };
    may(&world, EPERM)?;
    world.a.config.rules = RULES[0];
    world.a.agent.rewrite(&world.a.config)?;
    may(&world, PERMITTED)?;
    world.a.config.rules = "outbound: { deny: [{ addresses: [10.78.0.0/24] }] }";
    world.a.agent.rewrite(&world.a.config)?;
    may(&world, EPERM)?;
    noted(&world.a, ("tcp", Some(to)), ("policy-denied", false, Some("rules/outbound.deny/1")))
}

/// The status says that it was met, whether it passed, why, and by which rule.
fn noted(
    node: &Node,
    (protocol, to): (&str, Option<SocketAddr>),
    (reason, passed, rule): (&str, bool, Option<&str>),
) -> Result<()> {
    let status = node.agent.report()?;
    let reports = status["plaintext"].as_array().context("no list of what is plaintext")?;
    let is_it = |report: &&serde_json::Value| {
        report["protocol"] == protocol
            && report["destination"].as_str().map(str::to_owned) == to.map(|to| to.to_string())
            && report["reason"] == reason
    };
    let report =
        reports.iter().find(is_it).with_context(|| format!("no {reason} for {protocol} {to:?}: {reports:?}"))?;
    ensure!(report["passed"] == passed && report["rule"].as_str() == rule, "{report}");
    ensure!(report["count"].as_u64() > Some(0), "{report}");
    Ok(())
}
