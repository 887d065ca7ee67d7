//! Where this node's certificates come from: the embedded CA, control, or somebody else's Workload API.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Error;
use crate::ca;
use crate::control::snapshot::{self, Node, Snapshot};
use crate::identity::client::{self, Control};
use crate::identity::federation::{Federated, Federation};
use crate::identity::roster::Roster;
use crate::identity::source::{Local, Source};
use crate::identity::store::Store;
use crate::identity::trust::Trusted;
use crate::identity::workload_source;
use crate::identity::{self, Identity};

/// How long a workload that is new may keep all others waiting for its first certificate.
const ISSUED: Duration = Duration::from_millis(300);
/// How long a start waits for what control tells.
const TOLD: Duration = Duration::from_secs(5);

/// The certificates of this node.
pub(super) struct Identities {
    pub(super) store: Arc<Store>,
    /// Whom they trust.
    pub(super) trusted: Trusted,
    /// Who issues more; nobody does where somebody else makes the keys.
    pub(super) source: Option<Arc<dyn Source>>,
    /// Whose they are.
    pub(super) roster: Roster,
}

impl Identities {
    /// Asks for first certificates of those that are new in this snapshot, and gives them a moment to come.
    pub(super) async fn expect(&self, snapshot: &Snapshot) {
        let (before, wanted) = (self.roster.current(), identities(snapshot));
        let fresh: BTreeSet<Identity> = wanted.filter(|identity| !before.contains(identity)).collect();
        if fresh.is_empty() {
            return;
        }
        self.roster.set(before.into_iter().chain(fresh.iter().cloned()));
        if timeout(ISSUED, self.store.have(&fresh)).await.is_err() {
            tracing::warn!("no certificate yet for a new workload; its connections are refused until there is one");
        }
    }

    /// Keeps the certificates of this snapshot's workloads, and no others.
    pub(super) fn keep_only(&self, snapshot: &Snapshot) {
        self.roster.set(identities(snapshot));
    }
}

fn identities(snapshot: &Snapshot) -> impl Iterator<Item = Identity> {
    snapshot.workloads().iter().map(|workload| workload.identity.clone())
}

/// Has the first certificates issued and starts keeping them fresh until `stop`.
pub(super) async fn start(snapshot: &Snapshot, stop: &CancellationToken) -> Result<Identities, Error> {
    let node = snapshot.node();
    let federation = Arc::new(Federation::load(&node.federation)?);
    let roster = Roster::new(identities(snapshot));
    match (&node.control, &node.identity_source) {
        (Some(control), _) => from_control((node, control), (roster, federation), stop).await,
        (None, Some(socket)) => Ok(from_workload_api((node, socket), (roster, federation), stop).await),
        (None, None) => from_embedded(node, (roster, federation), stop).await,
    }
}

/// Whose certificates are wanted, and whom else they trust.
type Wants = (Roster, Arc<Federation>);

async fn from_embedded(
    node: &Node,
    (roster, federation): Wants,
    stop: &CancellationToken,
) -> Result<Identities, Error> {
    let authority = ca::open_or_create(&node.state_directory, &node.trust_domain)?;
    let source: Arc<dyn Source> = Arc::new(Federated::new(Arc::new(Local::new(authority)?), federation));
    let (store, missing) = identity::start(Arc::clone(&source), &roster, node.cipher, stop.clone()).await;
    // An authority that is a part of this process will not do better later.
    match missing.into_iter().next() {
        Some(error) => Err(error.into()),
        None => Ok(Identities { store, trusted: source.trusted(), source: Some(source), roster }),
    }
}

async fn from_control(
    (node, wanted): (&Node, &snapshot::Control),
    (roster, federation): Wants,
    stop: &CancellationToken,
) -> Result<Identities, Error> {
    let wanted = client::Wanted {
        address: wanted.address.clone(),
        token: wanted.token.clone(),
        grace: wanted.grace,
        directory: node.state_directory.clone(),
        trust_domain: node.trust_domain.clone(),
        node: node.name.clone(),
    };
    let control = Control::start(wanted, stop).await?;
    if !control.told(TOLD).await {
        tracing::warn!("control has not told whom to trust yet; starting all the same");
    }
    let source: Arc<dyn Source> = Arc::new(Federated::new(control, federation));
    let (store, missing) = identity::start(Arc::clone(&source), &roster, node.cipher, stop.clone()).await;
    for error in missing {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::error!(%error, cause, "no certificate yet; connections of this workload are refused until there is one");
    }
    Ok(Identities { store, trusted: source.trusted(), source: Some(source), roster })
}

async fn from_workload_api(
    (node, socket): (&Node, &PathBuf),
    (roster, federation): Wants,
    stop: &CancellationToken,
) -> Identities {
    let wanted = workload_source::Wanted {
        socket: socket.clone(),
        trust_domain: node.trust_domain.clone(),
        identities: roster.clone(),
        cipher: node.cipher,
        federation,
    };
    let (store, trusted) = workload_source::start(wanted, stop.clone()).await;
    for identity in roster.current().iter().filter(|identity| store.get(identity).is_err()) {
        tracing::error!(%identity, "no certificate yet; connections of this workload are refused until there is one");
    }
    Identities { store, trusted, source: None, roster }
}
