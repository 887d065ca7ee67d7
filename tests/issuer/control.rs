//! `enforcer control` with the agent's own client, and with those who mean harm.

mod balanced;
mod etcd_killed;
mod keys;
mod refused;
mod replicas;
mod upstream;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use enforcer::ca::{Issued, SigningRequest};
use enforcer::identity::client::{Control as Client, Wanted};
use enforcer::identity::source::Source;
use enforcer_tests::config::{TRUST_DOMAIN, identity};
use enforcer_tests::control::Control;
use libtest_mimic::Trial;
use rcgen::{CertificateParams, KeyPair};
use tokio_util::sync::CancellationToken;

pub(crate) fn trials() -> Vec<Trial> {
    let trials = [
        keys::trials(),
        refused::trials(),
        replicas::trials(),
        balanced::trials(),
        etcd_killed::trials(),
        upstream::trials(),
    ];
    trials.into_iter().flatten().collect()
}

/// A node that joins, or has joined: what an agent does, without the agent.
struct Node {
    client: std::sync::Arc<Client>,
    stop: CancellationToken,
}

impl Node {
    async fn join(control: &Control, name: &str, directory: &Path) -> Result<Self> {
        let token = control.token(name)?;
        Self::join_with(control, name, directory, &token).await
    }

    async fn join_with(control: &Control, name: &str, directory: &Path, token: &Path) -> Result<Self> {
        Self::join_at(control.address, name, directory, token).await
    }

    async fn join_at(address: SocketAddr, name: &str, directory: &Path, token: &Path) -> Result<Self> {
        let stop = CancellationToken::new();
        let wanted = Wanted {
            address: address.to_string(),
            token: Some(token.to_owned()),
            grace: Duration::ZERO,
            directory: directory.join(format!("{name}-state")),
            trust_domain: TRUST_DOMAIN.to_owned(),
            node: name.to_owned(),
        };
        let client = Client::start(wanted, &stop).await?;
        Ok(Self { client, stop })
    }

    async fn issue(&self, account: &str) -> Result<Issued> {
        self.issue_for(account, request()?).await
    }

    async fn issue_for(&self, account: &str, csr: Vec<u8>) -> Result<Issued> {
        let request = SigningRequest {
            csr: csr.into(),
            identity: identity(account).parse()?,
            lifetime: enforcer::ca::WORKLOAD_LIFETIME,
        };
        self.client.issue(request).await.map_err(|refused| anyhow!("{refused}"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn request() -> Result<Vec<u8>> {
    let request = CertificateParams::default().serialize_request(&KeyPair::generate()?)?;
    Ok(request.der().to_vec())
}

/// The serial numbers that control knows.
fn known(control: &Control) -> Result<HashSet<String>> {
    serials(&control.told(&["ca", "list"])?)
}

/// The serial numbers in a list.
fn serials(list: &serde_json::Value) -> Result<HashSet<String>> {
    let list = list.as_array().context("no list")?;
    Ok(list.iter().filter_map(|listed| listed["serial"].as_str().map(str::to_owned)).collect())
}
