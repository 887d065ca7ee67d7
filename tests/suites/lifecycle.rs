//! Agents die, stop, start again and are removed: nothing leaks, neither onto the wire nor into the kernel.

use anyhow::{Context, Result, ensure};
use enforcer_tests::agent::Agent;
use enforcer_tests::ground::Ground;
use enforcer_tests::leaks::{Existing, KernelObjects, connection_entries, pins, settles_at};
use enforcer_tests::program;
use enforcer_tests::settings::{Depth, direct_depth, is_quick};
use enforcer_tests::world::{Options, World};
use libtest_mimic::Trial;

use crate::stage::{marker, promises, sealed};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = promises![beside others;
        a_killed_agent_lets_nothing_through_until_it_is_back,
    ];
    if direct_depth() != Depth::Everyday {
        trials.extend(promises![beside others; a_stopped_agent_lets_nothing_through_until_it_is_back]);
    }
    // A start is of one kind whatever the path is, and twenty of them take long in an emulated processor.
    if is_quick() {
        trials.extend(promises![alone; twenty_starts_and_stops_leave_nothing_behind]);
    }
    trials.extend(promises![alone;
        uninstalling_leaves_nothing_behind_and_lets_plaintext_pass,
    ]);
    trials
}

fn a_killed_agent_lets_nothing_through_until_it_is_back() -> Result<()> {
    an_absent_agent_lets_nothing_through(Agent::kill)
}

fn a_stopped_agent_lets_nothing_through_until_it_is_back() -> Result<()> {
    an_absent_agent_lets_nothing_through(Agent::stop)
}

/// Takes the agent of node `a` away: nobody reaches that node and it reaches nobody, in the clear least of all.
fn an_absent_agent_lets_nothing_through(take_away: fn(&mut Agent) -> Result<()>) -> Result<()> {
    let mut world = World::create(Options::STRICT)?;
    world.explain(everything_works(&world.ground))?;
    take_away(&mut world.a.agent)?;
    world.explain(nothing_works(&world.ground))?;
    world.a.agent.restart()?;
    world.explain(everything_works(&world.ground))
}

fn twenty_starts_and_stops_leave_nothing_behind() -> Result<()> {
    const TIMES: usize = 20;
    let existing = Existing::list();
    let mut world = World::create(Options::STRICT)?;
    world.explain(everything_works(&world.ground))?;
    let before = Holdings::of(&world, &existing)?;
    for time in 1..=TIMES {
        world.a.agent.stop()?;
        world.a.agent.restart().with_context(|| format!("start {time}"))?;
    }
    world.explain(everything_works(&world.ground))?;
    settles_at(&before, || Holdings::of(&world, &existing))
}

fn uninstalling_leaves_nothing_behind_and_lets_plaintext_pass() -> Result<()> {
    let ground = Ground::create()?;
    let existing = Existing::list();
    let before = existing.others()?;
    let mut world = World::on(ground, Options::STRICT)?;
    world.explain(everything_works(&world.ground))?;
    for node in [&mut world.a, &mut world.b] {
        node.agent.stop()?;
        node.agent.uninstall()?;
        let left = if node.config.bpf.exists() { pins(&node.config.bpf)? } else { Vec::new() };
        ensure!(left.is_empty(), "pins are left: {left:?}");
    }
    settles_at(&before, || existing.others())?;
    plaintext_passes(&world.ground)
}

/// All that an agent and the kernel hold for it, beside what existed before.
#[derive(Debug, PartialEq, Eq)]
struct Holdings {
    kernel: KernelObjects,
    pins: Vec<String>,
    connection_entries: usize,
    open_files: usize,
}

impl Holdings {
    fn of(world: &World, existing: &Existing) -> Result<Holdings> {
        Ok(Holdings {
            kernel: existing.others()?,
            pins: pins(&world.a.config.bpf)?,
            connection_entries: connection_entries(&world.a.config.bpf)?,
            open_files: world.a.agent.open_files()?,
        })
    }
}

fn everything_works(ground: &Ground) -> Result<()> {
    for route in ground.routes() {
        let secret = marker();
        let nginx = program::nginx(route.server, &secret)?;
        sealed(ground, &secret, nginx.port, || {
            let page = program::curl(route.client, nginx.at(route.target))?.finish()?.success()?;
            ensure!(page == secret, "curl got `{page}`");
            Ok(())
        })
        .with_context(|| route.to_string())?;
    }
    Ok(())
}

fn nothing_works(ground: &Ground) -> Result<()> {
    for route in ground.routes() {
        let secret = marker();
        let nginx = program::nginx(route.server, &secret)?;
        let capture = ground.watch_mesh()?;
        let refused = program::curl(route.client, nginx.at(route.target))?.finish()?.failure();
        refused.with_context(|| format!("{route} without an agent"))?;
        capture.stop()?.prove_absent(&secret)?;
    }
    Ok(())
}

fn plaintext_passes(ground: &Ground) -> Result<()> {
    for route in ground.routes() {
        let secret = marker();
        let nginx = program::nginx(route.server, &secret)?;
        let capture = ground.watch_mesh()?;
        let page = program::curl(route.client, nginx.at(route.target))?.finish()?.success()?;
        ensure!(page == secret, "{route}: curl got `{page}`");
        ensure!(capture.stop()?.contains(&secret), "{route}: something still encrypts");
    }
    Ok(())
}
