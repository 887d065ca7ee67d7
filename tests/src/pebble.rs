//! Pebble, the ACME server for tests, in the network of the machine outside, from where it looks who has a name.
//!
//! Agents are in the network of the host, so the way to it is a pair of socats with a Unix socket between them. Pebble
//! forgets everything when it is stopped, its own key included; `pebble-challtestsrv` is the DNS that it asks.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::json;

use crate::agent::free_address;
use crate::ground::Ground;
use crate::place::Place;
use crate::process::Running;

/// Where it listens, on the loopback of the machine outside: for ACME, for the suite, and its DNS for it.
const ACME: u16 = 14_000;
const MANAGEMENT: u16 = 14_001;
const DNS: u16 = 14_053;
const DNS_MANAGEMENT: u16 = 14_054;

/// Some of its requests are refused, as those of a real one are (`badNonce`); the others are answered at once.
const ENVIRONMENT: [&str; 2] = ["PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=10"];

/// One pebble, which runs or does not.
#[derive(Debug)]
pub struct Pebble {
    /// Where agents find it.
    address: SocketAddr,
    outside: Place,
    host: Place,
    directory: PathBuf,
    running: Option<Running>,
    /// The way to it and its DNS, which stay when it does not.
    _beside: Vec<Running>,
}

impl Pebble {
    /// Prepares one that finds every name at these addresses and proves it on `port`. It does not run yet.
    pub fn new(ground: &Ground, names: [IpAddr; 2], port: u16) -> Result<Pebble> {
        let directory = ground.directory("pebble");
        fs::create_dir(&directory).with_context(|| format!("create {}", directory.display()))?;
        certify(&directory)?;
        let file = |name: &str| directory.join(name).display().to_string();
        let config = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{ACME}"),
            "managementListenAddress": format!("127.0.0.1:{MANAGEMENT}"),
            "certificate": file("pebble.pem"),
            "privateKey": file("pebble.key"),
            "httpPort": 1,
            "tlsPort": port,
        }});
        fs::write(directory.join("pebble.json"), config.to_string()).context("write the configuration of pebble")?;
        let (address, outside, host) = (free_address()?, ground.outside.clone(), ground.host.clone());
        let socket = file("way.sock");
        let near = format!("TCP-LISTEN:{},bind=127.0.0.1,fork,reuseaddr", address.port());
        let beside = vec![
            host.start("socat", &[&near, &format!("UNIX-CONNECT:{socket}")])?,
            outside.start("socat", &[&format!("UNIX-LISTEN:{socket},fork"), &format!("TCP:127.0.0.1:{ACME}")])?,
            dns(&outside, names)?,
        ];
        Ok(Pebble { address, outside, host, directory, running: None, _beside: beside })
    }

    /// The URL of its directory, as agents have it.
    pub fn url(&self) -> String {
        format!("https://{}/dir", self.address)
    }

    /// The roots that its own certificate is verified against.
    pub fn roots(&self) -> PathBuf {
        self.directory.join("roots.pem")
    }

    /// Starts it; returns when agents reach it.
    pub fn start(&mut self) -> Result<()> {
        let config = self.directory.join("pebble.json").display().to_string();
        let dns = format!("127.0.0.1:{DNS}");
        let command = [&ENVIRONMENT[..], &["pebble", "-config", &config, "-dnsserver", &dns]].concat();
        let running = self.running.insert(self.outside.start("env", &command)?);
        let namespace = self.outside.namespace.as_ref().context("pebble runs in a namespace")?;
        for port in [ACME, MANAGEMENT] {
            namespace.wait_for_listener(port, running)?;
        }
        let url = self.url();
        let roots = self.roots().display().to_string();
        self.host.run("curl", &["--silent", "--show-error", "--noproxy", "*", "--cacert", &roots, &url]).map(drop)
    }

    /// Stops it: it answers nobody, and forgets everything.
    pub fn stop(&mut self) {
        self.running = None;
    }

    /// The root of what it issues, in a file; another one after each start.
    pub fn issuing_root(&self) -> Result<PathBuf> {
        let url = format!("https://127.0.0.1:{MANAGEMENT}/roots/0");
        let root =
            self.outside.run("curl", &["--silent", "--show-error", "--fail", "--insecure", "--noproxy", "*", &url])?;
        let file = self.directory.join("issuing-root.pem");
        fs::write(&file, root).context("write pebble's root")?;
        Ok(file)
    }

    /// How many certificates it has issued since it was started.
    pub fn issued(&self) -> Result<usize> {
        let log = self.running.as_ref().context("pebble does not run")?.stdout()?;
        Ok(log.lines().filter(|line| line.contains("Issued certificate serial")).count())
    }
}

/// The DNS that pebble asks: every name is at these addresses.
fn dns(outside: &Place, [v4, v6]: [IpAddr; 2]) -> Result<Running> {
    let (v4, v6) = (v4.to_string(), v6.to_string());
    let (dns, management) = (format!("127.0.0.1:{DNS}"), format!("127.0.0.1:{DNS_MANAGEMENT}"));
    let nothing_else = ["-http01", "", "-https01", "", "-tlsalpn01", ""];
    let wanted = ["-defaultIPv4", &v4, "-defaultIPv6", &v6, "-dns01", &dns, "-management", &management];
    outside.start("pebble-challtestsrv", &[&nothing_else[..], &wanted].concat())
}

/// Makes a root, and the certificate with which pebble proves who it is.
fn certify(directory: &Path) -> Result<()> {
    let write =
        |name: &str, text: String| fs::write(directory.join(name), text).with_context(|| format!("write {name}"));
    let mut root = CertificateParams::default();
    root.distinguished_name.push(DnType::CommonName, "root of pebble's own certificate");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().context("make a key")?;
    write("roots.pem", root.self_signed(&key).context("make pebble's root")?.pem())?;
    let issuer = Issuer::new(root, key);
    let key = KeyPair::generate().context("make a key")?;
    let leaf = CertificateParams::new(["127.0.0.1".to_owned()]).context("name pebble")?;
    write("pebble.pem", leaf.signed_by(&key, &issuer).context("make pebble's certificate")?.pem())?;
    write("pebble.key", key.serialize_pem())
}
