//! Whose certificates this node keeps: the identities of its workloads, which come and go while it runs.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;

use tokio::sync::watch;

use super::name::Identity;

/// The identities. Clones are the same ones.
#[derive(Clone, Debug)]
pub struct Roster(Arc<watch::Sender<BTreeSet<Identity>>>);

impl Roster {
    /// These, until something else is said. Two workloads may have one.
    pub fn new(identities: impl IntoIterator<Item = Identity>) -> Self {
        Self(Arc::new(watch::Sender::new(identities.into_iter().collect())))
    }

    /// These from now on. Certificates of others are dropped, and first ones are asked for, as soon as whoever keeps them
    /// gets to it.
    pub fn set(&self, identities: impl IntoIterator<Item = Identity>) {
        let identities = identities.into_iter().collect();
        self.0.send_if_modified(|current| {
            let is_other = *current != identities;
            *current = identities;
            is_other
        });
    }

    /// Those who are wanted now.
    #[must_use]
    pub fn current(&self) -> BTreeSet<Identity> {
        self.0.borrow().clone()
    }

    pub(super) fn watch(&self) -> Watched {
        Watched(self.0.subscribe())
    }
}

/// A roster, as whoever keeps the certificates sees it.
pub(super) struct Watched(watch::Receiver<BTreeSet<Identity>>);

impl Watched {
    /// Those who are wanted now.
    pub(super) fn current(&mut self) -> BTreeSet<Identity> {
        self.0.borrow_and_update().clone()
    }

    /// Returns when others are wanted than those that were told of last.
    pub(super) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            pending().await
        }
    }
}
