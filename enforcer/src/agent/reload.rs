//! The configuration while the agent runs: the file is read again when it changes, and on SIGHUP.
//!
//! All of it or nothing: a file with mistakes, or one that cannot be put in force here, leaves in force what was, and
//! `enforcer status` says so until it is mended. What is open and may not be any more is ended. Only the Node and public
//! names are built into the agent when it starts: a file that changes them is not in force before the next start, and that
//! is said too.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::direct::Pairing;
use super::enrol::{Changed, Enrolment, recognised};
use super::identities::Identities;
use super::{Error, serve};
use crate::connection;
use crate::control::difference::Difference;
use crate::control::file::{LoadError, load};
use crate::control::snapshot::{NetworkRef, Snapshot};
use crate::identity::request::blocking;
use crate::identity::workload_api::Roll;
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
    /// Where cgroups and namespaces of workloads are made.
    grounds: BTreeSet<PathBuf>,
    made: Option<Changes>,
}

impl Occasions {
    pub(super) fn of(file: &Path) -> Result<Self, Error> {
        let changes = Changes::of(file)
            .inspect_err(|error| tracing::warn!(%error, "changes of the configuration are not seen; send SIGHUP"));
        let hangup = signal(SignalKind::hangup()).map_err(Error::Signals)?;
        Ok(Self { hangup, changes: changes.ok(), grounds: BTreeSet::new(), made: None })
    }

    /// A workload whose cgroup or namespace is made anew under the old name has to be enrolled anew. True if something may have
    /// been made before this was called.
    fn look_after(&mut self, snapshot: &Snapshot) -> bool {
        let cgroups = snapshot.workloads().iter().map(|workload| workload.cgroup.clone());
        let networks = snapshot.workloads().iter().filter_map(|workload| match &workload.network {
            NetworkRef::Path(path) => Some(path.clone()),
            NetworkRef::Pid(_) => None,
        });
        let grounds: BTreeSet<PathBuf> =
            cgroups.chain(networks).filter_map(|path| path.parent().map(Path::to_owned)).collect();
        if grounds == self.grounds {
            return false;
        }
        let made = Changes::inside(grounds.iter().map(PathBuf::as_path));
        let made = made.inspect_err(|error| {
            tracing::warn!(%error, "workloads whose cgroups are made anew are not seen; send SIGHUP");
        });
        (self.made, self.grounds) = (made.ok(), grounds);
        true
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.hangup.recv() => {}
            () = seen(self.changes.as_ref()) => {}
            () = seen(self.made.as_ref()) => {}
        }
    }
}

async fn seen(changes: Option<&Changes>) {
    let Some(changes) = changes else { return std::future::pending().await };
    let settled = async {
        changes.next().await?;
        sleep(SETTLE).await;
        // One reading is enough for a file that was written and then put into its place.
        changes.forget()
    };
    if let Err(error) = settled.await {
        tracing::error!(%error, "changes of the configuration are not seen any more; send SIGHUP");
        std::future::pending().await
    }
}

/// What may change while the agent runs, and by whom.
pub(super) struct Parts {
    pub(super) path: Arc<connection::Path>,
    pub(super) enrolment: Enrolment,
    pub(super) pairing: Pairing,
    pub(super) identities: Identities,
    /// Whom the Workload API serves.
    pub(super) roll: Roll,
}

/// Reads the file again on each occasion, until `closing`.
pub(super) fn start((file, occasions): (&Path, Occasions), parts: Parts, closing: &CancellationToken) -> InForce {
    let in_force = InForce::new(file);
    let Parts { path, enrolment, pairing, identities, roll } = parts;
    let (enrolment, closing) = (Arc::new(Mutex::new(enrolment)), closing.clone());
    let (file, told) = (file.to_owned(), in_force.clone());
    let reload = Reload { file, in_force: told, path, enrolment, pairing, identities, roll, closing };
    tokio::spawn(reload.watch(occasions));
    in_force
}

/// The one who changes what is in force.
struct Reload {
    file: PathBuf,
    in_force: InForce,
    path: Arc<connection::Path>,
    enrolment: Arc<Mutex<Enrolment>>,
    pairing: Pairing,
    identities: Identities,
    roll: Roll,
    closing: CancellationToken,
}

impl Reload {
    async fn watch(mut self, mut occasions: Occasions) {
        loop {
            // Also at once: it may have changed since it was read.
            self.read().await;
            if occasions.look_after(&self.path.current.picture().snapshot) {
                continue;
            }
            tokio::select! {
                biased;
                () = self.closing.cancelled() => return,
                () = occasions.next() => {}
            }
        }
    }

    async fn read(&mut self) {
        let (file, before) = (self.file.clone(), self.path.current.picture());
        let read = blocking(move || {
            let next = load(&file)?;
            Ok::<_, LoadError>((Difference::between(&before.snapshot, &next), next))
        });
        let changed = match read.await {
            Ok((difference, next)) => self.change(difference, next).await,
            Err(error) => Err(error.to_string()),
        };
        match changed {
            Ok(has_changed) => self.in_force.change(|report| {
                if has_changed || report.refused.is_some() {
                    report.since = OffsetDateTime::now_utc().unix_timestamp();
                    report.refused = None;
                }
            }),
            Err(refused) => {
                if self.in_force.report().refused.as_ref() != Some(&refused) {
                    tracing::error!("the configuration has changed and is not in force: {refused}");
                }
                self.in_force.change(|report| report.refused = Some(refused));
            }
        }
    }

    /// Puts a snapshot in force. Says whether it is another one; an error is why it cannot be.
    async fn change(&mut self, difference: Difference, next: Snapshot) -> Result<bool, String> {
        if let Some(what) = &difference.needs_restart {
            return Err(format!(
                "{what} changed, which needs a restart of the agent; everything stays as it was until then"
            ));
        }
        let listener = self.pairing.prepare(&next).await.map_err(|error| told(&error))?;
        self.identities.expect(&next).await;
        match self.enrol(Arc::new(next), difference.is_empty()).await {
            Ok(Some(changed)) => {
                self.settle(changed, (&difference, listener)).await;
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(error) => {
                // What was judged by the new picture while it was tried.
                connection::changed(&self.path).await;
                self.identities.keep_only(&self.path.current.picture().snapshot);
                Err(told(&error))
            }
        }
    }

    /// `None`: there is nothing to be done.
    async fn enrol(&self, next: Arc<Snapshot>, is_same: bool) -> Result<Option<Changed>, Error> {
        let (enrolment, current) = (Arc::clone(&self.enrolment), self.path.current.clone());
        blocking(move || {
            let mut enrolment = enrolment.lock().unwrap_or_else(PoisonError::into_inner);
            let plan = enrolment.plan(&next)?;
            if is_same && !plan.has_new {
                return Ok(None);
            }
            enrolment.change(plan, &current).map(Some)
        })
        .await
    }

    /// Serves what is new, ends what may not be any more, and lets go of what is gone.
    async fn settle(&mut self, changed: Changed, (difference, listener): (&Difference, Option<TcpListener>)) {
        let Changed { opened, entries, leftover } = changed;
        let picture = self.path.current.picture();
        serve(opened, &self.path, &self.closing);
        self.pairing.follow(&picture, listener);
        self.roll.set(recognised(&picture));
        let ended = connection::changed(&self.path).await;
        let enrolment = Arc::clone(&self.enrolment);
        blocking(move || enrolment.lock().unwrap_or_else(PoisonError::into_inner).release(leftover)).await;
        self.identities.keep_only(&picture.snapshot);
        tracing::info!(%difference, entries, ended, "another configuration is in force");
    }
}

/// An error with what is behind it.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}
