//! What was made under a certificate ends with it: as soon as control tells that it is revoked, and once at the start,
//! because what an earlier agent left open may have been made under one that was revoked meanwhile.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::connection::{self, Path};
use crate::identity::trust::Trusted;

/// Judges everything that is open by what is trusted now, and again after each change until `closing`.
pub(super) async fn watch(path: Arc<Path>, mut trusted: Trusted, closing: CancellationToken) {
    loop {
        let trust = trusted.current();
        if trust.revocations.is_some() {
            let version = trust.version;
            let ended = connection::revoke(&path, Arc::new(move |serial| trust.revokes(serial))).await;
            if ended > 0 {
                tracing::info!(ended, version, "ended what was made under revoked certificates");
            }
        }
        tokio::select! {
            biased;
            () = closing.cancelled() => return,
            () = trusted.changed() => {}
        }
    }
}
