//! Values from an unmodified redis.

use anyhow::Result;

use super::{Measured, Workload, repeated};
use crate::path::{Application, Site};

/// Values got in the short and in the long run, one by one and many at a time.
const VALUES: [u32; 2] = [500, 4500];
const IN_PIPELINE: [u32; 2] = [3200, 19_200];

/// Many.
const PIPELINE: u32 = 16;

pub(super) fn measure(workload: Workload, site: &Site) -> Result<Measured> {
    let server = Application::redis(site)?;
    let (values, pipeline) = if workload == Workload::Redis16 { (IN_PIPELINE, PIPELINE) } else { (VALUES, 1) };
    repeated((workload, site), values, |values| {
        let (rounds, pipeline) = ((values / pipeline).to_string(), pipeline.to_string());
        site.ask(server.port(), &["redis-get", "--rounds", &rounds, "--pipeline", &pipeline])
    })
}
