//! `enforcer ca rotate` and, where control answers, `enforcer ca show`: authorities, and who trusts which.

use std::fmt::Write as _;

use clap::{Args as ClapArgs, Subcommand};
use serde::Serialize;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::super::ExitCode;
use super::super::operator::{Place, at, with_control};
use super::super::table::Table;
use crate::protocol::rotate_request::Step;
use crate::protocol::{Authorities, RotateRequest, ShowRequest};

/// Replace the root, in steps, while no connection is refused. Nothing rotates by itself.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
  prepare    makes the next root; everybody trusts both, the first one issues
  activate   the next one issues, and everybody renews at once; refused until all nodes trust it
  retire     the first one is trusted no more; refused while a live certificate needs it

Example:
  enforcer ca rotate prepare && enforcer ca rotate status")]
pub(super) struct Args {
    #[command(subcommand)]
    step: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the next root, and have everybody trust it.
    Prepare(Options),
    /// Issue under the next root.
    Activate(Options),
    /// Trust the former root no more, and destroy its keys.
    Retire(Options),
    /// Show where a rotation is.
    Status(Options),
}

#[derive(Debug, ClapArgs)]
struct Options {
    #[command(flatten)]
    place: Place,
    /// Although connections will be refused.
    #[arg(long)]
    force: bool,
    /// JSON instead of tables.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (step, options) = match &args.step {
        Verb::Prepare(options) => (Step::Prepare, options),
        Verb::Activate(options) => (Step::Activate, options),
        Verb::Retire(options) => (Step::Retire, options),
        Verb::Status(options) => return status(&options.place, options.json),
    };
    let request = RotateRequest { step: step.into(), force: options.force };
    with_control(
        &options.place,
        async |mut control| Ok(control.rotate(request).await?.into_inner()),
        |authorities| show(&authorities, options.json),
    )
}

/// Where a rotation is.
pub(super) fn status(place: &Place, json: bool) -> anyhow::Result<ExitCode> {
    with_control(
        place,
        async |mut control| Ok(control.show(ShowRequest {}).await?.into_inner()),
        |authorities| show(&authorities, json),
    )
}

#[derive(Serialize)]
struct Shown {
    trust_domain: String,
    trust_version: u64,
    authorities: Vec<ShownAuthority>,
    nodes: Vec<ShownNode>,
}

#[derive(Serialize)]
struct ShownAuthority {
    id: String,
    state: String,
    root_until: String,
    intermediate_until: String,
    live: u32,
}

#[derive(Serialize)]
struct ShownNode {
    name: String,
    joined: bool,
    until: Option<String>,
    trust_version: u64,
}

fn describe(authorities: &Authorities) -> Shown {
    let nodes = authorities.nodes.iter().map(|node| ShownNode {
        name: node.name.clone(),
        joined: node.expires != 0,
        until: (node.expires != 0).then(|| at(node.expires)),
        trust_version: node.trust_version,
    });
    let shown = authorities.authorities.iter().map(|authority| ShownAuthority {
        id: authority.id.clone(),
        state: authority.state.clone(),
        root_until: end(&authority.root),
        intermediate_until: end(&authority.intermediate),
        live: authority.live,
    });
    Shown {
        trust_domain: authorities.trust_domain.clone(),
        trust_version: authorities.trust_version,
        authorities: shown.collect(),
        nodes: nodes.collect(),
    }
}

fn end(certificate: &[u8]) -> String {
    let parsed = X509Certificate::from_der(certificate);
    parsed.map_or_else(|_none| "?".to_owned(), |(_, parsed)| at(parsed.validity().not_after.timestamp()))
}

pub(super) fn show(authorities: &Authorities, json: bool) -> anyhow::Result<()> {
    let shown = describe(authorities);
    if json {
        return Ok(super::super::print(&(serde_json::to_string_pretty(&shown)? + "\n"))?);
    }
    let mut text = format!("trust domain {}, version {} of the trust\n\n", shown.trust_domain, shown.trust_version);
    let mut table = Table::new(["AUTHORITY", "STATE", "ROOT UNTIL", "INTERMEDIATE UNTIL", "LIVE CERTIFICATES"]);
    for ShownAuthority { id, state, root_until, intermediate_until, live } in shown.authorities {
        table.row([id, state, root_until, intermediate_until, live.to_string()]);
    }
    writeln!(text, "{table}")?;
    let mut table = Table::new(["NODE", "CERTIFICATE UNTIL", "TRUSTS VERSION"]);
    for ShownNode { name, until, trust_version, .. } in shown.nodes {
        table.row([name, until.unwrap_or_else(|| "not joined".to_owned()), trust_version.to_string()]);
    }
    write!(text, "{table}")?;
    Ok(super::super::print(&text)?)
}
