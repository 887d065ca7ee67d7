//! Bytes there and back on open connections.

use anyhow::Result;

use super::{Measured, Workload, repeated};
use crate::path::Site;

/// Round trips of the short and of the long run, on one connection and on many.
const ROUND_TRIPS: [u32; 2] = [500, 4500];
const ON_MANY: [u32; 2] = [640, 3840];

/// Many.
const CONNECTIONS: u32 = 32;

pub(super) fn measure(workload: Workload, site: &Site) -> Result<Measured> {
    match workload {
        Workload::Rt1k => repeated((workload, site), ROUND_TRIPS, |rounds| ping_pong(site, rounds, "1024")),
        Workload::Rt64x32 => repeated((workload, site), ON_MANY, |round_trips| volley(site, round_trips / CONNECTIONS)),
        _ => repeated((workload, site), ROUND_TRIPS, |rounds| ping_pong(site, rounds, "64")),
    }
}

fn ping_pong(site: &Site, rounds: u32, size: &str) -> Result<serde_json::Value> {
    site.play(&["echo"], &["ping-pong", "--rounds", &rounds.to_string(), "--size", size])
}

/// On each connection 64 bytes are sent before the first are waited for.
fn volley(site: &Site, rounds: u32) -> Result<serde_json::Value> {
    let (rounds, connections) = (rounds.to_string(), CONNECTIONS.to_string());
    let many = ["--connections", &connections];
    site.play(&[&["echo"], &many[..]].concat(), &[&["volley", "--rounds", &rounds], &many[..]].concat())
}
