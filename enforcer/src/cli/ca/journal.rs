//! `enforcer ca list | revoke | admit`: what control has issued, and how it dies.

use clap::Args as ClapArgs;
use serde::Serialize;

use super::super::ExitCode;
use super::super::operator::{Place, at, with_control};
use super::super::table::Table;
use crate::ca::domain::Reason;
use crate::identity::Identity;
use crate::protocol::revoke_request::What;
use crate::protocol::{AdmitRequest, Issued, ListRequest, RevokeRequest};

/// List the certificates that are valid, or revoked and not expired yet.
#[derive(Debug, ClapArgs)]
pub(super) struct List {
    #[command(flatten)]
    place: Place,
    /// Only those that are revoked.
    #[arg(long)]
    revoked: bool,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Revoke certificates: within a second no agent accepts them any more, and connections under them are closed.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
An identity is issued no more until `enforcer ca admit`, a node until a token is made for it. A workload whose \
certificate alone is revoked gets another at once, with another key.

Examples:
  enforcer ca revoke --identity spiffe://example.org/ns/default/sa/web --reason keyCompromise
  enforcer ca revoke --node node-a --reason cessationOfOperation")]
pub(super) struct Revoke {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    what: Doomed,
    /// Why (RFC 5280 5.3.1), as in keyCompromise or superseded.
    #[arg(long, default_value = "unspecified")]
    reason: Reason,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
struct Doomed {
    /// One certificate, by its serial number, hexadecimal.
    #[arg(long, value_name = "NUMBER")]
    serial: Option<String>,
    /// All certificates of an identity.
    #[arg(long, value_name = "SPIFFE-ID")]
    identity: Option<Identity>,
    /// All certificates that a node has, its own too.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

/// Let an identity be issued again after it was revoked.
#[derive(Debug, ClapArgs)]
pub(super) struct Admit {
    #[command(flatten)]
    place: Place,
    /// Which.
    #[arg(long, value_name = "SPIFFE-ID")]
    identity: Identity,
}

pub(super) fn list(args: &List) -> anyhow::Result<ExitCode> {
    let request = ListRequest { revoked_only: args.revoked };
    with_control(
        &args.place,
        async |mut control| Ok(control.list(request).await?.into_inner().certificates),
        |certificates| show(&certificates, args.json),
    )
}

pub(super) fn revoke(args: &Revoke) -> anyhow::Result<ExitCode> {
    let Doomed { serial, identity, node } = &args.what;
    let what = match (serial, identity, node) {
        (Some(serial), ..) => What::Serial(serial.clone()),
        (_, Some(identity), _) => What::Identity(identity.to_string()),
        (_, _, node) => What::Node(node.clone().unwrap_or_default()),
    };
    let request = RevokeRequest { what: Some(what), reason: args.reason.label().to_owned() };
    with_control(
        &args.place,
        async |mut control| Ok(control.revoke(request).await?.into_inner().certificates),
        |certificates| show(&certificates, args.json),
    )
}

pub(super) fn admit(args: &Admit) -> anyhow::Result<ExitCode> {
    let request = AdmitRequest { identity: args.identity.to_string() };
    with_control(
        &args.place,
        async |mut control| Ok(control.admit(request).await?.into_inner().changed),
        |changed| match changed {
            true => Ok(()),
            false => Ok(super::super::print(&format!("{} was not revoked\n", args.identity))?),
        },
    )
}

/// A certificate, for people and scripts.
#[derive(Serialize)]
struct Shown<'a> {
    serial: &'a str,
    name: &'a str,
    node: &'a str,
    not_before: String,
    not_after: String,
    authority: &'a str,
    revoked: Option<&'a str>,
    revoked_at: Option<String>,
}

fn show(certificates: &[Issued], json: bool) -> anyhow::Result<()> {
    let shown: Vec<Shown<'_>> = certificates.iter().map(describe).collect();
    if json {
        return Ok(super::super::print(&(serde_json::to_string_pretty(&shown)? + "\n"))?);
    }
    let mut table = Table::new(["SERIAL", "NAME", "NODE", "UNTIL", "AUTHORITY", "REVOKED"]);
    for certificate in shown {
        let revoked = certificate.revoked.map_or("-", |reason| reason).to_owned();
        let texts = [certificate.serial, certificate.name, certificate.node].map(str::to_owned);
        let [serial, name, node] = texts;
        table.row([serial, name, node, certificate.not_after, certificate.authority.to_owned(), revoked]);
    }
    Ok(super::super::print(&table.to_string())?)
}

fn describe(issued: &Issued) -> Shown<'_> {
    let is_revoked = !issued.revoked.is_empty();
    Shown {
        serial: &issued.serial,
        name: &issued.name,
        node: &issued.node,
        not_before: at(issued.not_before),
        not_after: at(issued.not_after),
        authority: &issued.authority,
        revoked: is_revoked.then_some(&issued.revoked),
        revoked_at: is_revoked.then(|| at(issued.revoked_at)),
    }
}
