//! Rules: whom a workload talks with, and who may talk with it; decided at the end whose rule it is, before any key is
//! there, and recorded with the rule's name.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use enforcer_tests::ground::Route;
use enforcer_tests::peer::{self, Server};
use enforcer_tests::program;
use enforcer_tests::settings::kernel_has_tls;
use enforcer_tests::wait;
use enforcer_tests::world::{Node, Options, World};
use libtest_mimic::Trial;

use crate::control::dead;
use crate::direct::Conversation;
use crate::stage::{Company, marker, page_comes_sealed, promises};

/// `a` does not let `b` in. `b` would not let `a` in, if its rule were in force.
const INBOUND: [&str; 2] = [
    "inbound: { deny: [{ name: from-b, identities: ['spiffe://example.org/ns/default/sa/b'] }] }",
    "audit: true, inbound: { allow: [{ name: others, namespaces: [shop] }] }",
];
/// `a` talks with a partner alone; `b` has a rule that allows `a`.
const OUTBOUND: [&str; 2] = [
    "outbound: { allow: [{ name: partner, identities: ['spiffe://example.org/ns/default/sa/partner'] }] }",
    "outbound: { allow: [{ name: neighbours, identities: ['spiffe://example.org/ns/default/*'] }] }",
];

pub(crate) fn trials() -> Vec<Trial> {
    let (options, suffix) = usual();
    let inbound = promises![in Options { rules: INBOUND, ..options }, called suffix, Company::Others;
        whom_a_rule_of_the_server_denies_is_not_served,
        a_rule_under_audit_tells_and_lets_pass,
    ];
    let outbound = promises![in Options { rules: OUTBOUND, ..options }, called suffix, Company::Others;
        what_no_rule_of_the_client_allows_is_not_opened,
        what_a_rule_allows_is_opened,
    ];
    let changed = promises![beside others; changed_rules_are_in_force_at_once_and_end_what_they_refuse];
    inbound.into_iter().chain(outbound).chain(changed).collect()
}

fn usual() -> (Options, &'static str) {
    if kernel_has_tls() { (Options::DIRECT, " (direct)") } else { (Options::STRICT, "") }
}

fn whom_a_rule_of_the_server_denies_is_not_served(world: &World) -> Result<()> {
    for route in routes(world, "b") {
        let secret = marker();
        let nginx = program::nginx(route.server, &secret)?;
        let capture = world.ground.watch_mesh()?;
        program::curl(route.client, nginx.at(route.target))?.finish()?.failure().with_context(|| route.to_string())?;
        capture.stop()?.prove_absent(&secret)?;
    }
    recorded(&world.a, "policy-denied", "rules/inbound.deny/from-b")
}

fn a_rule_under_audit_tells_and_lets_pass(world: &World) -> Result<()> {
    page_comes(world, "a")?;
    recorded(&world.b, "would-refuse", "rules/inbound.allow")
}

fn what_no_rule_of_the_client_allows_is_not_opened(world: &World) -> Result<()> {
    for route in routes(world, "a") {
        let nginx = program::nginx(route.server, &marker())?;
        program::curl(route.client, nginx.at(route.target))?.finish()?.failure().with_context(|| route.to_string())?;
    }
    recorded(&world.a, "policy-not-allowed", "rules/outbound.allow")
}

fn what_a_rule_allows_is_opened(world: &World) -> Result<()> {
    page_comes(world, "b")?;
    let route = routes(world, "b").next().context("no way from b")?;
    let server = Server::start(route.server, &["banner", "--text", "hello"])?;
    let _client = peer::start(route.client, server.at(route.target), &["read"])?;
    wait::until("the connection and its rule", wait::patience(), || {
        let open = world.b.agent.connections()?;
        let open = open.as_array().context("no list")?;
        Ok(open.iter().any(|open| open["rule"] == "rules/outbound.allow/neighbours").then_some(()))
    })
}

/// The ways on which this node's workload is the client.
fn routes<'a>(world: &'a World, client: &str) -> impl Iterator<Item = Route<'a>> {
    let place = if client == "a" { &world.ground.a } else { &world.ground.b };
    world.ground.routes().into_iter().filter(move |route| std::ptr::eq(route.client, place))
}

fn page_comes(world: &World, client: &str) -> Result<()> {
    routes(world, client).try_for_each(|route| page_comes_sealed(world, route).with_context(|| route.to_string()))
}

/// A line of the node's access log has the reason and the name of the rule.
fn recorded(node: &Node, reason: &str, rule: &str) -> Result<()> {
    wait::until(&format!("a record with `{reason}` and `{rule}`"), wait::patience(), || {
        let log = node.agent.log();
        Ok(log.lines().any(|line| line.contains(reason) && line.contains(&format!("\"{rule}\""))).then_some(()))
    })
}

fn changed_rules_are_in_force_at_once_and_end_what_they_refuse() -> Result<()> {
    let mut world = World::create(usual().0)?;
    let (redis, target) = (program::redis(&world.ground.b)?, world.ground.routes()[0].target);
    let mut conversation = Conversation::start(&world.ground.a, &redis, target)?;
    // A mistake: what was in force still is.
    change(&mut world.b, "inbound: { deny: [{ adresses: [0.0.0.0/0] }] }")?;
    let is_said = |node: &Node| Ok::<_, anyhow::Error>(node.agent.status()?.contains("did you mean \"addresses\"?"));
    wait::until("the mistake in the status", wait::patience(), || Ok(is_said(&world.b)?.then_some(())))?;
    conversation.ask("PING", "PONG")?;

    let changed = Instant::now();
    change(&mut world.b, "inbound: { deny: [{ name: everybody, addresses: [0.0.0.0/0, '::/0'] }] }")?;
    world.explain(dead(&world, redis.port, changed))?;
    ensure!(!is_said(&world.b)?, "the mistake is mended, and still said");
    let refused = program::redis_cli(&world.ground.a, redis.at(target), &["PING"]);
    ensure!(refused.is_err(), "a new connection was let in: {refused:?}");
    let metrics = world.b.agent.metrics()?;
    ensure!(metrics.contains("end=\"policy-changed\""), "no connection ended for it:\n{metrics}");

    change(&mut world.b, "")?;
    wait::until("a connection without rules", wait::patience(), || {
        let answer = program::redis_cli(&world.ground.a, redis.at(target), &["PING"]);
        Ok(answer.is_ok_and(|answer| answer.contains("PONG")).then_some(()))
    })
}

fn change(node: &mut Node, rules: &'static str) -> Result<()> {
    node.config.rules = rules;
    node.agent.rewrite(&node.config)
}
