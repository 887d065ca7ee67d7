//! 64 bytes there and back on an open connection. Measured twice: what nothing has changed between must not differ.

use anyhow::{Result, ensure};

use super::{Workload, difference};
use crate::figures::{Cost, Figures};
use crate::path::Site;

/// Rounds of the short and of the long run.
const ROUNDS: [u32; 2] = [300, 1300];

/// A figure that differs by more the second time is none.
const TOLERANCE: f64 = 0.02;

pub(super) fn measure(site: &Site, figures: &mut Figures) -> Result<()> {
    let (first, second) = (round_trip(site)?, round_trip(site)?);
    let part = (second.busy - first.busy).abs() / first.busy;
    figures.add(Workload::Rt64, site.path, first);
    figures.repeated(Workload::Rt64, part);
    ensure!(part <= TOLERANCE, "measured twice: {:.0} and then {:.0}", first.busy, second.busy);
    Ok(())
}

fn round_trip(site: &Site) -> Result<Cost> {
    difference(ROUNDS, |rounds| site.play(&["echo"], &["ping-pong", "--rounds", &rounds.to_string()]))
}
