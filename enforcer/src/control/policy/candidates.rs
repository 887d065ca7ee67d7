//! Which workloads a selector may select, found without looking at all of them: a thousand policies for ten thousand
//! workloads are read within a second.

use std::collections::HashMap;

use super::read::{RawPolicy, RawSelector};
use crate::control::object::RawWorkload;

/// The workloads of a file by what selectors ask for, each by its position.
pub(super) struct Candidates<'a> {
    count: usize,
    by_name: HashMap<&'a str, Vec<usize>>,
    by_label: HashMap<(&'a str, &'a str), Vec<usize>>,
    by_namespace: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Candidates<'a> {
    pub(super) fn new(workloads: &'a [RawWorkload]) -> Self {
        let (mut by_name, mut by_label, mut by_namespace) = (HashMap::new(), HashMap::new(), HashMap::new());
        for (at, workload) in workloads.iter().enumerate() {
            note(&mut by_name, workload.name.value.as_str(), at);
            workload.labels.iter().for_each(|(key, value)| note(&mut by_label, (key.as_str(), value.as_str()), at));
            workload.namespace.iter().for_each(|namespace| note(&mut by_namespace, namespace.value.as_str(), at));
        }
        Self { count: workloads.len(), by_name, by_label, by_namespace }
    }

    /// All that a policy can select, in ascending order, and perhaps some that it does not.
    pub(super) fn of(&self, policy: &RawPolicy) -> Vec<usize> {
        let Some(RawSelector { workloads, labels, namespaces, .. }) = &policy.selector else { return self.all() };
        if let Some(names) = workloads {
            return any(names.iter().filter_map(|name| self.by_name.get(name.value.as_str())));
        }
        let labels = labels.iter().map(|(key, value)| self.by_label.get(&(key.as_str(), value.as_str())));
        if let Some(fewest) = labels.min_by_key(|positions| positions.map_or(0, Vec::len)) {
            return fewest.cloned().unwrap_or_default();
        }
        match namespaces {
            Some(names) => any(names.iter().filter_map(|name| self.by_namespace.get(name.value.as_str()))),
            None => self.all(),
        }
    }

    fn all(&self) -> Vec<usize> {
        (0..self.count).collect()
    }
}

fn note<K: std::hash::Hash + Eq>(positions: &mut HashMap<K, Vec<usize>>, key: K, at: usize) {
    positions.entry(key).or_default().push(at);
}

fn any<'a>(positions: impl Iterator<Item = &'a Vec<usize>>) -> Vec<usize> {
    let mut all: Vec<usize> = positions.flatten().copied().collect();
    all.sort_unstable();
    all.dedup();
    all
}
