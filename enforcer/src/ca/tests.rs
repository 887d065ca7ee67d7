//! The embedded authority, on a real directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateSigningRequestDer;
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Authority, Embedded, Error, SigningRequest, WORKLOAD_LIFETIME};

const DOMAIN: &str = "example.org";

fn state() -> (TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    (folder, path)
}

fn request(identity: &str, lifetime: Duration) -> SigningRequest {
    let csr = CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap();
    SigningRequest { csr: csr.der().clone(), identity: identity.parse().unwrap(), lifetime }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_workload_certificate_says_what_it_should() {
    let (_folder, path) = state();
    let authority = Embedded::create(&path, DOMAIN).unwrap();
    let now = OffsetDateTime::now_utc();
    let issued = authority.issue(&request("spiffe://example.org/a", WORKLOAD_LIFETIME), now).unwrap();
    assert_eq!(issued.chain.len(), 2);
    let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    assert!(!leaf.is_ca());
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature() && !usage.value.key_cert_sign());
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.client_auth && extended.server_auth);
    let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.len(), 1);
    assert!(leaf.validity().not_before.to_datetime() <= now - Duration::minutes(4));
    assert!((leaf.validity().not_after.to_datetime() - now - WORKLOAD_LIFETIME).abs() < Duration::seconds(2));
    let serial: String = leaf.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((serial.len(), &serial), (32, &issued.serial));
    let again = authority.issue(&request("spiffe://example.org/a", WORKLOAD_LIFETIME), now).unwrap();
    assert_ne!(again.serial, issued.serial);
}

#[test]
fn bad_requests_are_refused() {
    let (_folder, path) = state();
    let authority = Embedded::create(&path, DOMAIN).unwrap();
    let now = OffsetDateTime::now_utc();
    let ask = |identity, lifetime| authority.issue(&request(identity, lifetime), now);
    assert!(matches!(ask("spiffe://example.com/a", WORKLOAD_LIFETIME), Err(Error::Foreign { .. })));
    for lifetime in [Duration::ZERO, Duration::minutes(4), Duration::hours(25), -Duration::HOUR] {
        assert!(matches!(ask("spiffe://example.org/a", lifetime), Err(Error::Lifetime)), "{lifetime}");
    }
    let late = authority.issue(&request("spiffe://example.org/a", WORKLOAD_LIFETIME), now + Duration::days(91));
    assert!(matches!(late, Err(Error::IssuerExpired { .. })));
    let mut broken = request("spiffe://example.org/a", WORKLOAD_LIFETIME);
    let mut der = broken.csr.to_vec();
    *der.last_mut().unwrap() ^= 1;
    for csr in [der, b"nonsense".to_vec(), Vec::new()] {
        broken.csr = CertificateSigningRequestDer::from(csr);
        assert!(matches!(authority.issue(&broken, now), Err(Error::Request(_))));
    }
}

#[test]
fn a_certificate_never_outlives_its_issuer() {
    let (_folder, path) = state();
    let authority = Embedded::create(&path, DOMAIN).unwrap();
    let nearly = OffsetDateTime::now_utc() + Duration::days(90) - Duration::minutes(30);
    let issued = authority.issue(&request("spiffe://example.org/a", WORKLOAD_LIFETIME), nearly).unwrap();
    assert!(issued.not_after < nearly + Duration::minutes(31));
}

#[test]
fn the_directory_is_for_its_owner_alone() {
    let (_folder, path) = state();
    Embedded::create(&path, DOMAIN).unwrap();
    assert_eq!(mode(&path), 0o700);
    for name in ["root.key", "intermediate.key", "root.pem", "intermediate.pem", "bundle.pem"] {
        assert_eq!(mode(&path.join(name)), 0o600, "{name}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
    assert!(matches!(Embedded::open(&path), Err(Error::Open { mode: 0o750, .. })));
}

#[test]
fn an_authority_is_kept_and_never_overwritten() {
    let (_folder, path) = state();
    let made = Embedded::open_or_create(&path, DOMAIN).unwrap();
    let again = Embedded::open_or_create(&path, DOMAIN).unwrap();
    assert_eq!(made.bundle(), again.bundle());
    assert!(matches!(Embedded::create(&path, DOMAIN), Err(Error::Exists { .. })));
    assert!(matches!(Embedded::open_or_create(&path, "example.com"), Err(Error::Content { .. })));
    let (_other, empty) = state();
    assert!(matches!(Embedded::create(&empty, "Example.org"), Err(Error::TrustDomain { .. })));
}

#[test]
fn missing_and_damaged_files_are_named() {
    for name in ["root.pem", "intermediate.key", "intermediate.pem", "bundle.pem"] {
        let (_folder, path) = state();
        Embedded::create(&path, DOMAIN).unwrap();
        fs::remove_file(path.join(name)).unwrap();
        let error = Embedded::open_or_create(&path, DOMAIN).map(drop).unwrap_err();
        assert!(matches!(&error, Error::Incomplete { missing, .. } if missing.contains(name)), "{error}");
    }
    for name in ["intermediate.key", "intermediate.pem", "bundle.pem"] {
        let (_folder, path) = state();
        Embedded::create(&path, DOMAIN).unwrap();
        fs::write(path.join(name), "-----BEGIN nonsense").unwrap();
        let error = Embedded::open(&path).map(drop).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn an_interrupted_renewal_is_finished_where_the_root_is_and_named_elsewhere() {
    let (_folder, path) = state();
    let (_other, out) = state();
    Embedded::create(&path, DOMAIN).unwrap().issue_node("b", &out).unwrap();
    for directory in [&path, &out] {
        fs::write(directory.join("intermediate.key"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    }
    let mended = Embedded::open(&path).unwrap();
    let issued =
        mended.issue(&request("spiffe://example.org/a", WORKLOAD_LIFETIME), OffsetDateTime::now_utc()).unwrap();
    let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    let (_, issuer) = X509Certificate::from_der(&issued.chain[1]).unwrap();
    assert!(leaf.verify_signature(Some(issuer.public_key())).is_ok());
    let error = Embedded::open(&out).map(drop).unwrap_err();
    assert!(error.to_string().contains("intermediate.key"), "{error}");
}

#[test]
fn another_host_gets_all_but_the_root_key() {
    let (_folder, path) = state();
    let (_other, out) = state();
    let authority = Embedded::create(&path, DOMAIN).unwrap();
    authority.issue_node("b", &out).unwrap();
    assert!(matches!(authority.issue_node("b", &out), Err(Error::Exists { .. })));
    let theirs = Embedded::open_or_create(&out, DOMAIN).unwrap();
    assert_eq!(theirs.bundle(), authority.bundle());
    assert_ne!(theirs.intermediate(), authority.intermediate());
    assert!(!out.join("root.key").exists());
    let (_third, nowhere) = state();
    assert!(matches!(theirs.issue_node("c", &nowhere), Err(Error::NoRootKey { .. })));
}
