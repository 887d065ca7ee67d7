//! What was seen, judged by another configuration, and what changes: pure.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use anyhow::Context;
use serde::Serialize;

use crate::connection::foresee::Judge;
use crate::control::snapshot::Snapshot;
use crate::observe::report::{JudgementReport, SeenReport, SightingReport};
use crate::observe::seen::Fate;

/// What another configuration makes of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Change {
    /// It passes now, and would be refused.
    Refused,
    /// It is encrypted now, and would not be.
    Exposed,
    /// It is refused now, and would pass.
    Admitted,
    /// What matters stays as it is.
    None,
}

impl Change {
    fn of(now: Fate, then: Fate) -> Self {
        match (now, then) {
            (Fate::Refused, Fate::Refused) => Self::None,
            (_, Fate::Refused) => Self::Refused,
            (Fate::Refused, _) => Self::Admitted,
            _ if now.is_encrypted() && !then.is_encrypted() => Self::Exposed,
            _ => Self::None,
        }
    }
}

/// A workload and somebody else, by the port that is opened.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub(super) struct Between {
    /// `inbound` or `outbound`.
    pub(super) direction: String,
    pub(super) workload: String,
    /// Its identity, or its address where it has none.
    pub(super) other: String,
    /// `tcp`, `udp`, or the number of another one.
    pub(super) protocol: String,
    pub(super) port: u16,
    /// What becomes of it now.
    pub(super) now: JudgementReport,
    /// What would become of it.
    pub(super) then: JudgementReport,
}

/// What was seen of them.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Pair {
    pub(super) change: Change,
    #[serde(flatten)]
    pub(super) between: Between,
    /// The other one's.
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) connections: u64,
    pub(super) open: u64,
    /// Seconds since 1970.
    pub(super) last: i64,
}

/// How many of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Sum {
    pub(super) pairs: usize,
    pub(super) connections: u64,
    pub(super) open: u64,
}

/// The pairs that are meant.
pub(super) fn sum<'a>(pairs: impl Iterator<Item = &'a Pair>) -> Sum {
    pairs.fold(Sum::default(), |sum, pair| Sum {
        pairs: sum.pairs + 1,
        connections: sum.connections.saturating_add(pair.connections),
        open: sum.open.saturating_add(pair.open),
    })
}

/// Judges everything again. What changes comes first, and of that what there was most of.
///
/// # Errors
///
/// An agent of another version has answered.
pub(super) fn judged(seen: SeenReport, next: &Snapshot) -> anyhow::Result<Vec<Pair>> {
    let judge = Judge::of(next);
    let mut pairs: HashMap<Between, Pair> = HashMap::new();
    for one in seen.sightings {
        let sighting = one.sighting().context("the agent tells of something that this version does not know")?;
        let then = JudgementReport::from(judge.judge(&sighting));
        let between = between(&one, next, then);
        let pair = pairs.entry(between).or_insert_with_key(|between| Pair {
            change: Change::of(between.now.outcome, between.then.outcome),
            between: between.clone(),
            addresses: BTreeSet::new(),
            connections: 0,
            open: 0,
            last: one.last,
        });
        pair.addresses.insert(one.address);
        pair.connections = pair.connections.saturating_add(one.count);
        pair.open = pair.open.saturating_add(one.open);
        pair.last = pair.last.max(one.last);
    }
    let mut pairs: Vec<Pair> = pairs.into_values().collect();
    pairs.sort_by(|one, other| order(one).cmp(&order(other)));
    Ok(pairs)
}

fn order(pair: &Pair) -> impl Ord + '_ {
    let Between { direction, workload, other, protocol, port, .. } = &pair.between;
    (pair.change, u64::MAX - pair.connections, workload, direction, other, protocol, port)
}

/// Who has proved nothing is named as the next registry has it.
fn between(one: &SightingReport, next: &Snapshot, then: JudgementReport) -> Between {
    let registered = || next.peer_of(one.address).and_then(|peer| peer.speaks.identity()).map(ToString::to_string);
    Between {
        direction: one.direction.clone(),
        workload: one.workload.clone(),
        other: one.peer.clone().or_else(registered).unwrap_or_else(|| one.address.to_string()),
        protocol: one.protocol.clone(),
        port: one.port,
        now: one.now.clone(),
        then,
    }
}
