//! `enforcer identity`: what this node can prove to be, and under which public names it is called.

use std::fmt::{self, Write as _};
use std::mem;
use std::net::SocketAddr;

use clap::Args as ClapArgs;
use serde::Serialize;

use super::operator::at;
use super::table::Table;
use super::{ExitCode, ask};
use crate::observe::report::{PublicReport, WorkloadReport};

/// Show the identities of this node's workloads, and their public names: certificate, who signed it, when it ends, when it
/// is renewed.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  enforcer identity
  enforcer identity --json | jq '.[] | select(.serial == null)'")]
pub struct Args {
    /// Where the agent's admin socket listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15000")]
    admin: SocketAddr,

    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Asks the agent and prints.
///
/// # Errors
///
/// When standard output cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let workloads = match ask::status(args.admin).map(|status| status.workloads) {
        Ok(workloads) => workloads,
        Err(error) => return Ok(ask::nobody(&error)),
    };
    let held: Vec<Held> = workloads.into_iter().map(Held::from).collect();
    super::print(&if args.json { serde_json::to_string_pretty(&held)? + "\n" } else { show(held)? })?;
    Ok(ExitCode::Ok)
}

/// What a workload can prove; nothing without a certificate.
#[derive(Serialize)]
struct Held {
    workload: String,
    identity: String,
    serial: Option<String>,
    signed_by: Option<String>,
    until: Option<String>,
    renewed: Option<String>,
    public: Vec<Public>,
}

/// A public name.
#[derive(Serialize)]
struct Public {
    name: String,
    serial: Option<String>,
    signed_by: Option<String>,
    until: Option<String>,
    renewed: Option<String>,
    failure: Option<String>,
}

impl From<PublicReport> for Public {
    fn from(PublicReport { name, certificate, failure }: PublicReport) -> Self {
        Self {
            name,
            until: certificate.as_ref().map(|held| at(held.expires)),
            renewed: certificate.as_ref().and_then(|held| held.renewal).map(at),
            signed_by: certificate.as_ref().map(|held| held.signed_by.clone()),
            serial: certificate.map(|held| held.serial),
            failure,
        }
    }
}

impl From<WorkloadReport> for Held {
    fn from(workload: WorkloadReport) -> Self {
        let certificate = workload.certificate;
        Self {
            workload: workload.name,
            identity: workload.identity,
            until: certificate.as_ref().map(|held| at(held.expires)),
            renewed: certificate.as_ref().and_then(|held| held.renewal).map(at),
            signed_by: certificate.as_ref().map(|held| held.signed_by.clone()),
            serial: certificate.map(|held| held.serial),
            public: workload.public.into_iter().map(Public::from).collect(),
        }
    }
}

fn show(mut held: Vec<Held>) -> Result<String, fmt::Error> {
    let public: Vec<_> = held.iter_mut().map(|held| (held.workload.clone(), mem::take(&mut held.public))).collect();
    let mut text = table(held).to_string();
    if public.iter().any(|(_, names)| !names.is_empty()) {
        write!(text, "\n{}", public_table(public))?;
    }
    Ok(text)
}

fn public_table(public: Vec<(String, Vec<Public>)>) -> Table<7> {
    let mut table = Table::new(["WORKLOAD", "PUBLIC NAME", "SERIAL", "SIGNED BY", "UNTIL", "RENEWED", "LAST FAILURE"]);
    for (workload, names) in public {
        for Public { name, serial, signed_by, until, renewed, failure } in names {
            let [serial, signed_by, until, renewed, failure] =
                [serial, signed_by, until, renewed, failure].map(or_dash);
            table.row([workload.clone(), name, serial, signed_by, until, renewed, failure]);
        }
    }
    table
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

fn table(held: Vec<Held>) -> Table<6> {
    let mut table = Table::new(["WORKLOAD", "IDENTITY", "SERIAL", "SIGNED BY", "UNTIL", "RENEWED"]);
    for Held { workload, identity, serial, signed_by, until, renewed, public: _ } in held {
        table.row([workload, identity, or_dash(serial), or_dash(signed_by), or_dash(until), or_dash(renewed)]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::report::CertificateReport;

    #[test]
    fn a_workload_without_a_certificate_is_shown_too() {
        let with = CertificateReport { serial: "0a".into(), expires: 0, signed_by: "CN=x".into(), renewal: Some(60) };
        let report = |certificate| WorkloadReport {
            name: "web".into(),
            identity: "spiffe://example.org/a".into(),
            mode: String::new(),
            path: String::new(),
            offload: String::new(),
            offload_explanation: String::new(),
            certificate,
            missed: Vec::new(),
            limits: Vec::new(),
            public: Vec::new(),
        };
        let shown = table([report(Some(with)), report(None)].into_iter().map(Held::from).collect()).to_string();
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[1].contains("CN=x") && lines[1].contains("1970-01-01T00:01:00Z"), "{shown}");
        assert_eq!(lines[2].split_whitespace().filter(|word| *word == "-").count(), 4, "{shown}");
    }

    #[test]
    fn public_names_are_shown_with_what_went_wrong() {
        let held = |public| Held {
            workload: "web".into(),
            identity: "spiffe://example.org/a".into(),
            serial: None,
            signed_by: None,
            until: None,
            renewed: None,
            public,
        };
        assert!(!show(vec![held(Vec::new())]).unwrap().contains("PUBLIC NAME"));
        let certificate =
            CertificateReport { serial: "0a".into(), expires: 60, signed_by: "CN=ca".into(), renewal: Some(0) };
        let with = PublicReport { name: "a.example".into(), certificate: Some(certificate), failure: None };
        let without =
            PublicReport { name: "b.example".into(), certificate: None, failure: Some("ACME server refuses".into()) };
        let shown = show(vec![held(vec![with.into(), without.into()])]).unwrap();
        for part in [
            "web       a.example    0a      CN=ca      1970-01-01T00:01:00Z  1970-01-01T00:00:00Z  -",
            "web       b.example    -       -          -                     -                     ACME server refuses",
        ] {
            assert!(shown.contains(part), "{part} not in:\n{shown}");
        }
    }
}
