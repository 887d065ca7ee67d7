//! An authority above ours signs what issues, and takes the place of our own root without a break.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use enforcer_tests::control::Control;
use libtest_mimic::Trial;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::Node;
use crate::stage::promises;

pub(super) fn trials() -> Vec<Trial> {
    promises![an_upstream_authority_follows_our_own]
}

async fn an_upstream_authority_follows_our_own(directory: PathBuf) -> Result<()> {
    let control = Control::start(&directory, &["a"])?;
    let node = Node::join(&control, "node-a", &directory).await?;
    let request = control.done(&["ca", "csr"])?;
    let (root, chain) = signed(&request, KeyUsagePurpose::KeyCertSign)?;
    let import = |chain: &str| {
        let file = directory.join("chain.pem");
        fs::write(&file, chain)?;
        control.ask(&["ca", "import", "--chain", &file.display().to_string()])
    };
    // Not ours, not whole, not an authority: nothing is taken.
    let (_, foreign) = signed(&control.done(&["ca", "csr"])?, KeyUsagePurpose::DigitalSignature)?;
    let cases = [
        (root.clone(), "no two certificates"),
        (format!("{root}{root}"), "the key of no request"),
        ("-----BEGIN CERTIFICATE-----\n".to_owned(), "upstream authority"),
        (foreign, "upstream authority"),
    ];
    for (chain, why) in cases {
        let refused = import(&chain)?.failure()?;
        ensure!(refused.contains(why), "not `{why}` but: {refused}");
    }
    import(&chain)?.success()?;
    let mut trusted = enforcer::identity::source::Source::trusted(&*node.client);
    while trusted.current().roots.len() != 2 {
        trusted.changed().await;
    }
    // The node says what it has in force when it has it.
    enforcer_tests::wait::until("the moment to activate", enforcer_tests::wait::patience(), || {
        Ok(control.ask(&["ca", "rotate", "activate"])?.status.success().then_some(()))
    })?;
    let issued = node.issue("a").await?;
    ensure!(issued.chain.len() == 3, "a chain of {} certificates", issued.chain.len());
    let bundle = directory.join("upstream.pem");
    fs::write(&bundle, &root)?;
    check(&directory, &issued.chain, &bundle)
}

/// Has `enforcer ca check` judge it with the upstream root alone.
fn check(directory: &Path, chain: &[rustls::pki_types::CertificateDer<'_>], bundle: &Path) -> Result<()> {
    let file = directory.join("issued.pem");
    let pem = chain.iter().map(|certificate| pem::encode(&pem::Pem::new("CERTIFICATE", certificate.to_vec())));
    fs::write(&file, pem.collect::<String>())?;
    let credentials =
        enforcer_tests::authority::Credentials { certificate: file, key: PathBuf::new(), bundle: bundle.to_owned() };
    let finished = enforcer_tests::authority::check(&credentials, "a")?;
    ensure!(finished.status.success(), "{}{}", finished.stdout, finished.stderr);
    Ok(())
}

/// What a root and an intermediate of somebody else make of a request: the root, and the whole chain.
fn signed(request: &str, usage: KeyUsagePurpose) -> Result<(String, String)> {
    let authority = |name: &str, depth| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(depth));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(rcgen::SerialNumber::from(7_u64 + u64::from(depth)));
        params
    };
    let (root_params, root_key) = (authority("somebody's root", 2), KeyPair::generate()?);
    let root = root_params.self_signed(&root_key)?.pem();
    let root_issuer = Issuer::new(root_params, root_key);
    let (above_params, above_key) = (authority("somebody's intermediate", 1), KeyPair::generate()?);
    let above = above_params.signed_by(&above_key, &root_issuer)?.pem();
    let above_issuer = Issuer::new(above_params, above_key);
    let mut csr = CertificateSigningRequestParams::from_pem(request)?;
    csr.params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    csr.params.key_usages = vec![usage, KeyUsagePurpose::CrlSign];
    csr.params.serial_number = Some(rcgen::SerialNumber::from(99_u64));
    let ours = csr.signed_by(&above_issuer)?.pem();
    Ok((root.clone(), format!("{ours}{above}{root}")))
}
