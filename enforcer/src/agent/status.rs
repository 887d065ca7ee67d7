//! What the agent tells about itself: asked for at each request, from those who know.

mod plaintext;
mod seen;

use std::sync::Arc;

use enforcer_ebpf::{Missed, Reason};
use time::OffsetDateTime;

use super::reload::InForce;
use crate::connection::limits::{Limit, Limits};
use crate::connection::public::Public;
use crate::connection::{Current, Means, Picture, Wants, Workload};
use crate::identity::store::Store;
use crate::identity::trust::Trusted;
use crate::kernel::bpf::{Guard, Misses, Outside};
use crate::kernel::probe::Abilities;
use crate::observe::events::Connections;
use crate::observe::metrics::{Sources, Usage};
use crate::observe::report::{
    CertificateReport, KernelReport, LimitReport, ListsReport, MissedReport, PublicReport, SeenReport, StatusReport,
    WorkloadReport,
};

/// What the metrics ask for at each scrape.
pub(super) fn sources(store: &Arc<Store>, guard: &Guard, current: &Current) -> Sources {
    let (store, current, misses) = (Arc::clone(store), current.clone(), guard.maps.misses());
    let expiries = move || {
        let current = store.current();
        current.iter().map(|held| (held.identity.clone(), held.not_after.unix_timestamp())).collect()
    };
    let of_all = current.clone();
    let usage = move || of_all.picture().workloads.iter().map(usage_of).collect();
    let missed = move || {
        let of = |workload: &Arc<Workload>| {
            let counts = misses.of(workload.cgroup_id).into_iter();
            let name = Arc::clone(&workload.name);
            counts.map(move |(missed, count)| (Arc::clone(&name), missed, count))
        };
        current.picture().workloads.iter().flat_map(of).collect()
    };
    Sources {
        refusals: Box::new(guard.maps.refusals()),
        missed: Box::new(missed),
        usage: Box::new(usage),
        certificates: Box::new(expiries),
    }
}

fn usage_of(workload: &Arc<Workload>) -> Usage {
    let limits = &workload.limits;
    let (handshakes, shaking) = (limits.taken(Limit::Handshakes), workload.shaking() as u64);
    Usage {
        workload: Arc::clone(&workload.name),
        connections: limits.taken(Limit::Connections),
        held: limits.taken(Limit::Held),
        shaking,
        waiting: handshakes.saturating_sub(shaking),
        relay_memory: limits.taken(Limit::RelayMemory),
        refused: Limit::ALL.map(|limit| (limit.label(), limits.refused(limit))).into(),
    }
}

/// A function that reports the agent's state.
pub(super) fn status(
    (current, abilities): (Current, Abilities),
    (store, trusted, (misses, outside)): (Arc<Store>, Trusted, (Misses, Outside)),
    in_force: InForce,
) -> Box<dyn Fn() -> StatusReport + Send + Sync> {
    Box::new(move || {
        let picture = current.picture();
        StatusReport {
            node: picture.snapshot.node().name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: KernelReport::from(&abilities),
            workloads: picture.workloads.iter().map(|workload| report(&picture, workload, &store, &misses)).collect(),
            revocation_lists: lists(&trusted),
            configuration: Some(in_force.report()),
            plaintext: plaintext::report(&outside.noted(), &picture),
            off: picture.snapshot.off().iter().map(|workload| workload.name.clone()).collect(),
        }
    })
}

/// A function that reports what was seen, judged by what is in force.
pub(super) fn seen(
    current: &Current,
    connections: &Connections,
    outside: &Outside,
) -> Box<dyn Fn() -> SeenReport + Send + Sync> {
    let (current, connections, outside) = (current.clone(), connections.clone(), outside.clone());
    Box::new(move || seen::report(&connections, &outside, &current.picture()))
}

fn lists(trusted: &Trusted) -> Option<ListsReport> {
    let trust = trusted.current();
    let lists = trust.revocations.as_ref()?;
    Some(ListsReport {
        until: lists.in_force_until()?,
        ended: lists.are_over(OffsetDateTime::now_utc().unix_timestamp()),
    })
}

fn report(picture: &Picture, workload: &Workload, store: &Store, misses: &Misses) -> WorkloadReport {
    let Wants { mode, means, .. } = picture.wants(workload);
    let held = store.get(&workload.identity).ok();
    WorkloadReport {
        name: workload.name.to_string(),
        identity: workload.identity.to_string(),
        mode: mode.label().to_owned(),
        path: match means {
            Means::Direct => "direct",
            Means::Relay(reason) => reason.label(),
        }
        .to_owned(),
        offload: workload.offload.label().to_owned(),
        offload_explanation: workload.offload.explanation().to_owned(),
        certificate: held.map(|held| CertificateReport {
            serial: held.serial.to_string(),
            expires: held.not_after.unix_timestamp(),
            signed_by: held.signed_by.clone(),
            renewal: held.renewal.map(|at| at.unix_timestamp()),
        }),
        public: workload.public.as_deref().map(public).unwrap_or_default(),
        missed: misses.of(workload.cgroup_id).into_iter().map(|missed| advise(missed, means)).collect(),
        limits: Limit::ALL.map(|limit| limited(&workload.limits, limit)).into(),
    }
}

fn limited(limits: &Limits, limit: Limit) -> LimitReport {
    LimitReport {
        limit: limit.label().to_owned(),
        most: limits.most(limit),
        taken: limits.taken(limit),
        refused: limits.refused(limit),
    }
}

fn public(public: &Public) -> Vec<PublicReport> {
    let report = |name: &str| {
        let known = public.certificates.known(name);
        PublicReport {
            name: name.to_owned(),
            certificate: known.held.map(|held| CertificateReport {
                serial: held.serial.to_string(),
                expires: held.not_after.unix_timestamp(),
                signed_by: held.signed_by.clone(),
                renewal: known.renewal.map(|at| at.unix_timestamp()),
            }),
            failure: known.failure,
        }
    };
    public.names().into_iter().map(report).collect()
}

/// What an operator can do about it.
fn advise((missed, count): (Missed, u64), means: Means) -> MissedReport {
    let advice = match (missed, means) {
        (Missed::ZeroCopy, Means::Direct) => {
            "a program has asked for SO_ZEROCOPY, and MSG_ZEROCOPY fails on a direct connection; if it must not, set \
             `path: relay` for this workload"
        }
        (Missed::More, Means::Direct) => {
            "a program has closed a direct connection after MSG_MORE, which loses the last of what it wrote \
             (open-record-lost); if that matters, set `path: relay` or `path: auto` for this workload"
        }
        (Missed::More, Means::Relay(Reason::ProgramLosesTheEnd)) => {
            "a program has closed a direct connection after MSG_MORE, which loses the last of what it wrote \
             (open-record-lost); new connections of this workload are relayed, which loses nothing"
        }
        (_, Means::Relay(_)) => "direct connections do not do it; this workload has none any more, and misses nothing",
    };
    MissedReport { feature: missed.label().to_owned(), count, advice: advice.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_given_where_something_can_be_done() {
        let advised = |missed, means| advise((missed, 3), means).advice;
        for missed in Missed::ALL {
            assert!(advised(*missed, Means::Direct).contains("set `path: relay`"));
            assert!(!advised(*missed, Means::Relay(Reason::RelayWanted)).contains("set `path"));
        }
        let spared = advised(Missed::More, Means::Relay(Reason::ProgramLosesTheEnd));
        assert!(spared.contains("open-record-lost") && !spared.contains("set `path"), "{spared}");
    }
}
