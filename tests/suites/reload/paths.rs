//! Another path is wanted: new connections take it, and old ones stay on theirs. Needs kernel TLS.

use anyhow::{Context, Result, ensure};
use enforcer_tests::config::Path;
use enforcer_tests::program;
use enforcer_tests::settings::kernel_has_tls;
use enforcer_tests::wait;
use enforcer_tests::world::{Node, Options, World};
use libtest_mimic::Trial;

use super::{pages_come_from, put_in_force};
use crate::direct::Conversation;
use crate::stage::promises;

pub(crate) fn trials() -> Vec<Trial> {
    if !kernel_has_tls() {
        return Vec::new();
    }
    promises![beside others; new_connections_take_the_path_that_is_wanted_and_old_ones_stay_on_theirs]
}

fn new_connections_take_the_path_that_is_wanted_and_old_ones_stay_on_theirs() -> Result<()> {
    let mut world = World::create(Options::STRICT)?;
    let (redis, target) = (program::redis(&world.ground.b)?, world.ground.routes()[0].target);
    let mut conversations = vec![Conversation::start(&world.ground.a, &redis, target)?];
    let mut paths = vec!["relay"];
    paths_are(&world.b, redis.port, &paths)?;
    for (wanted, path) in [(Path::Direct, "direct"), (Path::Relay, "relay"), (Path::Direct, "direct")] {
        // The ends need not agree, and between both changes they do not.
        put_in_force(&mut world.b, |config| config.path = wanted)?;
        world.explain(pages_come_from(&world, "a"))?;
        world.explain(pages_come_from(&world, "b"))?;
        put_in_force(&mut world.a, |config| config.path = wanted)?;
        world.explain(pages_come_from(&world, "a"))?;
        world.explain(pages_come_from(&world, "b"))?;
        conversations.push(Conversation::start(&world.ground.a, &redis, target)?);
        paths.push(path);
        paths_are(&world.b, redis.port, &paths)?;
        paths_are(&world.a, redis.port, &paths)?;
        conversations.iter_mut().try_for_each(|conversation| conversation.ask("PING", "PONG"))?;
    }
    ensure!(!world.a.agent.metrics()?.contains("end=\"policy-changed\""), "a connection was ended for its path");
    Ok(())
}

/// The open connections of a node to this port are on these paths, in the order in which they were opened.
fn paths_are(node: &Node, port: u16, expected: &[&str]) -> Result<()> {
    let paths = || -> Result<Vec<String>> {
        let open = node.agent.connections()?;
        let mut open = open.as_array().context("no list")?.clone();
        let is_meant = |open: &serde_json::Value| {
            open["destination"].as_str().is_some_and(|destination| destination.ends_with(&format!(":{port}")))
        };
        open.retain(is_meant);
        open.sort_by_key(|open| open["id"].as_u64());
        Ok(open.iter().filter_map(|open| open["path"].as_str().map(str::to_owned)).collect())
    };
    wait::until("the paths", wait::patience(), || Ok((paths()? == expected).then_some(())))
        .with_context(|| format!("expected {expected:?}, found {:?}", paths()))
}
