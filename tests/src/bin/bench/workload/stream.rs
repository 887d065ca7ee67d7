//! Bytes in writes of 64 KiB: one way until the receiver has read the end, or both ways at once.

use anyhow::Result;

use super::{Measured, Workload, repeated};
use crate::path::Site;

/// MiB of the short and of the long run; the short one is longer than all buffers on the way.
const MEBIBYTES: [u32; 2] = [64, 256];
const BOTH_WAYS: [u32; 2] = [32, 96];

pub(super) fn measure(workload: Workload, site: &Site) -> Result<Measured> {
    let (mebibytes, server, client) = match workload {
        Workload::Bidi => (BOTH_WAYS, "trade", "trade"),
        _ => (MEBIBYTES, "drain", "pour"),
    };
    repeated((workload, site), mebibytes, |mebibytes| {
        let bytes = (u64::from(mebibytes) << 20).to_string();
        site.play(&[server, "--bytes", &bytes], &[client, "--bytes", &bytes])
    })
}
