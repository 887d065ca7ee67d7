//! New connections as fast as both ends can, so many at any moment: 64 bytes there and back on each, and its end. A connection
//! that is lost fails the run.

use anyhow::{Context, Result, ensure};
use enforcer_tests::endpoint::stopwatch::Stopwatch;
use enforcer_tests::peer;
use enforcer_tests::place::Place;
use enforcer_tests::settings;
use serde_json::Value;

use super::{Measured, Workload, repeated};
use crate::path::Site;

/// Connections at any moment.
const AT_ONCE: u32 = 128;
/// How often each of them is made anew in the short and in the long run, where the processor is emulated and where it is not.
const TIMES: [u32; 2] = [8, 16];
const TIMES_QUICKLY: [u32; 2] = [8, 160];

pub(super) fn measure(workload: Workload, site: &Site) -> Result<Measured> {
    let route = site.route()?;
    [route.client, route.server].into_iter().try_for_each(reuse_ports)?;
    let times = if settings::is_quick() { TIMES_QUICKLY } else { TIMES };
    // As many on each path: what is short on one is no shorter than what happens once.
    repeated((workload, site), times.map(|times| AT_ONCE * times / site.path.stretch()), |connections| {
        play(site, connections)
    })
}

fn play(site: &Site, connections: u32) -> Result<Value> {
    let server = site.serve(&["echo", "--by", "tokio", "--connections", &connections.to_string()])?;
    let (at_once, times) = (AT_ONCE.to_string(), (connections / AT_ONCE).to_string());
    let client = ["ping-pong", "--by", "tokio", "--connections", &at_once, "--times", &times];
    let watch = Stopwatch::start();
    let client = peer::start(site.route()?.client, site.address(server.port)?, &client)?;
    let outcomes = peer::outcomes_of(client)?;
    let cost = watch.read();
    ensure!(outcomes.len() == connections as usize, "{} of {connections} connections were made", outcomes.len());
    for outcome in outcomes {
        outcome.details().context("a connection was lost")?;
    }
    server.outcomes()?;
    Ok(cost)
}

/// A port that has had a connection serves the next one as soon as a second has passed, and not only after a minute: there
/// would not be enough of them.
fn reuse_ports(place: &Place) -> Result<()> {
    place.run("sh", &["-c", "echo 1 > /proc/sys/net/ipv4/tcp_tw_reuse"]).map(drop)
}
