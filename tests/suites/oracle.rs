//! Control experiments: without enforcer, the oracle sees everything. An oracle that were blind would pass every
//! other suite.

use anyhow::{Result, ensure};
use enforcer_tests::ground::{Ground, LEGACY};
use enforcer_tests::program;
use libtest_mimic::Trial;

use crate::stage::{marker, promises};

pub(crate) fn trials() -> Vec<Trial> {
    promises![beside others;
        without_agents_every_payload_is_seen_between_the_nodes,
        without_agents_every_payload_is_seen_at_the_edge,
    ]
}

fn without_agents_every_payload_is_seen_between_the_nodes() -> Result<()> {
    let ground = Ground::create()?;
    for route in ground.routes() {
        let secret = marker();
        let nginx = program::nginx(route.server, &secret)?;
        let capture = ground.watch_mesh()?;
        program::curl(route.client, nginx.at(route.target))?.finish()?.success()?;
        let recording = capture.stop()?;
        ensure!(recording.contains(&secret), "{route}: the oracle did not see plaintext");
        ensure!(recording.prove_absent(&secret).is_err(), "{route}: plaintext was proven absent");
        ensure!(recording.prove_only_tls(nginx.port).is_err(), "{route}: plaintext was taken for TLS");
        ensure!(recording.prove_silent(nginx.port).is_err(), "{route}: a conversation was taken for silence");
    }
    Ok(())
}

fn without_agents_every_payload_is_seen_at_the_edge() -> Result<()> {
    let ground = Ground::create()?;
    for address in LEGACY {
        let secret = marker();
        let nginx = program::nginx(&ground.outside, &secret)?;
        let capture = ground.watch_edge()?;
        program::curl(&ground.a, nginx.at(address))?.finish()?.success()?;
        ensure!(capture.stop()?.contains(&secret), "{address}: the oracle did not see plaintext");
    }
    Ok(())
}
