//! What an agent says of itself, asked for at its admin socket.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use serde::de::DeserializeOwned;

use super::ExitCode;
use crate::observe::report::{ConnectionReport, SeenReport, StatusReport};

/// An agent answers at once; what takes longer is none.
const DEADLINE: Duration = Duration::from_secs(5);
/// More than 100,000 connections.
const ANSWER_LIMIT: u64 = 64 << 20;

/// Its own state.
pub(super) fn status(admin: SocketAddr) -> anyhow::Result<StatusReport> {
    fetch(admin, "status")
}

/// Its open connections.
pub(super) fn connections(admin: SocketAddr) -> anyhow::Result<Vec<ConnectionReport>> {
    fetch(admin, "connections")
}

/// What it has seen.
pub(super) fn seen(admin: SocketAddr) -> anyhow::Result<SeenReport> {
    fetch(admin, "seen")
}

/// Tells the user that there is nobody to ask.
pub(super) fn nobody(error: &anyhow::Error) -> ExitCode {
    super::complain(&format_args!("{error:#}"));
    super::complain(&"is the agent running? --admin must be the admin address of its configuration");
    ExitCode::Unreachable
}

fn fetch<T: DeserializeOwned>(admin: SocketAddr, what: &str) -> anyhow::Result<T> {
    // No proxy: ureq would take one from the environment, and it could not reach our loopback.
    let config = ureq::Agent::config_builder().timeout_global(Some(DEADLINE)).proxy(None).build();
    let url = format!("http://{admin}/{what}");
    let asked = ureq::Agent::new_with_config(config).get(&url).call();
    let mut response = asked.with_context(|| format!("ask agent at {url}"))?;
    let body = response.body_mut().with_config().limit(ANSWER_LIMIT).read_to_string();
    let body = body.with_context(|| format!("read answer of {url}"))?;
    serde_json::from_str(&body).with_context(|| format!("{url} does not answer as an agent of this version"))
}
