//! Requests to an unmodified nginx, over connections that are kept.

use anyhow::Result;

use super::{Measured, Workload, repeated};
use crate::path::{Application, Site};

/// Requests of the short and of the long run, on one connection and on many.
const REQUESTS: [u32; 2] = [300, 2700];
const ON_MANY: [u32; 2] = [640, 3200];

/// Many.
const CONNECTIONS: u32 = 64;

pub(super) fn measure(workload: Workload, site: &Site) -> Result<Measured> {
    let server = Application::web(site)?;
    let (requests, connections) = if workload == Workload::Http64 { (ON_MANY, CONNECTIONS) } else { (REQUESTS, 1) };
    repeated((workload, site), requests, |requests| {
        let (rounds, connections) = ((requests / connections).to_string(), connections.to_string());
        site.ask(server.port(), &["get", "--rounds", &rounds, "--connections", &connections])
    })
}
