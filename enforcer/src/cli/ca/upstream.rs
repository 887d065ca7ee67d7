//! `enforcer ca csr | import`: an authority above ours.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args as ClapArgs;

use super::super::ExitCode;
use super::super::operator::{Place, with_control};
use super::rotate::show;
use crate::protocol::{ImportRequest, RequestRequest};

/// Print a certificate request for an upstream authority, PKCS#10 in PEM.
///
/// Have it signed as an authority below which no other is (path length 0), with the URI of the trust domain in it.
#[derive(Debug, ClapArgs)]
pub(super) struct Csr {
    #[command(flatten)]
    place: Place,
}

/// Take the answer of an upstream authority as the next authority of a rotation.
///
/// `enforcer ca rotate activate` then issues under it, `enforcer ca rotate retire` takes leave of the root before.
#[derive(Debug, ClapArgs)]
pub(super) struct Import {
    #[command(flatten)]
    place: Place,
    /// PEM file: the certificate for the request, those above it, and the root last.
    #[arg(long, value_name = "FILE")]
    chain: PathBuf,
    /// JSON instead of tables.
    #[arg(long)]
    json: bool,
}

pub(super) fn csr(args: &Csr) -> anyhow::Result<ExitCode> {
    with_control(
        &args.place,
        async |mut control| Ok(control.request(RequestRequest {}).await?.into_inner().pem),
        |pem| Ok(super::super::print(&pem)?),
    )
}

pub(super) fn import(args: &Import) -> anyhow::Result<ExitCode> {
    let chain = fs::read_to_string(&args.chain).with_context(|| format!("read {}", args.chain.display()))?;
    let request = ImportRequest { chain };
    with_control(
        &args.place,
        async |mut control| Ok(control.import(request).await?.into_inner()),
        |authorities| show(&authorities, args.json),
    )
}
