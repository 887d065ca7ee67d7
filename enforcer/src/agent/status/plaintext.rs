//! What wanted to leave workloads without mutual TLS, as programs have written it down.

use crate::connection::{Picture, Workload};
use crate::control::policy::{Departure, Outcome, Protocol};
use crate::kernel::bpf::Noted;
use crate::observe::report::PlaintextReport;

/// Of the workloads that there are, what happened most often first.
pub(super) fn report(noted: &[Noted], picture: &Picture) -> Vec<PlaintextReport> {
    let mut reports: Vec<PlaintextReport> =
        noted.iter().filter_map(|noted| Some(one(noted, picture.workload_of(noted.cgroup)?, picture))).collect();
    reports.sort_by(|one, other| other.count.cmp(&one.count).then_with(|| one.workload.cmp(&other.workload)));
    reports
}

fn one(noted: &Noted, workload: &Workload, picture: &Picture) -> PlaintextReport {
    let Noted { destination, protocol: number, reason, count, .. } = *noted;
    let (protocol, label) = kind(number);
    let to_peer = picture.peer_of(destination.ip()).is_some_and(|peer| peer.speaks.identity().is_some());
    let departure = Departure { protocol, address: destination.ip(), port: destination.port(), to_peer };
    let outcomes = [Outcome::Audited, Outcome::Permissive];
    PlaintextReport {
        workload: workload.name.to_string(),
        protocol: label,
        destination: (protocol != Protocol::Other).then_some(destination),
        passed: outcomes.iter().any(|outcome| Some(outcome.reason()) == reason),
        reason: reason.map_or("unknown", |reason| reason.label()).to_owned(),
        rule: picture.policy_of(workload).beyond(&departure).1.map(|rule| rule.to_string()),
        count,
    }
}

/// A protocol by its number (IANA), as rules have it and as reports do.
pub(super) fn kind(number: u32) -> (Protocol, String) {
    match i32::try_from(number) {
        Ok(libc::IPPROTO_TCP) => (Protocol::Tcp, "tcp".to_owned()),
        Ok(libc::IPPROTO_UDP) => (Protocol::Udp, "udp".to_owned()),
        _ => (Protocol::Other, number.to_string()),
    }
}
