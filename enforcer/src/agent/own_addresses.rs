//! Keeps the programs told of the addresses that namespaces of workloads have: what goes there does not leave.

use std::sync::{Arc, Weak};

use tokio_util::sync::CancellationToken;

use super::Error;
use crate::connection::Home;
use crate::kernel::addresses::{AddressChanges, addresses};
use crate::kernel::bpf::Outside;

/// From now on, and until `closing`.
///
/// # Errors
///
/// The addresses cannot be listed, or there is no room for them.
pub(super) fn follow(home: &Arc<Home>, outside: &Outside, closing: CancellationToken) -> Result<(), Error> {
    // Before they are listed, so that no change is missed.
    let changes = AddressChanges::of(&home.namespace).map_err(Error::Addresses)?;
    tell(home, outside)?;
    tokio::spawn(watch(Arc::downgrade(home), (changes, outside.clone()), closing));
    Ok(())
}

fn tell(home: &Home, outside: &Outside) -> Result<(), Error> {
    let own = addresses(&home.namespace).map_err(Error::Addresses)?;
    Ok(outside.set_own_addresses(home.namespace.cookie(), &own)?)
}

async fn watch(home: Weak<Home>, (changes, outside): (AddressChanges, Outside), closing: CancellationToken) {
    loop {
        let changed = tokio::select! {
            biased;
            () = closing.cancelled() => return,
            changed = changes.next() => changed,
        };
        if let Err(error) = changed {
            tracing::error!(%error, "changes of a namespace's addresses are not seen any more; restart the agent");
            return;
        }
        let Some(home) = home.upgrade() else { return };
        if let Err(error) = tell(&home, &outside) {
            // Connections of the namespace with itself may be refused until then.
            tracing::error!(%error, "addresses of a namespace are not known; they will be read at the next change");
        }
    }
}
