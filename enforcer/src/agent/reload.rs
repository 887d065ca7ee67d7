//! The configuration while the agent runs: the file is read again when it changes, and on SIGHUP.
//!
//! All of it or nothing: a file with mistakes leaves in force what was, and `enforcer status` says so until it is mended.
//! Rules and modes come into force at once, and what is open and may not be any more is ended. Everything else that is in
//! the file is built into the agent when it starts: a file that changes more than rules and modes is not in force before
//! the next start, and that is said too.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Error;
use crate::connection::{self, Workload};
use crate::control::file::load;
use crate::control::policy::Policy;
use crate::control::snapshot::Snapshot;
use crate::identity::request::blocking;
use crate::kernel::bpf::{Outside, Taken};
use crate::kernel::changes::Changes;
use crate::observe::report::ConfigurationReport;

/// Whoever replaces several files in a directory makes several changes.
const SETTLE: Duration = Duration::from_millis(50);

/// What is in force, for `enforcer status`.
#[derive(Clone, Debug)]
pub(super) struct InForce(Arc<Mutex<ConfigurationReport>>);

impl InForce {
    fn new(file: &Path) -> Self {
        let since = OffsetDateTime::now_utc().unix_timestamp();
        let file = file.display().to_string();
        Self(Arc::new(Mutex::new(ConfigurationReport { file, since, refused: None })))
    }

    pub(super) fn report(&self) -> ConfigurationReport {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut ConfigurationReport)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// When to read the file again. From the moment that there is one, SIGHUP does not end the process.
pub(super) struct Occasions {
    hangup: Signal,
    /// `None`: only SIGHUP tells.
    changes: Option<Changes>,
}

impl Occasions {
    pub(super) fn of(file: &Path) -> Result<Self, Error> {
        let changes = Changes::of(file)
            .inspect_err(|error| tracing::warn!(%error, "changes of the configuration are not seen; send SIGHUP"));
        Ok(Self { hangup: signal(SignalKind::hangup()).map_err(Error::Signals)?, changes: changes.ok() })
    }

    async fn next(&mut self) {
        let changed = async {
            let Some(changes) = &self.changes else { return std::future::pending().await };
            if let Err(error) = changes.next().await {
                tracing::error!(%error, "changes of the configuration are not seen any more; send SIGHUP");
                return std::future::pending().await;
            }
            sleep(SETTLE).await;
        };
        tokio::select! {
            _ = self.hangup.recv() => {}
            () = changed => {}
        }
    }
}

/// Reads the file again on each occasion, until `closing`.
pub(super) fn start(
    (file, occasions): (&Path, Occasions),
    (workloads, (taken, outside)): (&[Arc<Workload>], (Taken, Outside)),
    (path, closing): (&Arc<connection::Path>, &CancellationToken),
) -> InForce {
    let in_force = InForce::new(file);
    let (file, path, workloads) = (file.to_owned(), Arc::clone(path), workloads.to_vec());
    let reload = Reload { file, in_force: in_force.clone(), workloads, path, taken, outside };
    tokio::spawn(reload.watch(occasions, closing.clone()));
    in_force
}

/// What may change, and whom that concerns.
struct Reload {
    file: PathBuf,
    in_force: InForce,
    workloads: Vec<Arc<Workload>>,
    path: Arc<connection::Path>,
    taken: Taken,
    outside: Outside,
}

/// Workloads with other rules or modes than they had.
type Changed<'a> = Vec<(&'a Arc<Workload>, Arc<Policy>)>;

impl Reload {
    async fn watch(self, mut occasions: Occasions, closing: CancellationToken) {
        loop {
            // Also at once: it may have changed since it was read.
            self.read().await;
            tokio::select! {
                biased;
                () = closing.cancelled() => return,
                () = occasions.next() => {}
            }
        }
    }

    async fn read(&self) {
        let file = self.file.clone();
        let read = blocking(move || load(&file)).await;
        let changes = read.map_err(|error| error.to_string()).and_then(|next| self.changes(&next));
        match changes.and_then(|changes| self.tell_programs(&changes).map(|()| changes)) {
            Ok(changes) => self.put_in_force(changes).await,
            Err(refused) => {
                if self.in_force.report().refused.as_ref() != Some(&refused) {
                    tracing::error!("the configuration has changed and is not in force: {refused}");
                }
                self.in_force.change(|report| report.refused = Some(refused));
            }
        }
    }

    /// The workloads whose rules or modes are other ones; an error is why it cannot be in force.
    fn changes(&self, next: &Snapshot) -> Result<Changed<'_>, String> {
        if let Some(what) = beyond_rules(&self.path.snapshot, next) {
            return Err(format!(
                "{what} changed, which needs a restart of the agent; rules and modes stay as they were until then"
            ));
        }
        let mut changes = Vec::new();
        for wanted in next.workloads() {
            let Some(workload) = self.workloads.iter().find(|workload| *workload.name == wanted.name) else { continue };
            let (before, after) = (workload.policy(), next.policy_of(wanted));
            if before.path != after.path {
                return Err(format!(
                    "the `path` of workload {} changed, which needs a restart of the agent; rules and modes stay as \
                     they were until then",
                    wanted.name
                ));
            }
            if before != after {
                changes.push((workload, after));
            }
        }
        Ok(changes)
    }

    /// First all terms are written, which may fail; then each workload is given its own, in one step.
    fn tell_programs(&self, changes: &Changed<'_>) -> Result<(), String> {
        let numbers: Result<Vec<u32>, _> =
            changes.iter().map(|(_, policy)| self.outside.number(&policy.terms)).collect();
        let told = numbers.and_then(|numbers| {
            for ((workload, policy), number) in changes.iter().zip(numbers) {
                self.taken.set_terms(workload.cgroup_id, number, policy.others().0.action())?;
            }
            Ok(())
        });
        // What nobody has may be removed now, and what could not be written whole must be.
        let swept = self.taken.terms().and_then(|numbers| self.outside.sweep(&numbers));
        told.and(swept).map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    }

    async fn put_in_force(&self, changes: Changed<'_>) {
        let changed = changes.len();
        changes.into_iter().for_each(|(workload, policy)| workload.set_policy(policy));
        let was_refused = self.in_force.report().refused.is_some();
        if changed > 0 {
            let ended = connection::rules_changed(&self.path).await;
            tracing::info!(workloads = changed, ended, "other rules or modes are in force");
        }
        if changed > 0 || was_refused {
            self.in_force.change(|report| {
                report.since = OffsetDateTime::now_utc().unix_timestamp();
                report.refused = None;
            });
        }
    }
}

/// What is different besides rules and modes, if anything is.
fn beyond_rules(before: &Snapshot, after: &Snapshot) -> Option<&'static str> {
    match () {
        () if before.node() != after.node() => Some("the Node"),
        () if before.workloads() != after.workloads() => Some("a Workload"),
        () if before.peers() != after.peers() => Some("a Peer"),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::file::parse;

    #[test]
    fn only_rules_and_modes_may_change() {
        const BASE: &str = include_str!("../control/tests/base.yaml");
        let snapshot = |from: &str, to: &str| {
            assert!(BASE.contains(from), "{from}");
            parse(BASE.replacen(from, to, 1), "agent.yaml").unwrap()
        };
        let before = snapshot("", "");
        for (from, to, expected) in [
            ("mode: permissive", "mode: strict", None),
            ("mode: permissive", "mode: permissive\n  inbound: { deny: [{ ports: [80] }] }", None),
            ("name: node-a", "name: node-b", Some("the Node")),
            ("offload: auto", "offload: on", Some("a Workload")),
            ("10.1.7.7", "10.1.7.8", Some("a Peer")),
            ("speaks: plaintext", "speaks: mtls\n  identity: spiffe://example.org/a", Some("a Peer")),
        ] {
            assert_eq!(beyond_rules(&before, &snapshot(from, to)), expected, "{from} -> {to}");
        }
    }
}
