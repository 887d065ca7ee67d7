//! Any octets as a sealed key.

use super::blob::open as decrypt;
use super::pair::Pair;
use super::{Passphrase, blob};

/// Parameters that are allowed and slow are only read.
pub(crate) fn open(data: &[u8]) {
    /// KiB of memory and passes that take less than a millisecond.
    const QUICK: (u32, u32) = (64, 2);
    let Ok(cost) = blob::cost(data) else { return };
    if cost.memory > QUICK.0 || cost.passes > QUICK.1 {
        return;
    }
    let passphrase = Passphrase::from_octets(b"known".to_vec()).expect("it is neither empty nor long");
    if let Ok((algorithm, plain)) = decrypt("root-1", data.to_vec(), &passphrase) {
        drop(Pair::read("root-1", algorithm, &plain));
    }
}
