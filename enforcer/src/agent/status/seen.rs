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
use crate::kernel::bpf::{Departure, Outside};
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
    let relations = memory.sightings.iter().map(|(sighting, tally)| writer.write(sighting, *tally, "tcp".to_owned()));
    let (departures, departures_are_full) = outside.departures();
    let departures = left(&departures, picture).into_iter();
    SeenReport {
        node: picture.snapshot.node().name.clone(),
        since: writer.unix(memory.since),
        forgotten: memory.forgotten,
        departures_are_full,
        sightings: relations
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

/// What has left the workloads that there are, or wanted to, in the last 24 hours.
fn left(departures: &[Departure], picture: &Picture) -> Vec<(Sighting, Tally, String)> {
    let whose = |departure: &'_ Departure| picture.workload_of(departure.cgroup).map(|workload| (*departure, workload));
    let departures: Vec<_> = departures.iter().filter(|departure| departure.last < KEPT).filter_map(whose).collect();
    let open = open(departures.iter().filter(|(departure, _)| kind(departure.protocol).0 == Protocol::Tcp));
    let now = Instant::now();
    let before = |ago: Duration| now.checked_sub(ago).unwrap_or(now);
    let one = |(departure, workload): (Departure, &Arc<Workload>)| {
        let Departure { destination, count, first, last, .. } = departure;
        let (protocol, label) = kind(departure.protocol);
        let is_open = |_: &&u64| protocol == Protocol::Tcp;
        let open = open.get(&(workload.cgroup_id, destination)).filter(is_open).copied().unwrap_or_default();
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
    departures.into_iter().map(one).collect()
}

/// How many connections are open, by the cgroup of their workload and where they lead to.
fn open<'a>(departures: impl Iterator<Item = &'a (Departure, &'a Arc<Workload>)>) -> HashMap<(u64, SocketAddr), u64> {
    let workloads: HashMap<u64, &Arc<Workload>> =
        departures.map(|(_, workload)| (workload.cgroup_id, *workload)).collect();
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
