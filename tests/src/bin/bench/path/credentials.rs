//! Certificates of sidecars, of the same shape as ours: P-256, a root, an intermediate, and a leaf with a SPIFFE identity.
//! Beside it the leaf has a name of the DNS, because nginx and HAProxy verify no other.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use enforcer_tests::authority::Credentials;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

const TRUST_DOMAIN: &str = "mesh.internal";

/// Issues them.
pub(super) struct Authority {
    intermediate: Issuer<'static, KeyPair>,
    /// The certificate of the intermediate, and that of the root.
    chain: [String; 2],
}

impl Authority {
    pub(super) fn create() -> Result<Authority> {
        let (root_key, key) = (KeyPair::generate()?, KeyPair::generate()?);
        let (root, intermediate) = (authority("root", 1)?, authority("intermediate", 0)?);
        let root_certificate = root.self_signed(&root_key).context("sign the root")?.pem();
        let root = Issuer::new(root, root_key);
        let certificate = intermediate.signed_by(&key, &root).context("sign the intermediate")?.pem();
        Ok(Authority { intermediate: Issuer::new(intermediate, key), chain: [certificate, root_certificate] })
    }

    /// Writes `chain.pem`, `key.pem`, `bundle.pem`, and `node.pem`, which is the first two in one.
    pub(super) fn issue(&self, account: &str, directory: &Path) -> Result<Credentials> {
        let mut leaf = CertificateParams::new([format!("{account}.{TRUST_DOMAIN}")])?;
        leaf.distinguished_name.push(DnType::CommonName, account);
        let identity = format!("spiffe://{TRUST_DOMAIN}/{account}");
        leaf.subject_alt_names.push(SanType::URI(identity.as_str().try_into().context("write the identity")?));
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = leaf.signed_by(&key, &self.intermediate).context("sign a leaf")?;

        let [intermediate, root] = &self.chain;
        let (chain, key) = (certificate.pem() + intermediate, key.serialize_pem());
        let write = |name: &str, content: &str| -> Result<PathBuf> {
            let file = directory.join(name);
            fs::write(&file, content).with_context(|| format!("write {}", file.display()))?;
            Ok(file)
        };
        write("node.pem", &(chain.clone() + &key))?;
        Ok(Credentials {
            certificate: write("chain.pem", &chain)?,
            key: write("key.pem", &key)?,
            bundle: write("bundle.pem", root)?,
        })
    }
}

fn authority(name: &str, below: u8) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, format!("{TRUST_DOMAIN} {name}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}
