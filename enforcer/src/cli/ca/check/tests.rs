//! The verb on files that an authority has written, and on others.

use std::fs;

use clap::Parser;
use tempfile::TempDir;

use super::*;
use crate::ca::Embedded;
use crate::cli::Cli;

const WEB: &str = "spiffe://example.org/ns/default/sa/web";

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

/// A directory with `chain.pem` and `bundle.pem` for [`WEB`], and with whatever a test puts beside them.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        let state = files.path("state");
        Embedded::create(Path::new(&state), "example.org").unwrap();
        let line = ["enforcer", "ca", "issue", "--state-dir", &state, "--identity", WEB, "--out", &files.path("web")];
        assert_eq!(Cli::parse_from(line).run(), ExitCode::Ok);
        for name in ["chain.pem", "bundle.pem"] {
            fs::copy(files.path(&format!("web/{name}")), files.path(name)).unwrap();
        }
        files
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    /// The verdict, or what is wrong with the files.
    fn check(&self, more: &[&str]) -> Result<String, String> {
        self.check_chain("chain.pem", more)
    }

    fn check_chain(&self, chain: &str, more: &[&str]) -> Result<String, String> {
        let (chain, bundle) = (self.path(chain), self.path("bundle.pem"));
        let mut line = vec!["check", "--chain", &chain];
        if !more.contains(&"--bundle") {
            line.extend(["--bundle", &bundle]);
        }
        line.extend(more);
        let args = Line::try_parse_from(line).map_err(|error| error.to_string())?.args;
        let verdict = judge(&args).map_err(|input| format!("{:#}", anyhow::Error::new(input)))?;
        Ok(describe(&verdict, args.json).unwrap())
    }
}

#[test]
fn what_was_issued_is_accepted() {
    let files = Files::new();
    for more in [
        &[][..],
        &["--identity", WEB],
        &["--trust-domain", "example.org"],
        &["--role", "client"],
        &["--role", "server", "--identity", WEB],
    ] {
        let text = files.check(more).unwrap();
        assert!(text.starts_with("accept\n") && text.contains(WEB) && text.contains("intermediates  1"), "{text}");
    }
    let json: serde_json::Value = serde_json::from_str(&files.check(&["--json"]).unwrap()).unwrap();
    assert_eq!((&json["verdict"], &json["identity"]), (&"accept".into(), &WEB.into()));
    assert!(OffsetDateTime::parse(json["until"].as_str().unwrap(), &Rfc3339).is_ok(), "{json}");
}

#[test]
fn what_is_refused_is_refused_with_its_code() {
    let files = Files::new();
    let cases: [(&[&str], &str); 4] = [
        (&["--identity", "spiffe://example.org/ns/default/sa/db"], "identity-other"),
        (&["--trust-domain", "example.com"], "identity-other"),
        (&["--time", "2020-01-31T12:00:00Z"], "workload-not-yet-valid"),
        (&["--time", "2220-01-31T12:00:00+01:00"], "workload-expired"),
    ];
    for (more, code) in cases {
        let text = files.check(more).unwrap();
        assert!(text.starts_with(&format!("reject\n  {code}: ")), "{text}");
        let json = files.check(&[more, &["--json"]].concat()).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["verdict"], &json["code"]), (&"reject".into(), &code.into()));
    }
    // What is in the chain is what a peer has sent: to be judged, whatever it is.
    files.write("noise.der", [&[0x30, 0x82, 1, 0][..], &[7; 300]].concat());
    assert!(files.check_chain("noise.der", &[]).unwrap().contains("workload-malformed"));
}

#[test]
fn files_are_read_by_what_is_in_them() {
    let files = Files::new();
    let chain = fs::read(files.path("chain.pem")).unwrap();
    let ders: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(&chain).map(Result::unwrap).collect();
    files.write("leaf.pem", &ders[0]);
    let intermediate = files.write("intermediate.txt", &ders[1]);
    let text = files.check_chain("leaf.pem", &["--bundle", &intermediate]).unwrap();
    assert!(text.contains("intermediates  0"), "{text}");
    assert!(files.check_chain("leaf.pem", &[]).unwrap().contains("unknown-issuer"));
    let key = fs::read(files.path("web/key.pem")).unwrap();
    files.write("all.der", [b"0 first a key\n", &key[..], &chain].concat());
    assert!(files.check_chain("all.der", &[]).unwrap().starts_with("accept"));
}

#[test]
fn revocation_lists_are_asked_for_every_certificate() {
    use rcgen::{CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, SerialNumber};
    let files = Files::new();
    let now = OffsetDateTime::now_utc();
    let list = |name: &str| {
        let params = CertificateRevocationListParams {
            this_update: now - time::Duration::HOUR,
            next_update: now + time::Duration::HOUR,
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let pem = |kind: &str| fs::read_to_string(files.path(&format!("state/{name}.{kind}"))).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&pem("pem"), KeyPair::from_pem(&pem("key")).unwrap()).unwrap();
        params.signed_by(&issuer).unwrap()
    };
    let root = files.write("root.crl", list("root").pem().unwrap());
    let intermediate = files.write("intermediate.crl", list("intermediate").der());
    assert!(files.check(&["--crl", &root, "--crl", &intermediate]).unwrap().starts_with("accept"));
    assert!(files.check(&["--crl", &root]).unwrap().contains("revocation-unknown"));
    let unusable = files.check(&["--crl", &root, "--crl", &files.path("chain.pem")]).unwrap_err();
    assert!(unusable.contains("chain.pem holds no revocation list"), "{unusable}");
    let noise = files.write("noise.crl", [&[0x30, 0x82, 1, 0][..], &[7; 300]].concat());
    let unusable = files.check(&["--crl", &root, "--crl", &noise]).unwrap_err();
    assert!(unusable.contains("noise.crl: revocation list 1 cannot be read"), "{unusable}");
}

#[test]
fn what_cannot_be_used_is_named() {
    let files = Files::new();
    let torn = fs::read_to_string(files.path("chain.pem")).unwrap().replacen("-----END", "", 1);
    files.write("torn.pem", torn);
    let (empty, noise) =
        (files.write("empty", ""), files.write("noise", [&[0x30, 0x82, 1, 0][..], &[7; 300]].concat()));
    let missing = files.path("missing");
    let cases: [(Result<String, String>, &str); 8] = [
        (files.check_chain("missing", &[]), "missing: No such file"),
        (files.check_chain("torn.pem", &[]), "torn.pem holds PEM that cannot be read"),
        (files.check_chain("empty", &[]), "empty holds no certificate; give PEM"),
        (files.check(&["--bundle", &empty]), "empty holds no certificate"),
        (files.check(&["--bundle", &noise]), "certificate 1 of the trust bundle cannot be read"),
        (files.check(&["--crl", &missing]), "missing: No such file"),
        (files.check(&["--time", "tomorrow"]), "write it as 2026-01-31T12:00:00Z"),
        (files.check(&["--time", "1969-12-31T00:00:00Z"]), "before 1970"),
    ];
    for (found, expected) in cases {
        let said = found.unwrap_err();
        assert!(said.contains(expected), "{said}");
    }
    assert!(files.check(&["--identity", WEB, "--trust-domain", "example.org"]).is_err());
    assert!(files.check(&["--identity", "spiffe://example.org"]).is_err());
    assert!(files.check(&["--trust-domain", "Example.org"]).is_err());
}

#[test]
fn the_exit_code_says_it_too() {
    let files = Files::new();
    let (chain, bundle) = (files.path("chain.pem"), files.path("bundle.pem"));
    let run = |chain: &str, identity: &str| {
        let line = ["enforcer", "ca", "check", "--chain", chain, "--bundle", &bundle, "--identity", identity, "--json"];
        Cli::parse_from(line).run()
    };
    assert_eq!(run(&chain, WEB), ExitCode::Ok);
    assert_eq!(run(&chain, "spiffe://example.org/a"), ExitCode::Failed);
    assert_eq!(run("/nowhere", WEB), ExitCode::Usage);
}
