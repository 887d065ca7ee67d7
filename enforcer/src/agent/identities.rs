//! Where this node's certificates come from: the embedded CA, control, or somebody else's Workload API.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Error;
use crate::ca;
use crate::control::snapshot::{self, Node, Snapshot};
use crate::identity::client::{self, Control};
use crate::identity::federation::{Federated, Federation};
use crate::identity::source::{Local, Source};
use crate::identity::store::Store;
use crate::identity::trust::Trusted;
use crate::identity::workload_source;
use crate::identity::{self, Identity};

/// How long a start waits for what control tells.
const TOLD: Duration = Duration::from_secs(5);

/// The certificates of this node.
pub(super) struct Identities {
    pub(super) store: Arc<Store>,
    /// Whom they trust.
    pub(super) trusted: Trusted,
    /// Who issues more; nobody does where somebody else makes the keys.
    pub(super) source: Option<Arc<dyn Source>>,
}

/// Has the first certificates issued and starts keeping them fresh until `stop`.
pub(super) async fn start(snapshot: &Snapshot, stop: &CancellationToken) -> Result<Identities, Error> {
    let node = snapshot.node();
    let federation = Arc::new(Federation::load(&node.federation)?);
    let identities = snapshot.workloads().iter().map(|workload| workload.identity.clone()).collect();
    match (&node.control, &node.identity_source) {
        (Some(control), _) => from_control((node, control), (identities, federation), stop).await,
        (None, Some(socket)) => Ok(from_workload_api((node, socket), (identities, federation), stop).await),
        (None, None) => from_embedded(node, (identities, federation), stop).await,
    }
}

/// Whose certificates are wanted, and whom else they trust.
type Wants = (Vec<Identity>, Arc<Federation>);

async fn from_embedded(
    node: &Node,
    (identities, federation): Wants,
    stop: &CancellationToken,
) -> Result<Identities, Error> {
    let authority = ca::open_or_create(&node.state_directory, &node.trust_domain)?;
    let source: Arc<dyn Source> = Arc::new(Federated::new(Arc::new(Local::new(authority)?), federation));
    let (store, missing) = identity::start(Arc::clone(&source), identities, node.cipher, stop.clone()).await;
    // An authority that is a part of this process will not do better later.
    match missing.into_iter().next() {
        Some(error) => Err(error.into()),
        None => Ok(Identities { store, trusted: source.trusted(), source: Some(source) }),
    }
}

async fn from_control(
    (node, wanted): (&Node, &snapshot::Control),
    (identities, federation): Wants,
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
    let (store, missing) = identity::start(Arc::clone(&source), identities, node.cipher, stop.clone()).await;
    for error in missing {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::error!(%error, cause, "no certificate yet; connections of this workload are refused until there is one");
    }
    Ok(Identities { store, trusted: source.trusted(), source: Some(source) })
}

async fn from_workload_api(
    (node, socket): (&Node, &PathBuf),
    (identities, federation): Wants,
    stop: &CancellationToken,
) -> Identities {
    let wanted = workload_source::Wanted {
        socket: socket.clone(),
        trust_domain: node.trust_domain.clone(),
        identities: identities.clone(),
        cipher: node.cipher,
        federation,
    };
    let (store, trusted) = workload_source::start(wanted, stop.clone()).await;
    for identity in identities.iter().filter(|identity| store.get(identity).is_err()) {
        tracing::error!(%identity, "no certificate yet; connections of this workload are refused until there is one");
    }
    Identities { store, trusted, source: None }
}
