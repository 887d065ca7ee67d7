//! A workload that wants a certificate of its own: it asks a SPIFFE Workload API, with the client that others use.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use pem::Pem;
use serde_json::json;
use spiffe::WorkloadApiClient;

use super::print;

#[derive(Debug, Args)]
pub(super) struct Fetch {
    /// Where the API is
    #[arg(long)]
    socket: PathBuf,
    /// A directory to write chain.pem, key.pem and bundle.pem to
    #[arg(long)]
    out: PathBuf,
}

/// Fetches and writes what came, and prints whom it names.
pub(super) fn run(fetch: &Fetch) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let context = runtime.block_on(async {
        let client = WorkloadApiClient::connect_to(format!("unix://{}", fetch.socket.display())).await?;
        client.fetch_x509_context().await
    });
    let context = context.context("ask the Workload API")?;
    let svid = context.default_svid().context("no certificate came")?;
    let bundle = context.bundle_set().get(svid.spiffe_id().trust_domain()).context("no bundle came")?;
    fs::create_dir_all(&fetch.out).with_context(|| format!("create {}", fetch.out.display()))?;
    let certificates = |all: &[spiffe::cert::Certificate]| -> Vec<Vec<u8>> {
        all.iter().map(|certificate| certificate.as_bytes().to_vec()).collect()
    };
    write(&fetch.out.join("chain.pem"), "CERTIFICATE", certificates(svid.cert_chain()))?;
    write(&fetch.out.join("bundle.pem"), "CERTIFICATE", certificates(bundle.authorities()))?;
    write(&fetch.out.join("key.pem"), "PRIVATE KEY", vec![svid.private_key().as_bytes().to_vec()])?;
    print(&json!({ "identity": svid.spiffe_id().to_string() }));
    Ok(())
}

fn write(path: &Path, label: &str, octets: Vec<Vec<u8>>) -> Result<()> {
    let blocks: Vec<_> = octets.into_iter().map(|octets| Pem::new(label, octets)).collect();
    fs::write(path, pem::encode_many(&blocks)).with_context(|| format!("write {}", path.display()))
}
