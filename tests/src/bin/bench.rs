//! What a round trip costs: 64 bytes there and back between two nodes, in the clear, through the relay with records in
//! user space, and through the relay with records in the kernel. All in one run, on one machine.
//!
//! `cargo xtask bench` runs it in a virtual machine whose clock counts instructions, so that the figures are costs: all
//! processes and the kernel together, the same in every run. On another clock they are times, and only their ratios
//! mean something.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use enforcer_tests::config::Offload;
use enforcer_tests::ground::{Ground, Route};
use enforcer_tests::peer::{self, Server};
use enforcer_tests::settings::kernel_has_tls;
use enforcer_tests::teardown;
use enforcer_tests::world::{Options, World};

/// Rounds of the short and of the long run. Their difference is free of connecting and shaking hands.
const ROUNDS: [u32; 2] = [300, 1300];

fn main() -> ExitCode {
    let result = teardown::begin().and_then(|()| run());
    teardown::sweep();
    if let Err(error) = result {
        // Without a standard error there is nobody to tell.
        let _told = writeln!(std::io::stderr(), "bench: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn run() -> Result<()> {
    let mut figures = vec![("plain TCP", plain()?), ("relay, records in user space", relay(Offload::Off)?)];
    if kernel_has_tls() {
        figures.push(("relay, records in the kernel", relay(Offload::On)?));
    }
    let base = figures[0].1;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{:30} {:>12} {:>8}", "64-byte round trip", "ns", "x plain")?;
    for (path, nanoseconds) in figures {
        writeln!(out, "{path:30} {nanoseconds:>12.0} {:>8.2}", nanoseconds / base)?;
    }
    Ok(())
}

fn plain() -> Result<f64> {
    round_trip(&Ground::create()?)
}

fn relay(offload: Offload) -> Result<f64> {
    let world = World::create(Options { offload, ..Options::STRICT })?;
    world.explain(round_trip(&world.ground))
}

/// Nanoseconds of one round trip.
fn round_trip(ground: &Ground) -> Result<f64> {
    let route = ground.routes().into_iter().next().context("the ground has no route")?;
    let [short, long] = ROUNDS.map(|rounds| play(&route, rounds));
    Ok((long? - short?) / f64::from(ROUNDS[1] - ROUNDS[0]) * 1e3)
}

/// Microseconds of so many rounds on a connection of their own.
fn play(route: &Route<'_>, rounds: u32) -> Result<f64> {
    let server = Server::start(route.server, &["echo"])?;
    let client = peer::connect(route.client, server.at(route.target), &["ping-pong", "--rounds", &rounds.to_string()])?;
    client.details()?["microseconds"].as_f64().context("the client measured nothing")
}
