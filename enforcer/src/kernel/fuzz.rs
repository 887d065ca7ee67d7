//! Any octets as what the kernel tells of sockets.

use super::{caller, connected, destroy};

/// As answers of sock_diag.
pub(crate) fn answer(data: &[u8]) {
    caller::fuzz_diag(data);
    destroy::fuzz(data);
    connected::fuzz(data);
}
