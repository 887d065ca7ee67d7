//! What was seen, each judged by what is in force now: connections as their records have them, and what wanted to leave
//! without mutual TLS as programs have written it down.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::plaintext::kind;
use crate::connection::foresee::Judge;
use crate::connection::{Picture, Workload};
use crate::control::policy::Protocol;
use crate::kernel::bpf::{Outside, Remembered};
use crate::kernel::cgroup::ids_below;
use crate::kernel::connected::connected;
use crate::observe::events::{Connections, Direction};
use crate::observe::report::{JudgementReport, SeenReport, SightingReport};
use crate::observe::seen::{KEPT, Sighting, Tally};

/// All of it.
pub(super) fn report(connections: &Connections, outside: &Outside, picture: &Picture) -> SeenReport {
    let writer = Writer {
        judge: Judge::of(&picture.snapshot),
        now: Instant::now(),
        unix: OffsetDateTime::now_utc().unix_timestamp(),
    };
    let memory = connections.seen();
    let connections = memory.sightings.iter().map(|(sighting, tally)| writer.write(sighting, *tally, "tcp".to_owned()));
    let (remembered, departures_are_full) = outside.remembered();
    let departures = left(&remembered, picture).into_iter();
    SeenReport {
        node: picture.snapshot.node().name.clone(),
        workloads: picture.workloads.iter().map(|workload| workload.name.to_string()).collect(),
        since: writer.unix(memory.since),
        forgotten: memory.forgotten,
        departures_are_full,
        sightings: connections
            .chain(departures.map(|(sighting, tally, label)| writer.write(&sighting, tally, label)))
            .collect(),
    }
}

struct Writer<'a> {
    judge: Judge<'a>,
    now: Instant,
    unix: i64,
}

impl Writer<'_> {
    fn write(&self, sighting: &Sighting, tally: Tally, protocol: String) -> SightingReport {
        SightingReport {
            direction: sighting.direction.label().to_owned(),
            workload: sighting.workload.to_string(),
            protocol,
            address: sighting.address,
            port: sighting.port,
            peer: sighting.peer.as_ref().map(ToString::to_string),
            public: sighting.is_public,
            count: tally.count,
            open: tally.open,
            first: self.unix(tally.first),
            last: self.unix(tally.last),
            now: JudgementReport::from(self.judge.judge(sighting)),
        }
    }

    /// Seconds since 1970.
    fn unix(&self, moment: Instant) -> i64 {
        let ago = self.now.saturating_duration_since(moment).as_secs();
        self.unix.saturating_sub_unsigned(ago)
    }
}

/// What has left the workloads that there are, or wanted to, in the last 24 hours; each with the name of its protocol.
fn left(remembered: &[Remembered], picture: &Picture) -> Vec<(Sighting, Tally, String)> {
    let whose = |left: &Remembered| picture.workload_of(left.cgroup).map(|workload| (*left, Arc::clone(workload)));
    let left: Vec<_> = remembered.iter().filter(|left| left.last < KEPT).filter_map(whose).collect();
    let open =
        open(left.iter().filter(|(left, _)| kind(left.protocol).0 == Protocol::Tcp).map(|(_, workload)| workload));
    let now = Instant::now();
    let before = |ago: Duration| now.checked_sub(ago).unwrap_or(now);
    let one =
        |(Remembered { destination, count, first, last, protocol, .. }, workload): (Remembered, Arc<Workload>)| {
            let (protocol, label) = kind(protocol);
            let open = match protocol {
                Protocol::Tcp => open.get(&(workload.cgroup_id, destination)).copied().unwrap_or_default(),
                Protocol::Udp | Protocol::Other => 0,
            };
            let sighting = Sighting {
                direction: Direction::Outbound,
                workload: Arc::clone(&workload.name),
                protocol,
                address: destination.ip(),
                port: destination.port(),
                peer: None,
                is_public: false,
            };
            (sighting, Tally { count, open, first: before(first), last: before(last) }, label)
        };
    left.into_iter().map(one).collect()
}

/// How many connections these workloads have open, by their cgroups and where they lead to.
fn open<'a>(workloads: impl Iterator<Item = &'a Arc<Workload>>) -> HashMap<(u64, SocketAddr), u64> {
    let workloads: HashMap<u64, &Arc<Workload>> = workloads.map(|workload| (workload.cgroup_id, workload)).collect();
    let below = |workload: &&Arc<Workload>| {
        let own = workload.cgroup_id;
        ids_below(&workload.cgroup).into_iter().map(move |cgroup| (cgroup, own))
    };
    let owners: HashMap<u64, u64> = workloads.values().flat_map(below).collect();
    let homes: HashMap<u64, _> =
        workloads.values().map(|workload| (workload.home.namespace.cookie(), &workload.home)).collect();
    let mut open = HashMap::new();
    for home in homes.values() {
        let told = connected(&home.namespace, |one| {
            if let Some(owner) = owners.get(&one.cgroup) {
                *open.entry((*owner, one.remote)).or_default() += 1;
            }
        });
        if let Err(error) = told {
            tracing::warn!(%error, "cannot ask for the open connections of a network namespace");
        }
    }
    open
}
