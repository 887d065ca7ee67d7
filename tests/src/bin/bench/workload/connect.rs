//! A new connection, 64 bytes there and back on it, and its end. One connection after the other on blocking sockets, to
//! a server that serves one after the other, so that nothing overlaps.

use anyhow::Result;
use serde_json::Value;

use super::{Measured, Workload, repeated};
use crate::path::Site;

/// Connections of the short and of the long run.
pub(crate) const CONNECTIONS: [u32; 2] = [50, 350];

/// Threads beside the one that connects.
pub(crate) const FEW_THREADS: &str = "0";
/// Threads of a process that an agent finds it hard to look through.
const MANY_THREADS: &str = "500";

pub(super) fn measure(workload: Workload, site: &Site) -> Result<Measured> {
    let threads = if workload == Workload::Connect500 { MANY_THREADS } else { FEW_THREADS };
    repeated((workload, site), CONNECTIONS, |connections| play(site, connections, threads))
}

/// So many connections; gives what the client's stopwatch says.
pub(crate) fn play(site: &Site, connections: u32, threads: &str) -> Result<Value> {
    let connections = connections.to_string();
    let client = ["visit", "--rounds", &connections, "--idle-threads", threads];
    site.play(&["turns", "--connections", &connections], &client)
}
