//! The programs hold the line by themselves: before there is an agent, and when what they look up is not there.

mod broken;

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use enforcer_tests::ground::{B, Ground, STRANGER};
use enforcer_tests::peer::reach;
use enforcer_tests::place::Place;
use enforcer_tests::settings::kernel_has_tls;
use enforcer_tests::world::{Options, World};
use libtest_mimic::Trial;

use crate::stage::{pages_come_sealed, promises};

const EPERM: i64 = libc::EPERM as i64;

pub(crate) fn trials() -> Vec<Trial> {
    let guard = promises![beside others;
        a_guarded_workload_has_no_socket_before_there_is_an_agent,
        below_a_guarded_cgroup_only_workloads_have_sockets,
    ];
    guard.into_iter().chain(broken::trials()).collect()
}

fn usual() -> Options {
    if kernel_has_tls() { Options::DIRECT } else { Options::STRICT }
}

/// Sockets of every kind, and where they would go.
fn attempts() -> [(&'static str, SocketAddr); 4] {
    let (peer, stranger) = (SocketAddr::new(B[0], 4), SocketAddr::new(STRANGER[0], 4));
    [("tcp", peer), ("udp", peer), ("tcp", stranger), ("raw", stranger)]
}

fn refused(place: &Place, who: &str) -> Result<()> {
    let outcomes = reach(place, &attempts())?;
    ensure!(outcomes == [EPERM; 4], "{who}: {outcomes:?}");
    Ok(())
}

fn a_guarded_workload_has_no_socket_before_there_is_an_agent() -> Result<()> {
    let mut world = World::create(usual())?;
    world.explain(pages_come_sealed(&world))?;
    // As when the machine starts: nothing of an agent is in the kernel.
    world.a.agent.stop()?;
    world.a.agent.uninstall()?;
    world.a.agent.guard()?;
    refused(&world.ground.a, "before the agent")?;
    // Again is no harm, not even while an agent runs.
    world.a.agent.guard()?;
    refused(&world.ground.a, "before the agent")?;
    world.a.agent.restart()?;
    world.explain(pages_come_sealed(&world))?;
    world.a.agent.guard()?;
    world.explain(pages_come_sealed(&world))?;
    // And what is enrolled stays enrolled, when there is no agent.
    world.a.agent.kill()?;
    world.a.agent.guard()?;
    let outcomes = reach(&world.ground.a, &[("udp", SocketAddr::new(STRANGER[0], 4)), ("udp", loopback())])?;
    ensure!(outcomes == [EPERM, 0], "without the agent: {outcomes:?}");
    Ok(())
}

fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 4).into()
}

fn below_a_guarded_cgroup_only_workloads_have_sockets() -> Result<()> {
    let ground = Ground::create()?;
    let stranger = ground.beside_a("guarded/stranger")?;
    let guarded = stranger.cgroup.path().parent().map(std::path::Path::to_owned);
    let world = World::arranged(ground, usual(), None, |a, _b| a.guard = guarded)?;
    world.explain(pages_come_sealed(&world))?;
    refused(&stranger, "a process that no workload has")?;
    // One whose cgroup is made while the agent runs.
    refused(&world.ground.beside_a("guarded/later")?, "a cgroup that came later")
}
