//! The programs hold the line by themselves: before there is an agent, and when what they look up is not there.

mod broken;

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use enforcer_tests::config::identity;
use enforcer_tests::ground::{B, Ground, STRANGER};
use enforcer_tests::peer::reach;
use enforcer_tests::place::Place;
use enforcer_tests::program;
use enforcer_tests::settings::kernel_has_tls;
use enforcer_tests::wait;
use enforcer_tests::world::{Options, World};
use libtest_mimic::Trial;

use crate::stage::{marker, pages_come_sealed, promises};

const EPERM: i64 = libc::EPERM as i64;

pub(crate) fn trials() -> Vec<Trial> {
    let guard = promises![beside others;
        a_guarded_workload_has_no_socket_before_there_is_an_agent,
        below_a_guarded_cgroup_only_workloads_have_sockets,
        a_workload_whose_cgroup_is_made_anew_is_shut_and_enrolled_again,
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
    let guarded = stranger.cgroup.path().parent().map(Path::to_owned);
    let world = World::arranged(ground, usual(), None, |a, _b| a.guard = guarded)?;
    world.explain(pages_come_sealed(&world))?;
    refused(&stranger, "a process that no workload has")?;
    // One whose cgroup is made while the agent runs.
    refused(&world.ground.beside_a("guarded/later")?, "a cgroup that came later")
}

/// As a service that is started again.
fn a_workload_whose_cgroup_is_made_anew_is_shut_and_enrolled_again() -> Result<()> {
    let ground = Ground::create()?;
    let service = ground.beside_a("guarded/service")?;
    let guarded = service.cgroup.path().parent().map(Path::to_owned);
    let objects = format!(
        "---\nkind: Workload\nmetadata: {{ name: service }}\nspec: {{ identity: '{}', cgroup: {}, network: {{ path: {} }}, \
         ports: [2] }}\n",
        identity("a"),
        service.cgroup.path().display(),
        service.namespace.as_ref().context("no namespace")?.path().display(),
    );
    let world = World::arranged(ground, usual(), None, |a, _b| {
        (a.guard, a.more, a.ports) = (guarded, objects, vec![1]);
    })?;
    let secret = marker();
    let nginx = program::nginx(&world.ground.b, &secret)?;
    for _ in 0..5 {
        let capture = world.ground.watch_mesh()?;
        wait::until("the workload to be enrolled", wait::patience(), || {
            let page = program::curl(&service, nginx.at(B[0]))?.finish()?;
            Ok((page.stdout == secret).then_some(()))
        })?;
        ensure!(reach(&service, &attempts()[2..])? == [EPERM; 2], "what a workload may not");
        service.cgroup.kill()?;
        service.cgroup.remove()?;
        service.cgroup.clone().create()?;
        // Enrolled already or not.
        ensure!(reach(&service, &attempts()[2..])? == [EPERM; 2], "what a workload may not");
        capture.stop()?.prove_absent(&secret)?;
    }
    Ok(())
}
