//! A configuration is refused before anything is touched, with every mistake named, or it is kept to.

use std::fs;

use anyhow::{Context, Result, ensure};
use enforcer_tests::agent;
use enforcer_tests::config::Offload;
use enforcer_tests::ground::{A_EDGE, STRANGER};
use enforcer_tests::peer::{self, Server};
use enforcer_tests::process::Finished;
use enforcer_tests::program;
use enforcer_tests::settings::kernel_has_tls;
use enforcer_tests::wait;
use enforcer_tests::world::{Options, World};
use libtest_mimic::Trial;

use crate::stage::{in_world, marker, promises};

/// The exit code that `enforcer --help` documents.
const BAD_CONFIGURATION: i32 = 3;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = promises![in Options::STRICT; three_mistakes_are_all_named_with_their_lines];
    trials.extend(promises![beside others; only_the_listed_ports_are_guarded]);
    let options = Options { offload: Offload::On, ..Options::STRICT };
    trials.push(if kernel_has_tls() {
        in_world("suites::configuration::records_are_written_by_the_kernel_when_asked", options, kernel_writes_records)
    } else {
        let name =
            "suites::configuration::without_kernel_tls_records_are_written_in_user_space_and_the_status_says_why";
        in_world(name, options, kernel_cannot_write_records)
    });
    trials
}

fn three_mistakes_are_all_named_with_their_lines(world: &World) -> Result<()> {
    let text = world.a.config.to_string();
    let mistakes = [
        ("mode: strict", "mode: lenient"),
        ("identity: spiffe://example.org/ns/default/sa/partner", "identity: partner"),
        ("offload: auto", "offlaod: auto"),
    ];
    let mut wrong = text;
    for (right, mistake) in mistakes {
        ensure!(wrong.contains(right), "the configuration has no `{right}`");
        wrong = wrong.replace(right, mistake);
    }
    let file = world.ground.directory("three-mistakes.config");
    fs::write(&file, &wrong)?;
    let finished = agent::refuse_to_start(&file, &world.ground.host)?;
    ensure!(finished.status.code() == Some(BAD_CONFIGURATION), "the agent ended thus: {finished:?}");
    for (_, mistake) in mistakes {
        let line = 1 + wrong.lines().position(|line| line.contains(mistake)).context("the mistake is not there")?;
        let place = format!("{}:{line}:", file.display());
        ensure!(finished.stderr.contains(&place), "`{mistake}` is not named at {place}\n{}", finished.stderr);
    }
    Ok(())
}

fn only_the_listed_ports_are_guarded() -> Result<()> {
    // Below the ports that tests are given otherwise.
    const GUARDED: u16 = 19_000;
    let world = World::create(Options { ports: &[GUARDED], ..Options::STRICT })?;
    let secret = marker();
    let guarded = program::nginx_on(&world.ground.a, GUARDED, &secret)?;
    let open = program::nginx(&world.ground.a, &secret)?;
    for family in [0, 1] {
        let from_stranger = |to| program::curl_from(&world.ground.outside, STRANGER[family], to)?.finish();
        from_stranger(guarded.at(A_EDGE[family]))?.failure()?;
        let page = world.explain(from_stranger(open.at(A_EDGE[family])).and_then(Finished::success))?;
        ensure!(page == secret, "curl got `{page}`");
    }
    Ok(())
}

fn kernel_cannot_write_records(world: &World) -> Result<()> {
    for route in world.ground.routes() {
        let secret = marker();
        let server = program::nginx(route.server, &secret)?;
        let page = program::curl(route.client, server.at(route.target))?.finish().and_then(Finished::success);
        let page = world.explain(page)?;
        ensure!(page == secret, "{route}: curl got `{page}`");
    }
    for node in [&world.a, &world.b] {
        let status = node.agent.status()?;
        ensure!(status.contains("kernel-unable"), "the status does not say why:\n{status}");
    }
    Ok(())
}

/// `ss` shows what is layered on a socket; the port tells the agents' connection from all others.
fn kernel_writes_records(world: &World) -> Result<()> {
    for route in world.ground.routes() {
        let server = Server::start(route.server, &["banner", "--text", "hello"])?;
        let client = peer::start(route.client, server.at(route.target), &["read"])?;
        for place in [route.client, route.server] {
            let filter = format!("( sport = :{0} or dport = :{0} )", server.port);
            let what = format!("a socket with kernel TLS on {route}");
            wait::until(&what, wait::patience(), || {
                let sockets = place.run("ss", &["-tieH", "state", "established", &filter])?;
                Ok(sockets.contains("tcp-ulp-tls").then_some(()))
            })?;
        }
        drop(client);
    }
    Ok(())
}
