//! What the programs look up to know which connections they take, and how: as it should be, and how one becomes another.
//! Pure; [`super::taken`] has the maps.

use std::collections::HashMap;
use std::hash::Hash;

use enforcer_ebpf::{PortKey, WorkloadValue};
use ipnet::IpNet;

/// The three tables, as they are or should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Registered prefixes, each with `PEER_RELAY` or `PEER_DIRECT`.
    pub peers: HashMap<IpNet, u32>,
    /// The enrolled workloads, by the ids of their cgroups.
    pub workloads: HashMap<u64, WorkloadValue>,
    /// The ports on which connections are taken, each with `PORT_RELAY` or `PORT_DIRECT`.
    pub ports: HashMap<PortKey, u32>,
}

/// What is to be put into a table that has `before`, so that all of `after` is in it.
pub(super) fn puts<'a, K: Eq + Hash, V: PartialEq>(
    before: &'a HashMap<K, V>,
    after: &'a HashMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    after.iter().filter(|(key, value)| before.get(key) != Some(value))
}

/// What is to be removed from a table that has `before`, so that nothing but `after` is in it.
pub(super) fn removals<'a, K: Eq + Hash, V>(
    before: &'a HashMap<K, V>,
    after: &'a HashMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    before.keys().filter(|key| !after.contains_key(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_written() {
        let before: HashMap<_, _> = (0..50).map(|key| (key, 1)).collect();
        let mut after = before.clone();
        assert_eq!((puts(&before, &after).count(), removals(&before, &after).count()), (0, 0));
        after.insert(7, 2);
        after.insert(50, 1);
        after.remove(&9);
        let mut written: Vec<_> = puts(&before, &after).collect();
        written.sort_unstable();
        assert_eq!(written, [(&7, &2), (&50, &1)]);
        assert_eq!(removals(&before, &after).collect::<Vec<_>>(), [&9]);
        let mut back: Vec<_> = puts(&after, &before).collect();
        back.sort_unstable();
        assert_eq!((back, removals(&after, &before).collect::<Vec<_>>()), (vec![(&7, &1), (&9, &1)], vec![&50]));
    }
}
