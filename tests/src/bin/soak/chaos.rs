//! What is done to the nodes while they are under load: one action after the other, chosen at random, each waited for until
//! it is in force.

mod agents;
mod authority;
mod registry;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use enforcer_tests::config::Config;
use enforcer_tests::control::Control;
use enforcer_tests::random::Random;
use enforcer_tests::settings::kernel_has_tls;
use enforcer_tests::wait;
use enforcer_tests::wanderer::Wanderer;
use enforcer_tests::world::{Node, World};
use serde_json::Value;

use crate::model::{Book, Expected, Facts, Flow, RULES};
use crate::stage::{Stage, register};
use crate::tally::Tally;

/// Between two actions, unless the load is slower.
const PAUSE: Duration = Duration::from_secs(2);
/// What the load finishes between two actions.
const WORK: u64 = 6;

/// The nodes, and what is in force on them.
pub(crate) struct Chaos<'a> {
    pub(crate) world: World,
    pub(crate) wanderer: Wanderer,
    pub(crate) facts: Facts,
    pub(crate) random: Random,
    pub(crate) stage: &'a Stage,
    pub(crate) book: &'a Book,
    pub(crate) tally: &'a Tally,
    /// As the agents were started with them.
    pub(crate) configs: [Config; 2],
    /// Not yet done in this round: each kind is done as often as any other.
    pub(crate) bag: Vec<Kind>,
}

/// A kind of action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    KillAgent,
    KillBothAgents,
    StopAgent,
    ChangeRules,
    ChangeMode,
    ChangePath,
    ForgetOrLearnPeer,
    BreakFile,
    MoveAddress,
    TellRegistry,
    OtherAddress,
    RevokeOrAdmit,
    RevokeCertificate,
    KillControl,
    RotateRoot,
}

const KINDS: [(Kind, &str); 15] = [
    (Kind::KillAgent, "agent killed"),
    (Kind::KillBothAgents, "both agents killed"),
    (Kind::StopAgent, "agent stopped"),
    (Kind::ChangeRules, "rules changed"),
    (Kind::ChangeMode, "mode changed"),
    (Kind::ChangePath, "path changed"),
    (Kind::ForgetOrLearnPeer, "peer removed or added"),
    (Kind::BreakFile, "file broken and mended"),
    (Kind::MoveAddress, "address moved"),
    (Kind::TellRegistry, "registry told of the move"),
    (Kind::OtherAddress, "address added and removed"),
    (Kind::RevokeOrAdmit, "identity revoked or admitted"),
    (Kind::RevokeCertificate, "certificate revoked"),
    (Kind::KillControl, "control killed"),
    (Kind::RotateRoot, "root rotated"),
];

/// Of a node: its place in what has one for each.
const A: usize = 0;
const B: usize = 1;
const NAMES: [&str; 2] = ["a", "b"];

impl Chaos<'_> {
    /// Does something, and lets the load meet what has become of it.
    pub(crate) fn act(&mut self) -> Result<()> {
        if self.bag.is_empty() {
            self.bag = KINDS.map(|(kind, _)| kind).into();
        }
        let kind = self.bag.swap_remove(self.random.below(self.bag.len()));
        let name = KINDS.iter().find(|(known, _)| *known == kind).map_or("", |(_, name)| *name);
        if kind == Kind::ChangePath && !kernel_has_tls() {
            return Ok(());
        }
        self.tally.action(name, name);
        let before = self.successes();
        self.do_it(kind).with_context(|| format!("{name}: {:?}", self.facts))?;
        if self.successes() < before {
            // To be undone before everything else has been done, or soon nothing would be left that succeeds.
            self.bag.push(kind);
        }
        self.tally.remark(&format!("done: {:?}", self.facts));
        self.let_load_go_on(PAUSE)
    }

    /// On how many flows connections succeed.
    fn successes(&self) -> usize {
        Flow::ALL.into_iter().filter(|flow| self.facts.expected(*flow) == Expected::Success).count()
    }

    fn do_it(&mut self, kind: Kind) -> Result<()> {
        let node = self.random.below(2);
        match kind {
            Kind::KillAgent => self.restart(&[node], agents::Way::Kill),
            Kind::KillBothAgents => self.restart(&[A, B], agents::Way::Kill),
            Kind::StopAgent => self.restart(&[node], agents::Way::Stop),
            Kind::ChangeRules => self.change_rules(node),
            Kind::ChangeMode => self.change_mode(),
            Kind::ChangePath => self.change_path(node),
            Kind::ForgetOrLearnPeer => self.forget_or_learn_peer(),
            Kind::BreakFile => self.break_file(node),
            Kind::MoveAddress => self.move_address(),
            Kind::TellRegistry => self.tell_registry(),
            Kind::OtherAddress => self.other_address(),
            Kind::RevokeOrAdmit => self.revoke_or_admit(),
            Kind::RevokeCertificate => self.revoke_certificate(),
            Kind::KillControl => self.kill_control(),
            Kind::RotateRoot => self.rotate_root(),
        }
    }

    /// Nothing is done any more; what waits is let come to its end.
    pub(crate) fn calm_down(&mut self) -> Result<()> {
        self.certified()?;
        self.let_load_go_on(PAUSE)
    }

    /// Until it has finished a little more, and so much time has gone by; not much longer, as it may be waiting for us.
    fn let_load_go_on(&self, pause: Duration) -> Result<()> {
        let (since, wanted) = (Instant::now(), self.tally.progress() + WORK);
        wait::until("the load", wait::patience(), || {
            let (took, done) = (since.elapsed(), self.tally.progress() >= wanted);
            Ok(((took >= pause && done) || took >= pause * 4).then_some(()))
        })
    }

    /// A change from what is in force to `next`: `work` does it, and returns when it is done.
    fn change(
        &mut self,
        next: Facts,
        disturbed: impl Fn(&Facts, Flow) -> bool,
        work: impl FnOnce(&mut Self, &Facts) -> Result<()>,
    ) -> Result<()> {
        self.book.change(&self.facts, &next, |flow| disturbed(&self.facts, flow));
        work(self, &next)?;
        self.facts = next;
        self.book.settle(&self.facts);
        Ok(())
    }

    fn node(&mut self, node: usize) -> &mut Node {
        if node == A { &mut self.world.a } else { &mut self.world.b }
    }

    fn control(&mut self) -> Result<&mut Control> {
        self.world.control.as_mut().context("the world has no control")
    }

    /// What an agent is to have under these facts.
    fn config(&self, node: usize, facts: &Facts) -> Config {
        let mut config = self.configs[node].clone();
        config.path = facts.paths[node];
        config.rules = RULES[node][facts.rules[node]].0;
        if node == B {
            config.mode = facts.mode;
        } else {
            register(&mut config, facts.registered, facts.has_c);
        }
        config
    }

    /// Puts these facts into the files of the agents, and returns when they are in force.
    fn put_in_force(&mut self, next: &Facts) -> Result<()> {
        for node in [A, B] {
            let config = self.config(node, next);
            if config.to_string() == self.node(node).config.to_string() {
                continue;
            }
            let before = self.since(node)?;
            // It is said in seconds: one must have gone by to tell them apart.
            wait::until("the next second", wait::patience(), || {
                Ok((SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() > before).then_some(()))
            })?;
            self.node(node).agent.rewrite(&config)?;
            wait::until("the next configuration to be in force", wait::patience(), || {
                Ok((self.since(node)? > before).then_some(()))
            })
            .with_context(|| self.node(node).agent.status().unwrap_or_default())?;
            self.node(node).config = config;
        }
        Ok(())
    }

    /// Since when an agent has had its configuration.
    fn since(&mut self, node: usize) -> Result<u64> {
        let report = self.node(node).agent.report()?;
        report["configuration"]["since"].as_u64().with_context(|| format!("no configuration in {report}"))
    }

    /// The serial number of the certificate that a workload has now.
    fn serial(&mut self, account: &str) -> Result<Option<String>> {
        let node = if ["a", "impostor"].contains(&account) { A } else { B };
        let report = self.node(node).agent.report()?;
        let workloads = report["workloads"].as_array().context("no workloads")?;
        let workload = workloads.iter().find(|workload| workload["name"] == account);
        let workload: &Value = workload.with_context(|| format!("no workload {account} in {report}"))?;
        Ok(workload["certificate"]["serial"].as_str().map(str::to_owned))
    }

    /// Every workload whose identity is not revoked has a certificate.
    fn certified(&mut self) -> Result<()> {
        for account in ["a", "b", "c"] {
            if !self.facts.revoked.contains(account) {
                wait::until(&format!("a certificate of {account}"), wait::patience() * 2, || {
                    Ok(self.serial(account)?.map(drop))
                })?;
            }
        }
        Ok(())
    }
}
