//! 64 bytes there and back on an open connection.

use anyhow::Result;

use super::{Workload, twice};
use crate::figures::Figures;
use crate::path::Site;

/// Rounds of the short and of the long run.
const ROUNDS: [u32; 2] = [500, 4500];

pub(super) fn measure(site: &Site, figures: &mut Figures) -> Result<()> {
    let cost =
        twice(site.path, ROUNDS, |rounds| site.play(&["echo"], &["ping-pong", "--rounds", &rounds.to_string()]))?;
    figures.add(Workload::Rt64, site.path, cost);
    Ok(())
}
