//! etcd, as Debian has it: one member, killed and started again as a suite likes.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use enforcer::ca::store::etcd::{Config, Tls};
use enforcer_tests::process::Running;
use enforcer_tests::{http, wait};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};

use crate::stage;

const BINARY: &str = "/usr/bin/etcd";

/// A server; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Etcd {
    directory: PathBuf,
    ports: Ports,
    /// With mutual TLS: what clients need.
    tls: Option<Tls>,
    running: Option<Running>,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    clients: u16,
    peers: u16,
    health: u16,
}

impl Etcd {
    /// Starts one without TLS, with its data in `directory`.
    pub(crate) fn start(directory: &Path) -> Result<Self> {
        Self::started(directory, None)
    }

    /// Starts one that wants certificates from its clients.
    pub(crate) fn start_with_tls(directory: &Path) -> Result<Self> {
        let tls = certificates(directory)?;
        Self::started(directory, Some(tls))
    }

    fn started(directory: &Path, tls: Option<Tls>) -> Result<Self> {
        let [clients, peers, health] = stage::free_ports()?;
        let ports = Ports { clients, peers, health };
        let mut etcd = Self { directory: directory.to_owned(), ports, tls, running: None };
        etcd.resume()?;
        Ok(etcd)
    }

    /// Starts it again with the data that it has, and waits until it is healthy.
    pub(crate) fn resume(&mut self) -> Result<()> {
        let Ports { clients: _, peers, health } = self.ports;
        let peers = format!("http://127.0.0.1:{peers}");
        let (clients, health) = (self.endpoint(), format!("http://127.0.0.1:{health}"));
        let mut command = stage::server(stage::installed(BINARY)?);
        command.args(["--name", "one", "--data-dir"]).arg(self.directory.join("etcd"));
        command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
        command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
        command.args(["--initial-cluster", &format!("one={peers}"), "--listen-metrics-urls", &health]);
        // There is nobody else to be elected, so it need not wait for a second.
        command.args(["--heartbeat-interval", "20", "--election-timeout", "200"]);
        if let Some(Tls { ca, .. }) = &self.tls {
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(ca);
            command.arg("--cert-file").arg(self.directory.join("server.pem"));
            command.arg("--key-file").arg(self.directory.join("server.key"));
        }
        let mut running = Running::start(&mut command, "etcd", &self.directory)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.health));
        wait::until("etcd to be healthy", wait::patience(), || {
            running.check_alive()?;
            let answer = http::get(address, "/health").ok();
            Ok(answer.filter(|(code, body)| *code == 200 && body.contains("true")))
        })?;
        self.running = Some(running);
        Ok(())
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.running.take().context("etcd does not run")?.kill()
    }

    /// Stops and continues it.
    pub(crate) fn process(&self) -> Result<&Running> {
        self.running.as_ref().context("etcd does not run")
    }

    /// Where clients reach it.
    pub(crate) fn endpoint(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.ports.clients)
    }

    /// How clients reach it.
    pub(crate) fn config(&self, prefix: &str) -> Config {
        Config { endpoints: vec![self.endpoint()], prefix: prefix.to_owned(), tls: self.tls.clone(), user: None }
    }
}

/// A CA, the certificate of a server, and that of a client.
pub(crate) fn certificates(directory: &Path) -> Result<Tls> {
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let root_certificate = root.self_signed(&key)?;
    let issuer = Issuer::new(root, key);
    let write = |name: &str, content: String| {
        let path = directory.join(name);
        fs::write(&path, content).with_context(|| format!("write {}", path.display())).map(|()| path)
    };
    let issue = |name: &str| {
        let mut leaf = CertificateParams::default();
        leaf.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
        // etcd is also its own client.
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = leaf.signed_by(&key, &issuer)?;
        let key = write(&format!("{name}.key"), key.serialize_pem())?;
        anyhow::Ok((write(&format!("{name}.pem"), certificate.pem())?, key))
    };
    issue("server")?;
    let (certificate, key) = issue("client")?;
    Ok(Tls { ca: write("ca.pem", root_certificate.pem())?, certificate, key })
}
