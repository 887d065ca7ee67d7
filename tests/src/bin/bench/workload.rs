//! What is measured. Every cost is the difference of a long and a short run: free of what happens once in each.

pub(crate) mod connect;
mod idle;
mod round_trip;
mod stream;

use std::fmt;

use anyhow::Result;
use clap::ValueEnum;
use serde_json::Value;

use crate::figures::{Cost, Figures, Twice};
use crate::path::{Path, Site};

/// In the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Workload {
    /// 64 bytes there and back on an open connection.
    Rt64,
    /// A new connection, 64 bytes there and back on it, and its end.
    Connect,
    /// The same by a process with 500 threads.
    Connect500,
    /// Bytes one way, written 64 KiB at a time.
    Stream,
    /// Memory of the agents for connections on which nothing happens.
    Idle,
}

impl Workload {
    /// Measures it on one path.
    pub(crate) fn measure(self, site: &Site, figures: &mut Figures) -> Result<()> {
        match self {
            Workload::Rt64 => round_trip::measure(site, figures),
            Workload::Connect | Workload::Connect500 => connect::measure(self, site, figures),
            Workload::Stream => stream::measure(site, figures),
            Workload::Idle => idle::measure(site, figures),
        }
    }

    /// A cost that differs by a greater part the second time is none.
    pub(crate) fn tolerance(self) -> f64 {
        match self {
            Workload::Rt64 => 0.02,
            // Which port a connection gets, and how much of a stream is on its way when its reader gets the processor,
            // are not the same twice.
            _ => 0.05,
        }
    }

    /// The title of its table.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Workload::Rt64 => "64-byte round trip",
            Workload::Connect => "New connection, 64-byte echo, close",
            Workload::Connect500 => "New connection by a process with 500 threads",
            Workload::Stream => "Stream one way, 64 KiB writes, for each MiB",
            Workload::Idle => "Memory of an agent for each idle connection",
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Workload::Rt64 => "rt64",
            Workload::Connect => "connect",
            Workload::Connect500 => "connect500",
            Workload::Stream => "stream",
            Workload::Idle => "idle",
        })
    }
}

/// Measures what one unit costs on a path twice: what nothing has changed between must not differ. From runs of so many
/// units (more on paths that cost less), the shorter first; `play` gives what a client's stopwatch says.
fn twice(path: Path, units: [u32; 2], play: impl Fn(u32) -> Result<Value>) -> Result<Twice> {
    let units = units.map(|units| units * path.stretch());
    let once = || {
        let [short, long] = units.map(|units| play(units).and_then(|watch| Cost::read(&watch)));
        Ok::<_, anyhow::Error>(long?.beyond(short?, units[1] - units[0]))
    };
    Ok(Twice([once()?, once()?]))
}
