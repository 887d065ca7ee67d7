//! Public names, where workloads have some: their certificates are read before anything is served, and asked for once
//! everything is, because the authority comes to look.

use tokio_util::sync::CancellationToken;

use super::Error;
use crate::control::snapshot::Snapshot;
use crate::identity::acme::{self, Keeper, Names};

/// The certificates of the node's public names, and who keeps them.
pub(super) struct Certificates(Option<(Names, Keeper)>);

/// Reads what is kept of them.
pub(super) fn open(snapshot: &Snapshot) -> Result<Certificates, Error> {
    let public = snapshot.workloads().iter().filter_map(|workload| workload.public.as_ref());
    let names: Vec<String> = public.flat_map(|public| public.names.iter().cloned()).collect();
    match &snapshot.node().acme {
        Some(authority) if !names.is_empty() => {
            Ok(Certificates(Some(acme::open(authority, names, &snapshot.node().state_directory)?)))
        }
        _ => Ok(Certificates(None)),
    }
}

impl Certificates {
    /// What is known of the names, if there are any.
    pub(super) fn names(&self) -> Option<&Names> {
        self.0.as_ref().map(|(names, _)| names)
    }

    /// Asks for what is missing, and renews, until `stop`.
    pub(super) fn keep(self, stop: &CancellationToken) {
        if let Some((_, keeper)) = self.0 {
            tokio::spawn(keeper.run(stop.clone()));
        }
    }
}
