//! What is measured. Every cost is the difference of a long and a short run: free of what happens once in each.

pub(crate) mod connect;
pub(crate) mod idle;
mod redis;
mod round_trip;
mod rush;
pub(crate) mod split;
mod start;
mod stream;
mod web;

use std::fmt;

use anyhow::Result;
use clap::ValueEnum;
use enforcer_tests::settings;
use serde_json::Value;

use self::split::Split;
use crate::figures::{Cost, Figures, Repeated};
use crate::path::{Path, Site};
use crate::rows::name;

/// In the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Workload {
    /// 64 bytes there and back on an open connection.
    Rt64,
    /// 1 KiB there and back on an open connection.
    Rt1k,
    /// 64 bytes there and back, on 32 open connections.
    #[value(name = "rt64x32")]
    Rt64x32,
    /// A page of 1 KiB from nginx, on a connection that is kept.
    Http1,
    /// The same on 64 connections.
    Http64,
    /// A new connection, 64 bytes there and back on it, and its end.
    Connect,
    /// The same by a process with 500 threads.
    Connect500,
    /// New connections as fast as both ends can, 128 at any moment.
    Rush,
    /// Bytes one way, written 64 KiB at a time.
    Stream,
    /// Bytes both ways at once, written 64 KiB at a time.
    Bidi,
    /// A value of 64 bytes from redis.
    Redis1,
    /// The same, 16 with one write.
    Redis16,
    /// Memory of agents and sidecars for connections on which nothing happens.
    Idle,
    /// An agent with a hundred workloads, from its start until it is ready.
    Start,
}

impl Workload {
    /// Measures it on one path.
    pub(crate) fn measure(self, site: &Site, figures: &mut Figures) -> Result<()> {
        let Measured { cost, split } = match self {
            Workload::Rt64 | Workload::Rt1k | Workload::Rt64x32 => round_trip::measure(self, site)?,
            Workload::Http1 | Workload::Http64 => web::measure(self, site)?,
            Workload::Connect | Workload::Connect500 => connect::measure(self, site)?,
            Workload::Rush => rush::measure(self, site)?,
            Workload::Stream | Workload::Bidi => stream::measure(self, site)?,
            Workload::Redis1 | Workload::Redis16 => redis::measure(self, site)?,
            Workload::Idle => return idle::measure(site, figures),
            Workload::Start => return start::measure(site, figures),
        };
        figures.add(self, site.path, cost);
        figures.splits.add(self, site.path, split);
        Ok(())
    }

    /// Whether it means something on this path, and can be done there.
    pub(crate) fn suits(self, path: Path) -> bool {
        let is_http = matches!(self, Workload::Http1 | Workload::Http64);
        if self == Workload::Start {
            return matches!(path, Path::Direct | Path::Relay);
        }
        match path {
            Path::Plain | Path::Direct | Path::Relay | Path::RelayKernel => true,
            // What is wanted of it is that it costs nothing.
            Path::Outside => {
                matches!(self, Workload::Rt64 | Workload::Connect | Workload::Connect500 | Workload::Stream)
            }
            // Unmodified servers do not set up kernel TLS with fixed keys, and ours does so with a thread for each connection.
            Path::Floor => !is_http && !matches!(self, Workload::Redis1 | Workload::Redis16 | Workload::Rush),
            // Only agents look through the threads of a process.
            Path::Ipsec | Path::Wireguard | Path::Nginx | Path::Haproxy | Path::Envoy => self != Workload::Connect500,
            Path::EnvoyHttp => is_http,
        }
    }

    /// A cost that differs by a greater part from one time to the next is none.
    pub(crate) fn tolerance(self) -> f64 {
        match self {
            Workload::Rt64 | Workload::Rt1k => 0.01,
            // Which port a connection gets is not the same twice.
            Workload::Connect | Workload::Connect500 => 0.02,
            // Nor is how much of a stream is on its way when its reader gets the processor, or who of many is served first.
            _ => 0.05,
        }
    }

    /// Whether it is chance what it costs there: a sidecar's workers take what connections they get, and of many the cost
    /// is in how many one serves at a time; and with many packets at once IPsec and WireGuard now and then wait. It is told how
    /// far apart that is; it says nothing against the run.
    pub(crate) fn is_chance(self, path: Path) -> bool {
        match self {
            Workload::Rt64x32 | Workload::Http64 => path.has_sidecars(),
            Workload::Rush => path.has_sidecars() || path.encrypts_packets(),
            Workload::Bidi => path.encrypts_packets(),
            _ => false,
        }
    }

    /// The title of its table.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Workload::Rt64 => "64-byte round trip",
            Workload::Rt1k => "1 KiB round trip",
            Workload::Rt64x32 => "64-byte round trip, 32 connections",
            Workload::Http1 => "HTTP/1.1 request, 1 KiB response, kept connection",
            Workload::Http64 => "HTTP/1.1 request, 1 KiB response, 64 kept connections",
            Workload::Connect => "New connection, 64-byte echo, close",
            Workload::Connect500 => "New connection by a process with 500 threads",
            Workload::Rush => "New connections, 128 at any moment, 64-byte echo, close",
            Workload::Stream => "Stream one way, 64 KiB writes, for each MiB",
            Workload::Bidi => "Streams both ways, 64 KiB writes, for each MiB there and back",
            Workload::Redis1 => "redis GET, 64-byte value",
            Workload::Redis16 => "redis GET, 64-byte value, 16 in a pipeline",
            Workload::Idle => "Memory of an agent or sidecar for each idle connection",
            Workload::Start => "An agent with 100 workloads, from its start until it is ready",
        }
    }
}

/// By its name on the command line.
impl fmt::Display for Workload {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&name(*self))
    }
}

/// How many times longer it is measured where the processor is not emulated: what takes milliseconds tells nothing there.
const QUICK_STRETCH: u32 = 4;

/// What one unit costs, and who does it.
struct Measured {
    cost: Repeated,
    split: Split,
}

/// Measures what one unit costs on a path, and again: what nothing has changed between must not differ. From runs of so many
/// units (more on paths that cost less), the shorter first; `play` gives what a client's stopwatch says.
fn repeated(
    (workload, site): (Workload, &Site),
    units: [u32; 2],
    play: impl Fn(u32) -> Result<Value>,
) -> Result<Measured> {
    let stretch = site.path.stretch() * if settings::is_quick() { QUICK_STRETCH } else { 1 };
    let units = units.map(|units| units * stretch);
    let run = |units| {
        let before = site.processor_time()?;
        let cost = Cost::read(&play(units)?)?;
        Ok::<_, anyhow::Error>((cost, Split::between(before, site.processor_time()?, cost.busy)))
    };
    let mut split = Split::default();
    let cost = measure(workload, || {
        let [(less, short), (more, long)] = [run(units[0])?, run(units[1])?];
        split = split + (long - short);
        Ok(more.beyond(less, units[1] - units[0]))
    })?;
    Ok(Measured { cost, split })
}

/// Measures it as often as it needs. Times are never as steady as costs, and no steadier when they are taken again.
fn measure(workload: Workload, once: impl FnMut() -> Result<Cost>) -> Result<Repeated> {
    Repeated::measure(if settings::is_quick() { f64::INFINITY } else { workload.tolerance() }, once)
}
