//! `enforcer ca check`: the judgement that a peer's certificate gets in a handshake, on files.
//!
//! Reads files and prints; needs no agent, no authority and no rights. The judgement is `identity::verify`'s, and what is
//! here decides nothing.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args as ClapArgs, ValueEnum};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::{ExitCode, complain, print};
use crate::identity::Identity;
use crate::identity::name::check_trust_domain;
use crate::identity::verify::{
    Anchors, Expected, ListFlaw, Proven, Rejection, Revocations, Role, Terms, Uncovered, Unreadable, Unusable, verify,
};

/// Octets of a file that are read.
const MOST_OCTETS: u64 = 16 * 1024 * 1024;

/// Judge a certificate chain as that of a peer in a handshake.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Files are PEM, with any number of certificates or lists, or DER with one. With --crl, a valid
list must cover each certificate below the root. Without --identity and --trust-domain, any one
SPIFFE ID is accepted.

The identity is judged last: what is refused for its identity is valid in every other respect.

Exit codes:
  0  accepted
  1  refused; standard output says why
  2  wrong command line, or a file that cannot be used; standard error says which and why

Examples:
  enforcer ca check --chain chain.pem --bundle bundle.pem --trust-domain example.org
  enforcer ca check --chain leaf.der --bundle root.der --time 2026-01-31T12:00:00Z --json | jq .code")]
pub(super) struct Args {
    /// The workload's certificate, then its issuers.
    #[arg(long, value_name = "FILE")]
    chain: PathBuf,
    /// The roots to trust.
    #[arg(long, value_name = "FILE")]
    bundle: PathBuf,
    /// Revocation lists; may be given more than once.
    #[arg(long, value_name = "FILE")]
    crl: Vec<PathBuf>,
    /// When; now, if it is not given.
    #[arg(long, value_name = "RFC3339", value_parser = moment)]
    time: Option<UnixTime>,
    /// The end of a connection that the certificate is to be good for.
    #[arg(long, value_enum, default_value_t = Side::Both)]
    role: Side,
    /// The one whom the certificate must name.
    #[arg(long, value_name = "SPIFFE-ID", conflicts_with = "trust_domain")]
    identity: Option<Identity>,
    /// The trust domain that the certificate must name a workload of.
    #[arg(long, value_name = "NAME", value_parser = trust_domain)]
    trust_domain: Option<String>,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Side {
    /// The one that opens connections.
    Client,
    /// The one that accepts them.
    Server,
    /// Either.
    Both,
}

impl From<Side> for Role {
    fn from(side: Side) -> Self {
        match side {
            Side::Client => Self::Client,
            Side::Server => Self::Server,
            Side::Both => Self::Both,
        }
    }
}

/// A file cannot be used.
#[derive(Debug, thiserror::Error)]
enum Input {
    #[error("read {path}")]
    Unread { path: PathBuf, source: io::Error },
    #[error("{path} has more than {MOST_OCTETS} octets; give a file with certificates or revocation lists only")]
    TooLong { path: PathBuf },
    #[error("{path} holds no {wanted}; give PEM, or DER with exactly one")]
    Empty { path: PathBuf, wanted: &'static str },
    #[error("{path} holds PEM that cannot be read; is it whole?")]
    Pem { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("{path} cannot be the bundle; leave out what is not a certificate")]
    Bundle { path: PathBuf, source: Unreadable },
    #[error("{path}: revocation list {number} cannot be read; is it one?")]
    List { path: PathBuf, number: usize },
}

/// Runs the verb.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match judge(args) {
        Ok(verdict) => {
            print(&describe(&verdict, args.json)?)?;
            Ok(if verdict.is_ok() { ExitCode::Ok } else { ExitCode::Failed })
        }
        Err(input) => {
            complain(&format_args!("{:#}", anyhow::Error::new(input)));
            Ok(ExitCode::Usage)
        }
    }
}

fn judge(args: &Args) -> Result<Result<Proven, Rejection>, Input> {
    let chain: Vec<CertificateDer<'_>> = read(&args.chain, "certificate")?;
    let bundle: Vec<CertificateDer<'_>> = read(&args.bundle, "certificate")?;
    let anchors = Anchors::new(&bundle).map_err(|source| Input::Bundle { path: args.bundle.clone(), source })?;
    let revocations = match read_lists(&args.crl)? {
        Ok(revocations) => revocations,
        Err(refused) => return Ok(Err(refused)),
    };
    let expected = match (&args.identity, &args.trust_domain) {
        (Some(identity), _) => Expected::One(identity.clone()),
        (None, Some(name)) => Expected::In(name.as_str().into()),
        (None, None) => Expected::Anyone,
    };
    let terms = Terms {
        anchors: &anchors,
        revocations: revocations.as_ref(),
        now: args.time.unwrap_or_else(UnixTime::now),
        role: args.role.into(),
        expected: &expected,
    };
    Ok(match chain.split_first() {
        Some((workload, intermediates)) => verify(workload, intermediates, &terms),
        None => Err(Rejection::NoCertificate),
    })
}

/// A list that is understood to be none is a wrong file; one that cannot be relied on is a reason to refuse.
fn read_lists(paths: &[PathBuf]) -> Result<Result<Option<Revocations>, Rejection>, Input> {
    let mut lists: Vec<CertificateRevocationListDer<'_>> = Vec::new();
    let mut places = Vec::new();
    for path in paths {
        let of_file = read(path, "revocation list")?;
        places.extend((1..=of_file.len()).map(|number| (path.clone(), number)));
        lists.extend(of_file);
    }
    if lists.is_empty() {
        return Ok(Ok(None));
    }
    match Revocations::new(&lists, Uncovered::Refuse) {
        Ok(revocations) => Ok(Ok(Some(revocations))),
        Err((_, Unusable::Unsupported)) => Ok(Err(Rejection::RevocationList(ListFlaw::Unsupported))),
        Err((place, Unusable::Unreadable)) => {
            let (path, number) = places.swap_remove(place);
            Err(Input::List { path, number })
        }
    }
}

/// PEM or DER, whatever the file is called. Sections of another kind, such as a key beside its chain, are passed over.
fn read<T: PemObject + From<Vec<u8>>>(path: &Path, wanted: &'static str) -> Result<Vec<T>, Input> {
    let path = path.to_owned();
    let content = match load(&path) {
        Ok(content) => content,
        Err(source) => return Err(Input::Unread { path, source }),
    };
    if content.len() as u64 > MOST_OCTETS {
        return Err(Input::TooLong { path });
    }
    if is_der(&content) {
        return Ok(vec![T::from(content)]);
    }
    match T::pem_slice_iter(&content).collect::<Result<Vec<T>, _>>() {
        Ok(found) if found.is_empty() => Err(Input::Empty { path, wanted }),
        Ok(found) => Ok(found),
        Err(source) => Err(Input::Pem { path, source }),
    }
}

/// At most one octet more than is allowed.
fn load(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(MOST_OCTETS + 1).read_to_end(&mut content)?;
    Ok(content)
}

/// A sequence, and no text that begins with the digit that is its tag: lengths that certificates have are not ASCII.
fn is_der(content: &[u8]) -> bool {
    matches!(content, [0x30, length, ..] if *length >= 0x80)
}

fn moment(text: &str) -> Result<UnixTime, String> {
    let at =
        OffsetDateTime::parse(text, &Rfc3339).map_err(|error| format!("{error}; write it as 2026-01-31T12:00:00Z"))?;
    let seconds = u64::try_from(at.unix_timestamp()).map_err(|_negative| "before 1970".to_owned())?;
    Ok(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
}

fn trust_domain(text: &str) -> Result<String, String> {
    check_trust_domain(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

/// The answer as JSON. Codes are an interface.
#[derive(Serialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
enum Answer {
    Accept { identity: Identity, serial: String, until: String, intermediates: usize, root: String },
    Reject { code: String, reason: String },
}

fn describe(verdict: &Result<Proven, Rejection>, json: bool) -> anyhow::Result<String> {
    let answer = match verdict.clone() {
        Ok(proven) => Answer::Accept {
            identity: proven.identity,
            serial: proven.serial,
            until: proven.until.format(&Rfc3339).context("write the end of the validity")?,
            intermediates: proven.intermediates,
            root: proven.root,
        },
        Err(rejection) => Answer::Reject { code: rejection.code(), reason: rejection.to_string() },
    };
    if json {
        return Ok(serde_json::to_string_pretty(&answer)? + "\n");
    }
    let mut text = String::new();
    match answer {
        Answer::Accept { identity, serial, until, intermediates, root } => {
            writeln!(text, "accept")?;
            writeln!(text, "  identity       {identity}")?;
            writeln!(text, "  serial         {serial}")?;
            writeln!(text, "  until          {until}")?;
            writeln!(text, "  intermediates  {intermediates}")?;
            writeln!(text, "  root           {root}")?;
        }
        Answer::Reject { code, reason } => writeln!(text, "reject\n  {code}: {reason}")?,
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
