//! Keeps the programs told of the addresses that namespaces of workloads have: what goes there does not leave.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::Error;
use crate::connection::Place;
use crate::kernel::addresses::{AddressChanges, addresses};
use crate::kernel::bpf::Outside;

/// From now on, and for as long as the place is there.
///
/// # Errors
///
/// The addresses cannot be listed, or there is no room for them.
pub(super) fn follow(place: &Arc<Place>, outside: &Outside) -> Result<(), Error> {
    // Before they are listed, so that no change is missed.
    let changes = AddressChanges::of(&place.namespace).map_err(Error::Addresses)?;
    tell(place, outside)?;
    tokio::spawn(watch(Arc::downgrade(place), changes, outside.clone()));
    Ok(())
}

fn tell(place: &Place, outside: &Outside) -> Result<(), Error> {
    let own = addresses(&place.namespace).map_err(Error::Addresses)?;
    Ok(outside.set_own_addresses(&HashMap::from([(place.namespace.cookie(), own)]))?)
}

async fn watch(place: Weak<Place>, changes: AddressChanges, outside: Outside) {
    loop {
        if let Err(error) = changes.next().await {
            tracing::error!(%error, "changes of a namespace's addresses are not seen any more; restart the agent");
            return;
        }
        let Some(place) = place.upgrade() else { return };
        if let Err(error) = tell(&place, &outside) {
            // Connections of the namespace with itself may be refused until then.
            tracing::error!(%error, "addresses of a namespace are not known; they will be read at the next change");
        }
    }
}
