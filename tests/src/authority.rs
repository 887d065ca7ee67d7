//! Certificates: through `enforcer ca`, as an operator gets them, and forged ones that it would never issue.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd};

use crate::config::{TRUST_DOMAIN, identity};
use crate::process::{self, Finished, Running};
use crate::settings;

/// Files in PEM for a peer that does its own TLS.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The certificate, followed by the intermediate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The root to trust.
    pub bundle: PathBuf,
}

/// Makes a new CA in `state`.
pub fn init(state: &Path) -> Result<()> {
    init_for(state, TRUST_DOMAIN)
}

/// The same of another trust domain.
pub fn init_for(state: &Path, trust_domain: &str) -> Result<()> {
    process::run(
        Command::new(settings::enforcer_binary()?)
            .args(["ca", "init", "--trust-domain", trust_domain, "--state-dir"])
            .arg(state),
    )
    .map(drop)
}

/// Makes the state of another node, `out`, from the CA in `state`.
pub fn enrol_node(state: &Path, node: &str, out: &Path) -> Result<()> {
    process::run(
        Command::new(settings::enforcer_binary()?)
            .args(["ca", "issue", "--node", node, "--state-dir"])
            .arg(state)
            .arg("--out")
            .arg(out),
    )
    .map(drop)
}

/// Issues a certificate for a peer without an agent.
pub fn issue(state: &Path, account: &str, out: &Path) -> Result<Credentials> {
    issue_for(state, &identity(account), out)
}

/// The same for any identity.
pub fn issue_for(state: &Path, identity: &str, out: &Path) -> Result<Credentials> {
    process::run(
        Command::new(settings::enforcer_binary()?)
            .args(["ca", "issue", "--identity", identity, "--state-dir"])
            .arg(state)
            .arg("--out")
            .arg(out),
    )?;
    Ok(Credentials { certificate: out.join("chain.pem"), key: out.join("key.pem"), bundle: out.join("bundle.pem") })
}

/// Forges a certificate that ran out in 2021, rightly signed by the intermediate in `state`.
pub fn forge_expired(state: &Path, account: &str, out: &Path) -> Result<Credentials> {
    forge(state, &identity(account), [2020, 2021], out)
}

/// Forges a certificate for an identity that the authority in `state` would not certify, rightly signed by its
/// intermediate.
pub fn forge_for(state: &Path, identity: &str, out: &Path) -> Result<Credentials> {
    forge(state, identity, [2020, 2099], out)
}

fn forge(state: &Path, identity: &str, [begins, ends]: [i32; 2], out: &Path) -> Result<Credentials> {
    let intermediate = read(&state.join("intermediate.pem"))?;
    let signing_key =
        KeyPair::from_pem(&read(&state.join("intermediate.key"))?).context("read the key of the intermediate")?;
    let issuer = Issuer::from_ca_cert_pem(&intermediate, signing_key).context("read the intermediate")?;

    let mut leaf = CertificateParams::default();
    leaf.not_before = date_time_ymd(begins, 1, 1);
    leaf.not_after = date_time_ymd(ends, 1, 1);
    leaf.subject_alt_names = vec![SanType::URI(identity.try_into().context("write the identity")?)];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().context("make a key")?;
    let certificate = leaf.signed_by(&key, &issuer).context("sign the certificate")?;

    fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    let credentials =
        Credentials { certificate: out.join("chain.pem"), key: out.join("key.pem"), bundle: state.join("bundle.pem") };
    fs::write(&credentials.certificate, certificate.pem() + &intermediate).context("write the certificate")?;
    fs::write(&credentials.key, key.serialize_pem()).context("write the key")?;
    Ok(credentials)
}

/// Has enforcer judge the certificate that a peer would present, as that of `account`.
pub fn check(credentials: &Credentials, account: &str) -> Result<Finished> {
    let directory = credentials.certificate.parent().context("the certificate is in no directory")?;
    let mut command = Command::new(settings::enforcer_binary()?);
    command.args(["ca", "check", "--identity", &identity(account), "--chain"]).arg(&credentials.certificate);
    Running::start(command.arg("--bundle").arg(&credentials.bundle), "check", directory)?.finish()
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}
