//! Files are rewritten, and addresses move.

use std::fs;
use std::sync::PoisonError;

use anyhow::{Context, Result};
use enforcer_tests::config::Mode;
use enforcer_tests::wait;
use enforcer_tests::wanderer::Keeper;

use super::{Chaos, NAMES};
use crate::model::{Facts, Flow, RULES};

impl Chaos<'_> {
    pub(crate) fn change_rules(&mut self, node: usize) -> Result<()> {
        let mut next = self.facts.clone();
        // Another one than now; none every other time.
        next.rules[node] = if next.rules[node] > 0 { 0 } else { 1 + self.random.below(RULES[node].len() - 1) };
        self.change(next, nobody, Self::put_in_force)
    }

    /// What is mutual TLS stays so under either mode.
    pub(crate) fn change_mode(&mut self) -> Result<()> {
        let mode = if self.facts.mode == Mode::Strict { Mode::Permissive } else { Mode::Strict };
        self.change(Facts { mode, ..self.facts.clone() }, nobody, Self::put_in_force)
    }

    pub(crate) fn forget_or_learn_peer(&mut self) -> Result<()> {
        let has_c = !self.facts.has_c;
        self.change(Facts { has_c, ..self.facts.clone() }, nobody, Self::put_in_force)
    }

    /// A file with a mistake leaves in force what was.
    pub(crate) fn break_file(&mut self, node: usize) -> Result<()> {
        let file = self.world.ground.host.directory.join(format!("{}.yaml", NAMES[node]));
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        for (text, is_broken) in [(text.replace("spec:", "spce:"), true), (text, false)] {
            let next = file.with_extension("next");
            fs::write(&next, text).and_then(|()| fs::rename(&next, &file)).context("replace the configuration")?;
            wait::until("the mistake to be seen, or to be gone", wait::patience(), || {
                let report = self.node(node).agent.report()?;
                Ok((report["configuration"]["refused"].is_null() != is_broken).then_some(()))
            })?;
            self.let_load_go_on(super::PAUSE / 2)?;
        }
        Ok(())
    }

    pub(crate) fn move_address(&mut self) -> Result<()> {
        let keeper = other(self.facts.keeper);
        self.change(Facts { keeper, ..self.facts.clone() }, nobody, |chaos, _next| {
            chaos.wanderer.give_to(keeper)?;
            *chaos.stage.keeper.lock().unwrap_or_else(PoisonError::into_inner) = keeper;
            Ok(())
        })
    }

    pub(crate) fn tell_registry(&mut self) -> Result<()> {
        let registered = other(self.facts.registered);
        self.change(Facts { registered, ..self.facts.clone() }, nobody, Self::put_in_force)
    }

    /// An address that nobody speaks of comes and goes.
    pub(crate) fn other_address(&mut self) -> Result<()> {
        let address = format!("10.90.{}.{}/32", self.random.below(256), self.random.below(256));
        let place = if self.random.below(2) == 0 { &self.stage.a } else { &self.stage.b };
        place.network()?.configure(&format!("address add {address} dev lo\n"))?;
        self.let_load_go_on(super::PAUSE / 2)?;
        place.network()?.configure(&format!("address del {address} dev lo\n"))
    }
}

fn other(keeper: Keeper) -> Keeper {
    if keeper == Keeper::B { Keeper::Beyond } else { Keeper::B }
}

fn nobody(_facts: &Facts, _flow: Flow) -> bool {
    false
}
