//! `enforcer explain`: what would happen to a connection, and which rule says so.
//!
//! It is the agent's own decision, on its configuration, without an agent and without a connection. Each node decides for
//! its own workloads: the other end of the connection is explained where its configuration is.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::ensure;
use clap::Args as ClapArgs;
use serde::Serialize;

use super::ExitCode;
use super::ends::{End, split};
use crate::connection::foresee::{Foreseen, Other, foresee};
use crate::control::file::parse_file;
use crate::control::policy::Policy;
use crate::control::snapshot::{Snapshot, WantedPath, Workload};
use crate::observe::events::Direction;
use crate::observe::seen::Fate;

/// Say what would happen to a connection, which rule decides, and which path it takes.
///
/// An end is the name of a Workload or a Peer of the configuration, a SPIFFE ID, or an address.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
The exit code is 1 if a node with this configuration would refuse the connection.

Examples:
  enforcer explain --config /etc/enforcer/agent.yaml web db:5432
  enforcer explain --config agent.yaml spiffe://example.org/ns/shop/sa/front web:443
  enforcer explain --config agent.yaml --json 10.0.0.2 web:443 | jq '.[].rule'")]
pub struct Args {
    /// The agent's configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// JSON instead of text.
    #[arg(long)]
    json: bool,

    /// Who opens the connection.
    #[arg(value_name = "SOURCE")]
    source: String,

    /// Whom it is opened to.
    #[arg(value_name = "DESTINATION:PORT")]
    destination: String,
}

/// Decides and prints.
///
/// # Errors
///
/// When an end is unknown, or standard output cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let snapshot = match parse_file(&args.config) {
        Ok(snapshot) => snapshot,
        Err(error) => {
            super::complain(&format_args!("{error}"));
            return Ok(ExitCode::BadConfig);
        }
    };
    let explanations = explained(&snapshot, &args.source, &args.destination)?;
    let text = if args.json {
        serde_json::to_string_pretty(&explanations)? + "\n"
    } else {
        explanations.iter().map(Explanation::text).collect()
    };
    super::print(&text)?;
    let is_refused = explanations.iter().any(|explanation| explanation.outcome == Fate::Refused);
    Ok(if is_refused { ExitCode::Failed } else { ExitCode::Ok })
}

fn explained(snapshot: &Snapshot, source: &str, destination: &str) -> anyhow::Result<Vec<Explanation>> {
    let (destination, port) = split(destination)?;
    explain(snapshot, (&End::find(snapshot, source)?, &End::find(snapshot, destination)?), port)
}

/// What one workload of this node does with the connection.
#[derive(Serialize)]
struct Explanation {
    direction: &'static str,
    workload: String,
    other: String,
    port: u16,
    outcome: Fate,
    reason: &'static str,
    rule: Option<String>,
    audited: bool,
    path: &'static str,
}

/// What each end that is enrolled here says.
fn explain(
    snapshot: &Snapshot,
    (source, destination): (&End<'_>, &End<'_>),
    port: u16,
) -> anyhow::Result<Vec<Explanation>> {
    let ends = [(Direction::Outbound, source, destination), (Direction::Inbound, destination, source)];
    let mut explanations = Vec::new();
    for (direction, own, other) in ends {
        let Some(workload) = own.workload else { continue };
        if direction == Direction::Inbound {
            let is_taken = workload.ports.as_ref().is_none_or(|ports| ports.contains(&port));
            ensure!(
                is_taken,
                "workload {} takes no connections to port {port}: it is not among its ports",
                workload.name
            );
        }
        explanations.push(judge(&snapshot.policy_of(workload), workload, (direction, other, port)));
    }
    ensure!(
        !explanations.is_empty(),
        "neither end is a workload of this node; ask with the configuration of another one"
    );
    Ok(explanations)
}

fn judge(policy: &Policy, workload: &Workload, (direction, other, port): (Direction, &End<'_>, u16)) -> Explanation {
    let asked = Other { peer: other.peer, identity: other.identity.as_ref(), address: other.address };
    let Foreseen { fate, reason, rule, audited } = foresee(policy, direction, &asked, port);
    let has_agent = other.peer.is_some_and(|peer| peer.agent.is_some());
    Explanation {
        direction: direction.label(),
        workload: workload.name.clone(),
        other: other.shown(),
        port,
        outcome: fate,
        reason,
        rule: rule.map(|rule| rule.to_string()),
        audited,
        path: match (fate.is_encrypted(), policy.path) {
            (false, _) => "none",
            (true, WantedPath::Relay) => "relay",
            (true, WantedPath::Direct) => "direct",
            (true, WantedPath::Auto) if has_agent => "direct where both kernels can, else relay",
            (true, WantedPath::Auto) => "relay",
        },
    }
}

impl Explanation {
    fn text(&self) -> String {
        let Self { direction, workload, other, port, outcome, reason, rule, audited, path } = self;
        let towards = if *direction == "outbound" { "to" } else { "from" };
        let mut text = format!("{direction}: workload {workload}, {towards} {other}, port {port}\n");
        let (outcome, rule) = (outcome.label(), rule.as_deref().unwrap_or("none speaks of it"));
        let audit = if *audited { " (under audit: it would refuse)" } else { "" };
        // Writing to a string does not fail.
        let _written = write!(text, "  outcome  {outcome} ({reason})\n  rule     {rule}{audit}\n  path     {path}\n");
        text
    }
}

#[cfg(fuzzing)]
pub(crate) mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::file::parse;

    const EXAMPLE: &str = include_str!("../../examples/agent.yaml");

    /// Outcome, reason, rule.
    type Expected = (&'static str, &'static str, Option<&'static str>);

    fn explained(source: &str, destination: &str) -> anyhow::Result<Vec<Explanation>> {
        super::explained(&parse(EXAMPLE, "agent.yaml").unwrap(), source, destination)
    }

    #[test]
    fn both_ends_are_explained_where_both_are_here() {
        let cases: [(&str, &str, &[Expected]); 10] = [
            ("web", "198.51.100.9:443", &[("refused", "egress-refused", None)]),
            (
                "web",
                "198.51.100.80:443",
                &[("plaintext", "plaintext-allowed", Some("shop/outbound.plaintext/payments"))],
            ),
            ("cache", "198.51.100.9:443", &[("plaintext", "permissive-unknown-destination", None)]),
            ("web", "db:5432", &[("mutual-tls", "peer-enrolled", None)]),
            ("web", "db:22", &[("refused", "policy-denied", Some("shop/outbound.deny/1"))]),
            ("db", "web:443", &[("mutual-tls", "peer-enrolled", Some("shop/inbound.allow/1"))]),
            ("10.0.0.2", "web:80", &[("refused", "policy-not-allowed", Some("shop/inbound.allow"))]),
            (
                "10.1.7.7",
                "web:443",
                &[("refused", "strict-plaintext-peer", Some("shop/inbound.deny/not-from-the-guests"))],
            ),
            (
                "spiffe://partner.example/ns/api/sa/orders",
                "cache:6379",
                &[("mutual-tls", "peer-foreign", Some("try-out/inbound.allow"))],
            ),
            ("192.0.2.10", "web:443", &[("refused", "policy-not-allowed", Some("shop/inbound.allow"))]),
        ];
        for (source, destination, expected) in cases {
            let found = explained(source, destination).unwrap();
            let found: Vec<_> =
                found.iter().map(|found| (found.outcome.label(), found.reason, found.rule.as_deref())).collect();
            assert_eq!(found, expected, "{source} -> {destination}");
        }
    }

    #[test]
    fn what_cannot_be_explained_says_why() {
        let cases = [
            ("web", "db", "has no port"),
            ("web", "db:0", "has no port"),
            ("web", "nobody:80", "no Workload and no Peer \"nobody\""),
            ("db", "partner:80", "neither end is a workload of this node"),
            ("db", "web:8080", "takes no connections to port 8080"),
        ];
        for (source, destination, expected) in cases {
            let error = explained(source, destination).map(drop).unwrap_err().to_string();
            assert!(error.contains(expected), "{source} -> {destination}: {error}");
        }
    }

    #[test]
    fn rules_under_audit_are_named_and_refuse_nothing() {
        let found = explained("spiffe://partner.example/ns/api/sa/orders", "cache:6379").unwrap();
        assert!(!found[0].text().is_empty());
        let found = explained("10.1.7.7", "cache:6379").unwrap();
        assert!(found[0].audited && found[0].text().contains("under audit"), "{}", found[0].text());
        assert_eq!(found[0].outcome, Fate::Plaintext);
    }
}
