//! `enforcer ca`: the authority in a state directory, for hosts without a cluster, and a look at anybody's certificates.

mod check;
mod journal;
mod rotate;
mod upstream;

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args as ClapArgs, Subcommand};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::ExitCode;
use super::operator::Place;
use super::table::Table;
use crate::ca::server::SOCKET;
use crate::ca::{Authority, Embedded, SigningRequest, WORKLOAD_LIFETIME, prepare_directory, write_private};
use crate::identity::Identity;
use crate::identity::Serial;

/// Make and use a certificate authority: that of control, or one in the state directory of an agent.
///
/// `list`, `revoke`, `admit` and `rotate` are for the authority of a running `enforcer control`. Without control an
/// agent makes its own when it first starts. Hosts that are to trust each other share one: make it on one host,
/// issue an intermediate for each other host, and copy that directory there before the agent's first start.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Example, two hosts:
  a$ enforcer ca init  --state-dir /var/lib/enforcer --trust-domain example.org
  a$ enforcer ca issue --state-dir /var/lib/enforcer --node b --out ./b
  a$ scp -r ./b b:/var/lib/enforcer && rm -r ./b")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a root and an intermediate.
    Init {
        /// Where; made for root alone if it is not there.
        #[arg(long, value_name = "DIR")]
        state_dir: PathBuf,
        /// The trust domain, as in spiffe://TRUST-DOMAIN/...
        #[arg(long, value_name = "NAME")]
        trust_domain: String,
    },
    /// Issue an intermediate for another host, or a certificate for a peer that has no agent.
    Issue(Issue),
    /// Show the certificates.
    Show(Show),
    Check(check::Args),
    List(journal::List),
    Revoke(journal::Revoke),
    Admit(journal::Admit),
    Rotate(rotate::Args),
    Csr(upstream::Csr),
    Import(upstream::Import),
}

#[derive(Debug, ClapArgs)]
struct Show {
    /// Where the authority is: an agent's or control's state directory.
    #[arg(long, value_name = "DIR")]
    state_dir: PathBuf,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, ClapArgs)]
struct Issue {
    /// Where the authority is.
    #[arg(long, value_name = "DIR")]
    state_dir: PathBuf,
    /// Name of the host that the intermediate is for; needs the root's key.
    #[arg(long, value_name = "NAME", required_unless_present = "identity", conflicts_with = "identity")]
    node: Option<String>,
    /// SPIFFE ID for a peer that speaks mutual TLS by itself: writes chain.pem, key.pem and bundle.pem.
    #[arg(long, value_name = "SPIFFE-ID")]
    identity: Option<Identity>,
    /// How long the peer's certificate lives, in minutes; 5 to 1440.
    #[arg(long, value_name = "MINUTES", default_value_t = WORKLOAD_LIFETIME.whole_minutes(), conflicts_with = "node")]
    ttl: i64,
    /// Where the files go; made for root alone if it is not there.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Runs the verb.
///
/// # Errors
///
/// When the authority cannot be made, opened or used.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.verb {
        Verb::Init { state_dir, trust_domain } => {
            Embedded::create(state_dir, trust_domain)?;
        }
        Verb::Issue(issue) => run_issue(issue)?,
        Verb::Show(args) if args.state_dir.join(SOCKET).exists() => {
            return rotate::status(&Place { state_dir: args.state_dir.clone() }, args.json);
        }
        Verb::Show(args) => show(args)?,
        Verb::Check(args) => return check::run(args),
        Verb::List(args) => return journal::list(args),
        Verb::Revoke(args) => return journal::revoke(args),
        Verb::Admit(args) => return journal::admit(args),
        Verb::Rotate(args) => return rotate::run(args),
        Verb::Csr(args) => return upstream::csr(args),
        Verb::Import(args) => return upstream::import(args),
    }
    Ok(ExitCode::Ok)
}

fn run_issue(issue: &Issue) -> anyhow::Result<()> {
    let authority = Embedded::open(&issue.state_dir)?;
    match (&issue.node, &issue.identity) {
        (Some(node), _) => Ok(authority.issue_node(node, &issue.out)?),
        (None, Some(identity)) => issue_workload(&authority, identity, issue),
        (None, None) => bail!("neither --node nor --identity is given"),
    }
}

/// The key is made here and written to a file, because this peer has no agent that could keep it in memory.
fn issue_workload(authority: &Embedded, identity: &Identity, issue: &Issue) -> anyhow::Result<()> {
    let key = KeyPair::generate().context("make key")?;
    let csr = CertificateParams::default().serialize_request(&key).context("make request")?;
    let request =
        SigningRequest { csr: csr.der().clone(), identity: identity.clone(), lifetime: Duration::minutes(issue.ttl) };
    let issued = authority.issue(&request, OffsetDateTime::now_utc())?;
    prepare_directory(&issue.out)?;
    let files = [
        ("key.pem", key.serialize_pem()),
        ("chain.pem", to_pem(&issued.chain)),
        ("bundle.pem", to_pem(&authority.bundle())),
    ];
    for (name, content) in files {
        write_private(&issue.out, name, &content)?;
    }
    Ok(())
}

fn to_pem(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(encode).collect()
}

/// RFC 7468.
fn encode(certificate: &CertificateDer<'_>) -> String {
    pem::encode(&pem::Pem::new("CERTIFICATE", certificate.to_vec()))
}

/// A certificate, for people.
#[derive(Debug, Serialize)]
struct Shown {
    role: &'static str,
    subject: String,
    serial: String,
    not_before: String,
    not_after: String,
}

#[derive(Debug, Serialize)]
struct Answer {
    trust_domain: String,
    certificates: Vec<Shown>,
}

fn show(args: &Show) -> anyhow::Result<()> {
    let authority = Embedded::open(&args.state_dir)?;
    let mut certificates = vec![describe("intermediate", authority.intermediate())?];
    for root in authority.bundle() {
        certificates.push(describe("root", &root)?);
    }
    let answer = Answer { trust_domain: authority.trust_domain().to_owned(), certificates };
    let text = if args.json { serde_json::to_string_pretty(&answer)? + "\n" } else { table(&answer)? };
    Ok(super::print(&text)?)
}

fn describe(role: &'static str, certificate: &CertificateDer<'_>) -> anyhow::Result<Shown> {
    let (_, parsed) = X509Certificate::from_der(certificate).context("read certificate")?;
    Ok(Shown {
        role,
        subject: parsed.subject().to_string(),
        serial: Serial::of(certificate).map(|serial| serial.to_string()).unwrap_or_default(),
        not_before: parsed.validity().not_before.to_string(),
        not_after: parsed.validity().not_after.to_string(),
    })
}

fn table(answer: &Answer) -> anyhow::Result<String> {
    let mut table = Table::new(["ROLE", "SUBJECT", "SERIAL", "FROM", "UNTIL"]);
    for shown in &answer.certificates {
        table.row([shown.role, &shown.subject, &shown.serial, &shown.not_before, &shown.not_after].map(str::to_owned));
    }
    let mut text = String::new();
    writeln!(text, "trust domain {}\n", answer.trust_domain)?;
    write!(text, "{table}")?;
    Ok(text)
}
