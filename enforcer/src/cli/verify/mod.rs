//! `enforcer verify`: whether two workloads really speak mutual TLS, proved from captured packets.
//!
//! ```text
//! subject  who the two are, and where
//! errand   a program of the first one, which opens a connection of its own
//! observe  captures the connection, and asks the agent what it is
//! verdict  brings together what the wire shows and what the agent says: pure
//! show     for people
//! ```
//!
//! The wire is judged by [`crate::wire`], without asking the agent; the identities and certificates are the agent's word,
//! because TLS 1.3 shows them to nobody. Where both can know something they must agree.

mod errand;
mod observe;
mod show;
mod subject;
mod verdict;

use std::fs::File;
use std::io::{self, BufWriter};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;

pub use errand::{ErrandArgs, run_errand};

use super::ExitCode;
use crate::wire::pcap;
use observe::Observation;
use subject::Subject;
use verdict::Verdict;

/// Prove or disprove, from captured packets, that a connection of a workload is mutual TLS 1.3 with the right identities.
///
/// A is a workload of this node; B is a workload, a peer, a SPIFFE ID or an address. With a port, a connection is opened
/// from inside A's cgroup and network namespace, and a text is sent through it that must not be seen on the wire. Without
/// one, or with --existing, a connection is watched that is open already, until it has carried records both ways.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
PROVED: every octet that was captured, in both directions, is in TLS 1.3 records; what was sent is in no packet; the agent \
knows both identities and certificates, and says what the wire shows. DISPROVED: something is in the clear, is not TLS 1.3, \
or is not what the agent says. NOT PROVED: not enough was seen, for the reasons that are given. What is captured is what \
leaves and enters A's network namespace, not what stays on its loopback.

Run it as root on A's node. The exit code is 0 for PROVED, 1 for the others, 2 if an end is unknown.

Examples:
  enforcer verify web db:5432
  enforcer verify web db --existing --within 60
  enforcer verify web 10.0.0.2:80 --send \"$(printf 'GET / HTTP/1.0\\r\\n\\r\\n')\" --pcap web.pcap --json")]
pub struct Args {
    /// The agent's configuration; without it the one that the agent runs with.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Where the agent's admin socket listens [default: as the configuration says, or 127.0.0.1:15000].
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,

    /// Watch a connection that is open already.
    #[arg(long)]
    existing: bool,

    /// What to send instead of a random line, such as a request that the server answers; at least 4 octets.
    #[arg(long, value_name = "TEXT", conflicts_with = "existing", allow_hyphen_values = true)]
    send: Option<String>,

    /// How long everything may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    within: u64,

    /// Write what was captured, for tcpdump -r.
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,

    /// JSON instead of text.
    #[arg(long)]
    json: bool,

    /// A workload of this node.
    #[arg(value_name = "A")]
    one: String,

    /// The other end, with the port to connect to.
    #[arg(value_name = "B[:PORT]")]
    other: String,
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The command line names something that is not there.
    #[error("{0}")]
    Usage(String),
    /// The configuration cannot be read, or has mistakes.
    #[error("{0}")]
    Config(#[source] crate::control::file::LoadError),
    /// A file that was named cannot be written.
    #[error("write {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// Nobody to ask.
    #[error("{0:#}; is the agent running? --admin must be the admin address of its configuration")]
    Agent(anyhow::Error),
    /// The kernel does not let us.
    #[error("{operation} of workload {workload}: run this as root on the node of the workload")]
    Kernel {
        /// What was tried.
        operation: &'static str,
        /// Of whom.
        workload: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

impl Error {
    const fn code(&self) -> ExitCode {
        match self {
            Self::Usage(_) | Self::File { .. } => ExitCode::Usage,
            Self::Config(_) => ExitCode::BadConfig,
            Self::Agent(_) => ExitCode::Unreachable,
            Self::Kernel { .. } => ExitCode::KernelUnable,
        }
    }
}

/// Observes, judges and prints.
///
/// # Errors
///
/// When standard output cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (subject, observation) = match observe(args) {
        Ok(observed) => observed,
        Err(error) => {
            let code = error.code();
            super::complain(&format_args!("{:#}", anyhow::Error::new(error)));
            return Ok(code);
        }
    };
    let answer = verdict::conclude(&subject, &observation);
    let text = if args.json { serde_json::to_string_pretty(&answer)? + "\n" } else { show::text(&answer)? };
    super::print(&text)?;
    Ok(if answer.verdict == Verdict::Proved { ExitCode::Ok } else { ExitCode::Failed })
}

fn observe(args: &Args) -> Result<(Subject, Observation), Error> {
    let subject = Subject::find(args)?;
    let cannot_write = |path: &PathBuf| {
        let path = path.clone();
        move |cause| Error::File { path, cause }
    };
    // Before anything else: who wants a file wants no verdict without it.
    let file = match &args.pcap {
        Some(path) => Some((path, File::create(path).map_err(cannot_write(path))?)),
        None => None,
    };
    let within = Duration::from_secs(args.within);
    let mut observation = match subject.target() {
        Some(target) if !args.existing => {
            let text = args.send.clone().unwrap_or_else(random_line);
            observe::open(&subject, target, (text, within))?
        }
        _ => observe::watch(&subject, within)?,
    };
    if let Some((path, file)) = file {
        pcap::write(BufWriter::new(file), &observation.packets).map_err(cannot_write(path))?;
        observation.file = Some(path.clone());
    }
    Ok((subject, observation))
}

/// That a line of text is, and that no other line is.
fn random_line() -> String {
    format!("enforcer-verify-{:032x}\r\n\r\n", rand::random::<u128>())
}
