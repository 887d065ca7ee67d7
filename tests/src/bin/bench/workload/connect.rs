//! A new connection, 64 bytes there and back on it, and its end. One connection after the other on blocking sockets, to
//! a server that serves one after the other, so that nothing overlaps.

use anyhow::Result;

use super::{Workload, twice};
use crate::figures::Figures;
use crate::path::Site;

/// Connections of the short and of the long run.
const CONNECTIONS: [u32; 2] = [50, 350];

/// Threads of a process that an agent finds it hard to look through.
const MANY_THREADS: &str = "500";

pub(super) fn measure(workload: Workload, site: &Site, figures: &mut Figures) -> Result<()> {
    let threads = if workload == Workload::Connect500 { MANY_THREADS } else { "0" };
    let cost = twice(site.path, CONNECTIONS, |connections| {
        let connections = connections.to_string();
        let client = ["visit", "--rounds", &connections, "--idle-threads", threads];
        site.play(&["turns", "--connections", &connections], &client)
    })?;
    figures.add(workload, site.path, cost);
    Ok(())
}
