//! What cannot be in force leaves everything as it was, and is said until it is mended.

use anyhow::{Context, Result, ensure};
use enforcer_tests::config::{Config, Workload};
use enforcer_tests::ground::Ground;
use enforcer_tests::leaks::{WorkloadTable, enrolment_entries, pins};
use enforcer_tests::program;
use enforcer_tests::wait;
use enforcer_tests::world::{Node, World};
use libtest_mimic::Trial;

use super::{changes, no_page_comes_from, pages_come_from, put_in_force, usual};
use crate::direct::Conversation;
use crate::stage::promises;

pub(crate) fn trials() -> Vec<Trial> {
    promises![beside others;
        a_file_that_names_what_is_not_there_changes_nothing_and_is_told_of,
        a_change_for_which_the_kernel_has_no_room_changes_nothing_and_is_told_of,
        a_change_of_the_node_waits_for_the_next_start_with_all_that_is_beside_it,
    ]
}

fn a_file_that_names_what_is_not_there_changes_nothing_and_is_told_of() -> Result<()> {
    let mut world = World::create(usual())?;
    let (redis, target) = (program::redis(&world.ground.b)?, world.ground.routes()[0].target);
    let mut conversation = Conversation::start(&world.ground.a, &redis, target)?;
    let (before, good) = (Kept::of(&world.b)?, world.b.config.clone());
    let cgroup = world.ground.outside.cgroup.path().join("missing");
    let workload = Workload { account: "late".into(), cgroup, network: good.network.clone(), ports: vec![29_000] };
    // A good change beside it, which must not be in force either.
    world.b.config.peers.clear();
    world.b.config.ports = vec![redis.port];
    world.b.config.workloads = vec![workload];
    world.b.agent.rewrite(&world.b.config)?;
    is_said(&world.b, "/missing\\\" cannot be opened")?;
    before.are_all_there_is(&world.b)?;
    conversation.ask("PING", "PONG")?;
    world.explain(pages_come_from(&world, "a"))?;
    put_in_force(&mut world.b, |config| *config = with_other_rules(good))?;
    nothing_is_said(&world.b)?;
    conversation.ask("PING", "PONG")?;
    world.explain(pages_come_from(&world, "a"))
}

fn with_other_rules(mut config: Config) -> Config {
    config.rules = "inbound: { deny: [{ ports: [9] }] }";
    config
}

/// The last step of an enrolment fails, when programs and gates are in place.
fn a_change_for_which_the_kernel_has_no_room_changes_nothing_and_is_told_of() -> Result<()> {
    let mut world = World::arranged(Ground::create()?, usual(), None, |_a, b| b.is_enrolled = false)?;
    // Once before, so that nothing is there for the first time.
    put_in_force(&mut world.b, |config| config.is_enrolled = true)?;
    put_in_force(&mut world.b, |config| config.is_enrolled = false)?;
    let (before, seen) = (Kept::of(&world.b)?, changes(&world.b));
    let mut table = WorkloadTable::open(&world.b.config.bpf)?;
    table.fill();
    world.b.config.is_enrolled = true;
    world.b.agent.rewrite(&world.b.config)?;
    is_said(&world.b, "insert in eBPF map WORKLOADS")?;
    world.explain(no_page_comes_from(&world, "a"))?;
    table.empty()?;
    before.are_all_there_is(&world.b)?;
    ensure!(changes(&world.b) == seen, "a change was said to be in force");
    world.b.agent.reload()?;
    // Before that programs of the workload may be in place, and refuse its sockets.
    nothing_is_said(&world.b)?;
    world.explain(pages_come_from(&world, "a"))
}

fn a_change_of_the_node_waits_for_the_next_start_with_all_that_is_beside_it() -> Result<()> {
    let mut world = World::create(usual())?;
    world.b.config.cipher = Some("chacha20-poly1305");
    world.b.config.rules = "inbound: { deny: [{ addresses: [0.0.0.0/0, '::/0'] }] }";
    world.b.agent.rewrite(&world.b.config)?;
    is_said(&world.b, "the Node changed, which needs a restart of the agent")?;
    world.explain(pages_come_from(&world, "a"))?;
    world.b.agent.stop()?;
    world.b.agent.restart()?;
    nothing_is_said(&world.b)?;
    world.explain(no_page_comes_from(&world, "a"))
}

/// What is in the kernel for the workloads of a node, and what the agent holds itself.
#[derive(Debug)]
struct Kept {
    pins: Vec<String>,
    entries: usize,
    open_files: usize,
}

impl Kept {
    fn of(node: &Node) -> Result<Kept> {
        let entries = enrolment_entries(&node.config.bpf)?;
        Ok(Kept { pins: pins(&node.config.bpf)?, entries, open_files: node.agent.open_files()? })
    }

    fn are_all_there_is(&self, node: &Node) -> Result<()> {
        let is_so =
            |now: &Kept| (&now.pins, now.entries) == (&self.pins, self.entries) && now.open_files <= self.open_files;
        wait::until("everything to be as before", wait::patience(), || Ok(is_so(&Kept::of(node)?).then_some(())))
            .with_context(|| format!("before: {self:#?}\nnow: {:#?}", Kept::of(node)))
    }
}

fn is_said(node: &Node, what: &str) -> Result<()> {
    wait::until(&format!("`{what}` in the status"), wait::patience(), || {
        let refused = node.agent.report()?["configuration"]["refused"].to_string();
        Ok(refused.contains(what).then_some(()))
    })
}

fn nothing_is_said(node: &Node) -> Result<()> {
    wait::until("a status without a complaint", wait::patience(), || {
        Ok(node.agent.report()?["configuration"]["refused"].is_null().then_some(()))
    })
}
