//! Readiness: the agent is ready when nobody holds a task that it waits for.
//!
//! Each part that has to be there takes a [`Pending`] and drops it once it is; what is still missing can be named.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the agent still waits for. Clones are the same list.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, usize>>>);

impl Readiness {
    /// From now on the agent is not ready until the result is dropped. `name` is shown to people.
    pub fn wait_for(&self, name: &'static str) -> Pending {
        *self.pending().entry(name).or_default() += 1;
        Pending { readiness: self.clone(), name }
    }

    /// What is waited for; nothing when the agent is ready.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        self.pending().keys().copied().collect()
    }

    fn pending(&self) -> MutexGuard<'_, BTreeMap<&'static str, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that must be done before the agent is ready. Dropping it says that it is.
#[derive(Debug)]
#[must_use = "dropping it says that the agent no longer waits"]
pub struct Pending {
    readiness: Readiness,
    name: &'static str,
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut pending = self.readiness.pending();
        match pending.get_mut(self.name) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(pending.remove(self.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_the_last_task_is_dropped() {
        let readiness = Readiness::default();
        let listeners = readiness.wait_for("listeners");
        let more_listeners = readiness.wait_for("listeners");
        let certificates = readiness.wait_for("certificates");
        assert_eq!(readiness.missing(), ["certificates", "listeners"]);
        drop((certificates, listeners));
        assert_eq!(readiness.missing(), ["listeners"]);
        drop(more_listeners);
        assert!(readiness.missing().is_empty());
    }
}
