//! `enforcer policy impact`: what another configuration would refuse of what was there, and of nothing else; while nothing
//! is put in force.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use enforcer_tests::config::{Config, identity};
use enforcer_tests::ground::{A, B, STRANGER};
use enforcer_tests::process::Finished;
use enforcer_tests::program::{self, Server};
use enforcer_tests::settings::{enforcer_binary, kernel_has_tls};
use enforcer_tests::wait;
use enforcer_tests::world::{Options, World};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::direct::Conversation;
use crate::stage::{beside_others, marker};

/// The exit codes that `enforcer --help` documents.
const OK: i32 = 0;
const FAILED: i32 = 1;
const BAD_CONFIGURATION: i32 = 3;
const UNREACHABLE: i32 = 5;

/// `a` may reach the stranger; nothing is said of `b`.
const RULES: &str = "outbound: { plaintext: [{ name: stranger, addresses: [10.78.0.4, 'fd78::4'] }] }";
/// The same, and `a` does not let `b` in.
const SHUT: &str = "inbound: { deny: [{ name: b, identities: ['spiffe://example.org/ns/default/sa/b'] }] }, \
                    outbound: { plaintext: [{ addresses: [10.78.0.4, 'fd78::4'] }] }";
/// The same, and does not go to one of its addresses.
const APART: &str = "inbound: { deny: [{ name: b, namespaces: [default] }] }, outbound: { deny: [{ addresses: ['fd77::2'] }], \
                     plaintext: [{ addresses: [10.78.0.4, 'fd78::4'] }] }";

pub(crate) fn trials() -> Vec<Trial> {
    let name = "suites::impact::what_was_there_is_judged_by_what_could_be_in_force";
    vec![beside_others(name, what_was_there_is_judged_by_what_could_be_in_force)]
}

fn what_was_there_is_judged_by_what_could_be_in_force() -> Result<()> {
    let usual = if kernel_has_tls() { Options::DIRECT } else { Options::STRICT };
    let mut world = World::create(Options { rules: [RULES, ""], ..usual })?;
    let (a, b, outside) = (&world.ground.a, &world.ground.b, &world.ground.outside);
    let programs = Programs {
        site: program::nginx(b, &marker())?,
        store: program::redis(a)?,
        shop: program::nginx(outside, &marker())?,
        ledger: program::redis(outside)?,
    };
    let Programs { site, store, shop, ledger } = &programs;
    for to in [site.at(B[0]), site.at(B[0]), site.at(B[1]), shop.at(STRANGER[0]), shop.at(STRANGER[0])] {
        program::curl(a, to)?.finish()?.success()?;
    }
    let mut inside = Conversation::start(b, store, A[0])?;
    let mut beyond = Conversation::start(a, ledger, STRANGER[0])?;

    world.explain(each_rule_has_its_impact(&world, &programs))?;
    world.explain(what_cannot_be_judged_is_said(&world))?;
    // All of it was only asked.
    inside.ask("PING", "PONG")?;
    beyond.ask("PING", "PONG")?;
    world.a.agent.stop()?;
    impact(&world, &world.a.config, UNREACHABLE).map(drop)
}

/// Three connections to `site` have ended, one of them to another address; one from `b` to `store` is open. To the stranger
/// two to `shop` have ended, and one to `ledger` is open.
struct Programs {
    site: Server,
    store: Server,
    shop: Server,
    ledger: Server,
}

fn each_rule_has_its_impact(world: &World, Programs { site, store, shop, ledger }: &Programs) -> Result<()> {
    wait::until("all ends to be known, and nothing else", wait::patience(), || {
        let impact = impact(world, &world.a.config, OK)?;
        Ok((impact["unchanged"] == json!({ "pairs": 4, "connections": 7, "open": 2 })).then_some(()))
    })
    .with_context(|| format!("{:#?}", impact(world, &world.a.config, OK)))?;
    let refused = |direction, other: &str, (server, connections, open): (&Server, u32, u32), why| {
        json!([direction, other, server.port, connections, open, why])
    };
    let (b, stranger) = (identity("b"), STRANGER[0].to_string());
    let let_in = refused("inbound", &b, (store, 1, 1), "rules/inbound.deny/b");
    let visited = refused("outbound", &b, (site, 1, 0), "rules/outbound.deny/1");
    let bought = refused("outbound", &stranger, (shop, 2, 0), "egress-refused");
    let booked = refused("outbound", &stranger, (ledger, 1, 1), "egress-refused");
    for (rules, expected) in [(SHUT, vec![let_in.clone()]), (APART, vec![visited, let_in]), ("", vec![bought, booked])]
    {
        let impact = impact(world, &Config { rules, ..world.a.config.clone() }, FAILED)?;
        let found: Vec<Value> = refused_by(&impact).map(told).collect();
        let are_these = found.len() == expected.len() && expected.iter().all(|pair| found.contains(pair));
        ensure!(are_these, "found {found:?}, expected {expected:?} under `{rules}`");
    }
    Ok(())
}

fn refused_by(impact: &Value) -> impl Iterator<Item = &Value> {
    impact["pairs"].as_array().into_iter().flatten().filter(|pair| pair["change"] == "refused")
}

fn told(pair: &Value) -> Value {
    let then = &pair["then"];
    let why = if then["rule"].is_null() { &then["reason"] } else { &then["rule"] };
    json!([pair["direction"], pair["other"], pair["port"], pair["connections"], pair["open"], why])
}

fn what_cannot_be_judged_is_said(world: &World) -> Result<()> {
    let (file, text) = (world.ground.directory("mistaken.yaml"), world.a.config.to_string());
    fs::write(&file, text.replace("mode: strict", "mode: lenient"))?;
    let line = 1 + text.lines().position(|line| line.contains("mode: strict")).context("no mode")?;
    let said = ask(world, &file, BAD_CONFIGURATION)?.stderr;
    ensure!(said.contains(&format!("{}:{line}:", file.display())), "it said {said}");
    // That of the other node, asked of this one.
    fs::write(
        &file,
        world.b.config.to_string().replace(&world.b.config.admin.to_string(), &world.a.config.admin.to_string()),
    )?;
    let said = ask(world, &file, BAD_CONFIGURATION)?.stderr;
    ensure!(said.contains("the configuration of node node-b, and the agent is that of node-a"), "it said {said}");
    // For people.
    fs::write(&file, Config { rules: SHUT, ..world.a.config.clone() }.to_string())?;
    let finished = world.ground.host.start(enforcer_binary()?, &["policy", "impact", text_of(&file)?])?.finish()?;
    let first = "Would be refused:\n\nSOURCE ";
    ensure!(
        finished.stdout.starts_with(first)
            && finished.stdout.contains("\nwould be refused                 1      1            1\n"),
        "{finished:?}"
    );
    Ok(())
}

/// What would become of it, asked of `a`.
fn impact(world: &World, next: &Config, code: i32) -> Result<Value> {
    let file = world.ground.directory("next.yaml");
    fs::write(&file, next.to_string())?;
    let stdout = ask(world, &file, code)?.stdout;
    if code == UNREACHABLE { Ok(Value::Null) } else { stdout.parse().with_context(|| format!("it printed {stdout}")) }
}

fn ask(world: &World, file: &Path, code: i32) -> Result<Finished> {
    let arguments = ["policy", "impact", text_of(file)?, "--json"];
    let finished = world.ground.host.start(enforcer_binary()?, &arguments)?.finish()?;
    ensure!(finished.status.code() == Some(code), "it did not end with {code}: {finished:?}");
    Ok(finished)
}

fn text_of(file: &Path) -> Result<&str> {
    file.to_str().context("a path that is text")
}
