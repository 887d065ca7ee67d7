//! Workloads come and go.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use enforcer_tests::config::{Config, Workload};
use enforcer_tests::ground::Ground;
use enforcer_tests::leaks::{connection_entries, enrolment_entries, pins};
use enforcer_tests::netns::Namespace;
use enforcer_tests::program;
use enforcer_tests::wait;
use enforcer_tests::world::{Node, World};
use libtest_mimic::Trial;

use super::{ended_by_change, entries, no_page_comes_from, pages_come_from, put_in_force, usual};
use crate::control::dead;
use crate::direct::Conversation;
use crate::stage::promises;

pub(crate) fn trials() -> Vec<Trial> {
    promises![beside others;
        a_workload_is_enrolled_and_let_go_while_the_agent_runs,
        a_workload_that_is_to_be_another_has_no_connections_of_the_old_one,
        of_fifty_workloads_only_what_has_changed_is_written,
    ]
}

fn a_workload_is_enrolled_and_let_go_while_the_agent_runs() -> Result<()> {
    let mut world = world_where_b_is_not_enrolled()?;
    world.explain(no_page_comes_from(&world, "a"))?;
    // The second time nothing is there for the first time.
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(Holdings::of(&world.b, world.ground.b.namespace.as_ref())?);
        put_in_force(&mut world.b, |config| config.is_enrolled = true)?;
        world.explain(pages_come_from(&world, "a"))?;
        world.explain(pages_come_from(&world, "b"))?;
        let redis = program::redis(&world.ground.b)?;
        let _conversation = Conversation::start(&world.ground.a, &redis, world.ground.routes()[0].target)?;
        let changed = Instant::now();
        put_in_force(&mut world.b, |config| config.is_enrolled = false)?;
        world.explain(dead(&world, redis.port, changed))?;
        ended_by_change(&world.b)?;
        let status = world.b.agent.report()?;
        ensure!(status["workloads"].as_array().is_some_and(Vec::is_empty), "it is still enrolled: {status}");
        world.explain(no_page_comes_from(&world, "a"))?;
    }
    let before = held.pop().context("nothing was counted")?;
    let now = || Holdings::of(&world.b, world.ground.b.namespace.as_ref());
    wait::until("everything to be as before", wait::patience(), || Ok(now()?.is_no_more_than(&before).then_some(())))
        .with_context(|| format!("before: {before:#?}\nnow: {:#?}", now()))
}

/// The agent of `b` runs, and has nobody to look after.
fn world_where_b_is_not_enrolled() -> Result<World> {
    World::arranged(Ground::create()?, usual(), None, |_a, b| b.is_enrolled = false)
}

/// What an agent has put into the kernel for workloads, and what it holds itself.
#[derive(Debug)]
struct Holdings {
    pins: Vec<String>,
    entries: usize,
    files: Vec<String>,
    /// What [`GATE`] is in the workload's namespace.
    gate: String,
}

/// Shut, it is 0.
const GATE: &str = "/proc/sys/net/ipv4/tcp_notsent_lowat";

impl Holdings {
    fn of(node: &Node, namespace: Option<&Namespace>) -> Result<Holdings> {
        let namespace = namespace.context("workloads run in namespaces")?;
        Ok(Holdings {
            pins: pins(&node.config.bpf)?,
            entries: enrolment_entries(&node.config.bpf)? + connection_entries(&node.config.bpf)?,
            files: node.agent.files()?,
            gate: namespace.run(|| fs::read_to_string(GATE).context("read the write gate of the namespace"))?,
        })
    }

    /// A file that was still being closed when it was counted does not count.
    fn is_no_more_than(&self, before: &Holdings) -> bool {
        let in_kernel = |held: &Holdings| (held.pins.clone(), held.entries, held.gate.clone());
        in_kernel(self) == in_kernel(before) && self.files.len() <= before.files.len()
    }
}

fn a_workload_that_is_to_be_another_has_no_connections_of_the_old_one() -> Result<()> {
    let mut world = World::create(usual())?;
    let (redis, target) = (program::redis(&world.ground.b)?, world.ground.routes()[0].target);
    let _conversation = Conversation::start(&world.ground.a, &redis, target)?;
    let changed = Instant::now();
    put_in_force(&mut world.b, |config| {
        let (account, ports) = ("someone-new".to_owned(), Vec::new());
        let (cgroup, network) = (config.cgroup.clone(), config.network.clone());
        (config.is_enrolled, config.workloads) = (false, vec![Workload { account, cgroup, network, ports }]);
    })?;
    world.explain(dead(&world, redis.port, changed))?;
    ended_by_change(&world.b)?;
    // The other node still expects the old one.
    world.explain(no_page_comes_from(&world, "a"))?;
    put_in_force(&mut world.a, |config| config.peers[0].account = "someone-new")?;
    world.explain(pages_come_from(&world, "a"))
}

/// From the change of the file until it is in force.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(1);

fn of_fifty_workloads_only_what_has_changed_is_written() -> Result<()> {
    const WORKLOADS: u16 = 50;
    let mut world = World::create(usual())?;
    let crowd = crowd(&world, WORKLOADS)?;
    let (redis, target) = (program::redis(&world.ground.b)?, world.ground.routes()[0].target);
    let mut conversation = Conversation::start(&world.ground.a, &redis, target)?;
    let mut change = |change: &dyn Fn(&mut Config)| -> Result<(usize, Duration)> {
        let changed = Instant::now();
        put_in_force(&mut world.a, change)?;
        let took = changed.elapsed();
        Ok((*entries(&world.a).last().context("nothing was written")?, took))
    };
    // Each workload has an entry of its own, and one for its port; their namespace has one for all other ports.
    let (all, _) = change(&|config| config.workloads = crowd.clone())?;
    ensure!(all == usize::from(2 * WORKLOADS + 1), "{all} entries were written");
    type Edit<'a> = &'a dyn Fn(&mut Config);
    let edits: [(&str, Edit<'_>, usize); 7] = [
        ("one workload less", &|config| drop(config.workloads.pop()), 2),
        ("one is back", &|config| config.workloads = crowd.clone(), 2),
        ("another port", &|config| config.workloads[7].ports = vec![29_999], 2),
        // What `deny` refuses outside the mesh is looked up by programs, for each of the workloads and for `a`.
        ("other rules", &|config| config.rules = "outbound: { deny: [{ ports: [9] }] }", usize::from(WORKLOADS) + 1),
        (
            "rules for peers",
            &|config| config.rules = "inbound: { deny: [{ namespaces: [shop] }] }",
            usize::from(WORKLOADS) + 1,
        ),
        ("other rules for peers", &|config| config.rules = "inbound: { deny: [{ namespaces: [other] }] }", 0),
        ("another identity", &|config| config.workloads[8].account = "new".to_owned(), 0),
    ];
    for (what, edit, expected) in edits {
        let (written, took) = change(edit)?;
        ensure!(written == expected, "{what}: {written} entries were written");
        ensure!(took <= wait::bound(IN_FORCE_WITHIN), "{what}: it took {took:?}");
    }
    conversation.ask("PING", "PONG")
}

/// Workloads of node `a` that share a namespace, each with a port of its own.
fn crowd(world: &World, count: u16) -> Result<Vec<Workload>> {
    let namespace = world.ground.outside.namespace.as_ref().context("workloads run in namespaces")?;
    let workload = |number| {
        let account = format!("crowd-{number}");
        let cgroup = world.ground.outside.cgroup.child(&account)?.path().to_owned();
        Ok(Workload { account, cgroup, network: namespace.path(), ports: vec![29_000 + number] })
    };
    (0..count).map(workload).collect()
}
