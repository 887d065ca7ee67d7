//! Agents and control die, or are asked to end, and come back.

use std::time::Duration;

use anyhow::Result;
use enforcer_tests::config::Path;

use super::Chaos;
use crate::model::{Facts, Flow};

/// How an agent ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Without a word.
    Kill,
    /// In order.
    Stop,
}

/// It is away for so long, and for as long as it takes to start. A connection is held for thirty seconds.
const AWAY: Duration = Duration::from_millis(1500);

impl Chaos<'_> {
    /// Connections that no agent carries go on, and new ones wait for the next agent; those that one carries end with it.
    pub(crate) fn restart(&mut self, nodes: &[usize], way: Way) -> Result<()> {
        let facts = self.facts.clone();
        self.change(
            facts,
            |facts, _flow| !facts.is_direct(),
            |chaos, _next| {
                for &node in nodes {
                    match way {
                        Way::Kill => chaos.node(node).agent.kill()?,
                        Way::Stop => chaos.node(node).agent.stop()?,
                    }
                }
                chaos.tally.remark(&format!("{way:?} of {nodes:?} is done"));
                chaos.let_load_go_on(AWAY)?;
                nodes.iter().try_for_each(|&node| chaos.node(node).agent.restart())?;
                chaos.tally.remark("ready again");
                chaos.certified()
            },
        )
    }

    /// New connections take the other path, and open ones stay or end.
    pub(crate) fn change_path(&mut self, node: usize) -> Result<()> {
        let mut next = self.facts.clone();
        next.paths[node] = if next.paths[node] == Path::Direct { Path::Relay } else { Path::Direct };
        self.change(next, every_one, Self::put_in_force)
    }

    /// Nothing that has a certificate notices.
    pub(crate) fn kill_control(&mut self) -> Result<()> {
        self.control()?.kill()?;
        self.let_load_go_on(AWAY)?;
        self.control()?.restart()
    }
}

fn every_one(_facts: &Facts, _flow: Flow) -> bool {
    true
}
