//! Peers come and go, and become others.

use std::time::Instant;

use anyhow::{Result, ensure};
use enforcer_tests::agent::free_address;
use enforcer_tests::config::Speaks;
use enforcer_tests::ground::A;
use enforcer_tests::program;
use enforcer_tests::settings::kernel_has_tls;
use enforcer_tests::wait;
use enforcer_tests::world::{Options, World};
use libtest_mimic::Trial;

use super::{ended_by_change, no_page_comes_from, pages_come_from, put_in_force, usual};
use crate::control::dead;
use crate::direct::Conversation;
use crate::stage::{marker, promises};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = promises![beside others;
        a_peer_that_is_removed_is_talked_to_no_more_until_it_is_back,
        a_peer_that_is_to_be_another_is_talked_to_no_more_until_it_is_the_same_again,
        a_peer_that_is_said_to_have_no_tls_is_talked_to_no_more,
    ];
    if kernel_has_tls() {
        trials.extend(promises![beside others;
            a_peer_whose_agent_has_moved_keeps_its_connections,
            a_relay_that_was_refused_offers_its_connections_as_soon_as_it_is_registered,
        ]);
    }
    trials
}

fn a_peer_that_is_removed_is_talked_to_no_more_until_it_is_back() -> Result<()> {
    let mut world = World::create(usual())?;
    let (redis, target) = (program::redis(&world.ground.b)?, world.ground.routes()[0].target);
    let _conversation = Conversation::start(&world.ground.a, &redis, target)?;
    let registered = world.b.config.peers.clone();
    let changed = Instant::now();
    put_in_force(&mut world.b, |config| config.peers.clear())?;
    world.explain(dead(&world, redis.port, changed))?;
    ended_by_change(&world.b)?;
    world.explain(no_page_comes_from(&world, "a"))?;
    put_in_force(&mut world.b, |config| config.peers = registered)?;
    world.explain(pages_come_from(&world, "a"))?;
    world.explain(pages_come_from(&world, "b"))
}

fn a_peer_that_is_to_be_another_is_talked_to_no_more_until_it_is_the_same_again() -> Result<()> {
    let mut world = World::create(usual())?;
    let (redis, target) = (program::redis(&world.ground.b)?, world.ground.routes()[0].target);
    let mut conversation = Conversation::start(&world.ground.a, &redis, target)?;
    put_in_force(&mut world.a, |config| config.peers.retain(|peer| peer.account != "legacy"))?;
    conversation.ask("PING", "PONG")?;
    let changed = Instant::now();
    put_in_force(&mut world.a, |config| config.peers[0].account = "someone-new")?;
    world.explain(dead(&world, redis.port, changed))?;
    ended_by_change(&world.a)?;
    world.explain(no_page_comes_from(&world, "a"))?;
    put_in_force(&mut world.a, |config| config.peers[0].account = "b")?;
    world.explain(pages_come_from(&world, "a"))
}

fn a_peer_that_is_said_to_have_no_tls_is_talked_to_no_more() -> Result<()> {
    let mut world = World::create(usual())?;
    let (redis, target) = (program::redis(&world.ground.b)?, world.ground.routes()[0].target);
    let _conversation = Conversation::start(&world.ground.a, &redis, target)?;
    let agent = world.a.config.peers[0].agent;
    let changed = Instant::now();
    put_in_force(&mut world.a, |config| (config.peers[0].speaks, config.peers[0].agent) = (Speaks::Plaintext, None))?;
    world.explain(dead(&world, redis.port, changed))?;
    world.explain(no_page_comes_from(&world, "a"))?;
    put_in_force(&mut world.a, |config| (config.peers[0].speaks, config.peers[0].agent) = (Speaks::Enforcer, agent))?;
    world.explain(pages_come_from(&world, "a"))
}

fn a_peer_whose_agent_has_moved_keeps_its_connections() -> Result<()> {
    let mut world = World::create(usual())?;
    let (redis, target) = (program::redis(&world.ground.b)?, world.ground.routes()[0].target);
    let mut conversation = Conversation::start(&world.ground.a, &redis, target)?;
    let (agent, elsewhere) = (world.a.config.peers[0].agent, free_address()?);
    put_in_force(&mut world.a, |config| config.peers[0].agent = Some(elsewhere))?;
    conversation.ask("PING", "PONG")?;
    // Nobody is there, so the next connection waits; it is where it was sought that counts.
    let waiting = program::curl(&world.ground.a, redis.at(target))?;
    let sought = format!("agent={elsewhere}");
    wait::until("a look for the agent where it is now", wait::patience(), || {
        Ok(world.a.agent.log().contains(&sought).then_some(()))
    })?;
    put_in_force(&mut world.a, |config| config.peers[0].agent = agent)?;
    drop(waiting);
    conversation.ask("PING", "PONG")?;
    ensure!(agent != Some(elsewhere), "it has not moved");
    world.explain(pages_come_from(&world, "a"))
}

/// From one moment to the next the other agent takes by offers alone what it has refused.
fn a_relay_that_was_refused_offers_its_connections_as_soon_as_it_is_registered() -> Result<()> {
    let mut world = World::create(Options::MIXED)?;
    let nginx = program::nginx(&world.ground.a, &marker())?;
    let registered = world.a.config.peers.clone();
    // Others of the same agent are left, so that there is somebody who refuses.
    put_in_force(&mut world.a, |config| config.peers.retain(|peer| peer.account != "b"))?;
    // It shall not remember how the other one took its connections.
    world.b.agent.kill()?;
    world.b.agent.restart()?;
    let get = |world: &World| program::curl(&world.ground.b, nginx.at(A[0]))?.finish();
    world.explain(get(&world)?.failure().map(drop))?;
    let ended = "end=\"peer-refused\"";
    ensure!(world.b.agent.log().contains(ended), "not ended with {ended}:\n{}", world.b.agent.log());
    put_in_force(&mut world.a, |config| config.peers = registered)?;
    let page = get(&world)?.success().map(drop);
    world.explain(page)
}
