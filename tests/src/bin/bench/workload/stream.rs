//! Bytes one way in writes of 64 KiB, until the receiver has read the end.

use anyhow::Result;

use super::{Workload, twice};
use crate::figures::Figures;
use crate::path::Site;

/// MiB of the short and of the long run; the short one is longer than all buffers on the way.
const MEBIBYTES: [u32; 2] = [64, 256];

pub(super) fn measure(site: &Site, figures: &mut Figures) -> Result<()> {
    let cost = twice(site.path, MEBIBYTES, |mebibytes| {
        let bytes = (u64::from(mebibytes) << 20).to_string();
        site.play(&["drain"], &["pour", "--bytes", &bytes])
    })?;
    figures.add(Workload::Stream, site.path, cost);
    Ok(())
}
