//! What is left over, and what agents hold: compared with what it was after the warm-up.

use anyhow::{Context, Result, ensure};
use enforcer_tests::leaks::connection_entries;
use enforcer_tests::wait;
use enforcer_tests::world::World;

/// What an agent may have more of in the end: an allocator does not give back everything, and a file may be open just now.
const MORE_MEMORY: u64 = 48 << 20;
const MORE_FILES: usize = 12;

/// Of each agent while nothing is connected.
#[derive(Debug)]
pub(crate) struct Holdings {
    memory: [u64; 2],
    files: [usize; 2],
}

impl Holdings {
    /// When the last connection is gone.
    pub(crate) fn of(world: &mut World) -> Result<Holdings> {
        for node in [&world.a, &world.b] {
            wait::until("the tables of connections to be empty", wait::patience() * 3, || {
                Ok((connection_entries(&node.config.bpf)? == 0).then_some(()))
            })
            .with_context(|| {
                format!("node {}: {}", node.config.account, connection_entries(&node.config.bpf).unwrap_or(0))
            })?;
        }
        let (a, b) = (&world.a.agent, &world.b.agent);
        Ok(Holdings { memory: [a.resident()?, b.resident()?], files: [a.open_files()?, b.open_files()?] })
    }

    /// Fails if there is more now.
    pub(crate) fn compare(&self, world: &mut World) -> Result<()> {
        let now = Holdings::of(world)?;
        for node in [0, 1] {
            let is_bounded =
                now.memory[node] <= self.memory[node] + MORE_MEMORY && now.files[node] <= self.files[node] + MORE_FILES;
            ensure!(is_bounded, "after the warm-up: {self:?}; now: {now:?}");
        }
        Ok(())
    }
}
