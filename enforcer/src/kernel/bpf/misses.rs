//! How often programs of each workload wanted what a direct connection does not do. Programs in the kernel count some of
//! it, the agent the rest; the counts stay for as long as the workload is enrolled, whatever becomes of the agent.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError};
use enforcer_ebpf::{Missed, MissedKey};

use super::Error;
use super::maps::{failed, retain, take};

/// Flag of BPF_MAP_UPDATE_ELEM in linux/bpf.h: only what is not there.
const BPF_NOEXIST: u64 = 1;

/// The counts. Clones are the same map.
#[derive(Clone)]
pub struct Misses(Arc<Mutex<HashMap<MapData, MissedKey, u64>>>);

impl Misses {
    pub(super) fn take(programs: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self(Arc::new(Mutex::new(take(programs, "MISSED")?))))
    }

    /// Counts for these workloads too, by the ids of their cgroups. What was counted for one of them stays.
    ///
    /// # Errors
    ///
    /// [`Error::Map`], when the map is full.
    pub fn add(&self, cgroups: impl IntoIterator<Item = u64>) -> Result<(), Error> {
        let mut counts = self.locked();
        for key in keys(cgroups) {
            match counts.insert(key, 0, BPF_NOEXIST) {
                Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EEXIST) => {}
                inserted => inserted.map_err(|cause| failed("insert", "MISSED", cause))?,
            }
        }
        Ok(())
    }

    /// Counts no more for these.
    pub fn remove(&self, cgroups: impl IntoIterator<Item = u64>) {
        let mut counts = self.locked();
        for key in keys(cgroups) {
            // There may be nothing to remove.
            let _gone = counts.remove(&key);
        }
    }

    /// Counts for these and for no others.
    ///
    /// # Errors
    ///
    /// [`Error::Map`].
    pub fn keep_only(&self, cgroups: &HashSet<u64>) -> Result<(), Error> {
        retain("MISSED", &mut self.locked(), |key| cgroups.contains(&key.cgroup))
    }

    /// Counts one more of what only the agent sees, and says how many that makes. `None`: it could not be counted.
    pub fn count(&self, cgroup: u64, missed: Missed) -> Option<u64> {
        // Nobody else writes this one.
        let (mut counts, key) = (self.locked(), missed.key(cgroup));
        let count = counts.get(&key, 0).ok()?.saturating_add(1);
        counts.insert(key, count, 0).is_ok().then_some(count)
    }

    /// What programs of this workload have missed, and how often.
    #[must_use]
    pub fn of(&self, cgroup: u64) -> Vec<(Missed, u64)> {
        let counts = self.locked();
        let count =
            |missed: &Missed| Some((*missed, counts.get(&missed.key(cgroup), 0).ok().filter(|&count| count > 0)?));
        Missed::ALL.iter().filter_map(count).collect()
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<MapData, MissedKey, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keys(cgroups: impl IntoIterator<Item = u64>) -> impl Iterator<Item = MissedKey> {
    cgroups.into_iter().flat_map(|cgroup| Missed::ALL.iter().map(move |missed| missed.key(cgroup)))
}
