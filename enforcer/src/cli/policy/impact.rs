//! `enforcer policy impact`: what another configuration would make of what was seen.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args as ClapArgs;
use serde::Serialize;

use super::change::{Between, Change, Pair, Sum, judged, sum};
use crate::cli::operator::at;
use crate::cli::status::short;
use crate::cli::table::Table;
use crate::cli::{ExitCode, ask, complain, print};
use crate::control::file::load;
use crate::control::snapshot::Snapshot;
use crate::observe::report::{JudgementReport, SeenReport};
use crate::observe::seen::Fate;

/// Say what would be refused if FILE were the agent's configuration, of what it has seen in the last 24 hours and of what is
/// open.
///
/// FILE is a whole configuration, as the agent would read it, with the Node and all its objects. Nothing is put in force.
/// What is judged is what the agent has seen of its workloads since it started, at most 65,536 different connections and
/// 16,384 different destinations outside the mesh. Where some had to be forgotten, or FILE has workloads of which nothing was
/// seen because they are not enrolled yet, that is said. Each node judges for its own workloads: ask on both for what both
/// ends say.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
NOW is what the configuration in force says of the same connection, WOULD BE what FILE says, each with the rule that decides, \
or the reason where none does. CONNECTIONS counts those that have ended too, also attempts that were refused; in UDP what was \
sent and connected, in other protocols sockets. What is open and would be refused is reset when FILE comes into force, but \
for plaintext connections to outside the mesh, which go on until they end.

The exit code is 1 if something would be refused that passes now, 0 if not, 3 if FILE is wrong, 5 if no agent answers.

Examples:
  enforcer policy impact next.yaml
  enforcer policy impact next.yaml --json | jq '.pairs[] | select(.change == \"refused\")'")]
pub(super) struct Args {
    /// Where the agent's admin socket listens [default: as FILE says].
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,

    /// JSON instead of tables; with the pairs that do not change.
    #[arg(long)]
    json: bool,

    /// The configuration to try.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Judges and prints.
///
/// # Errors
///
/// When standard output cannot be written, or the agent is of another version.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let next = match load(&args.file) {
        Ok(next) => next,
        Err(error) => {
            complain(&format_args!("{error}"));
            return Ok(ExitCode::BadConfig);
        }
    };
    let seen = match ask::seen(args.admin.unwrap_or(next.node().admin)) {
        Ok(seen) => seen,
        Err(error) => return Ok(ask::nobody(&error)),
    };
    if seen.node != next.node().name {
        let (file, wanted) = (args.file.display(), &next.node().name);
        complain(&format_args!("{file} is the configuration of node {wanted}, and the agent is that of {}", seen.node));
        return Ok(ExitCode::BadConfig);
    }
    let impact = Impact::of(seen, &next)?;
    print(&if args.json { serde_json::to_string_pretty(&impact)? + "\n" } else { impact.text()? })?;
    Ok(if impact.refused.pairs == 0 { ExitCode::Ok } else { ExitCode::Failed })
}

/// The answer. Field names are an interface.
#[derive(Debug, Serialize)]
struct Impact {
    node: String,
    /// Since when connections are remembered, seconds since 1970.
    since: i64,
    /// How many pairs may be missing, or some of their connections, because they had to be forgotten.
    forgotten: u64,
    /// Destinations outside the mesh may be missing.
    departures_are_full: bool,
    /// Workloads of the file of which nothing was seen, because they are not enrolled now.
    unseen: Vec<String>,
    /// What passes now, and would be refused.
    refused: Sum,
    /// What is encrypted now, and would not be.
    exposed: Sum,
    /// What is refused now, and would pass.
    admitted: Sum,
    /// What would go on as now, or be refused as now.
    unchanged: Sum,
    /// What would pass only because the rules that refuse it are under audit.
    audited: Sum,
    pairs: Vec<Pair>,
}

impl Impact {
    fn of(seen: SeenReport, next: &Snapshot) -> anyhow::Result<Self> {
        let SeenReport { since, forgotten, departures_are_full, .. } = seen;
        let (node, enrolled) = (seen.node.clone(), seen.workloads.iter().map(String::as_str).collect::<HashSet<_>>());
        let names = next.workloads().iter().map(|workload| &workload.name);
        let unseen = names.filter(|name| !enrolled.contains(name.as_str())).cloned().collect();
        let pairs = judged(seen, next)?;
        let with = |change| sum(pairs.iter().filter(|pair| pair.change == change));
        let is_audited = |pair: &&Pair| pair.between.then.audited && pair.between.then.outcome != Fate::Refused;
        Ok(Self {
            node,
            since,
            forgotten,
            departures_are_full,
            unseen,
            refused: with(Change::Refused),
            exposed: with(Change::Exposed),
            admitted: with(Change::Admitted),
            unchanged: with(Change::None),
            audited: sum(pairs.iter().filter(is_audited)),
            pairs,
        })
    }

    fn text(&self) -> anyhow::Result<String> {
        let mut text = String::new();
        let sections = [
            ("Would be refused", Change::Refused),
            ("Would not be encrypted any more", Change::Exposed),
            ("Are refused now, and would pass", Change::Admitted),
        ];
        for (title, change) in sections {
            let table = table(self.pairs.iter().filter(|pair| pair.change == change));
            table.iter().try_for_each(|table| writeln!(text, "{title}:\n\n{table}"))?;
        }
        writeln!(text, "{}\nSeen since {}.", self.sums(), at(self.since))?;
        if !self.unseen.is_empty() {
            writeln!(text, "Nothing was seen of workloads that are not enrolled now: {}.", self.unseen.join(", "))?;
        }
        if self.forgotten > 0 {
            let how_many = self.forgotten;
            writeln!(
                text,
                "This is not all: connections of up to {how_many} pairs had to be forgotten, for lack of room."
            )?;
        }
        if self.departures_are_full {
            let what = "so many destinations outside the mesh were seen that some may be forgotten";
            writeln!(text, "This may not be all: {what}.")?;
        }
        Ok(text)
    }

    fn sums(&self) -> Table<4> {
        let mut table = Table::new(["ALL TOGETHER", "PAIRS", "CONNECTIONS", "OPEN"]);
        for (what, Sum { pairs, connections, open }) in [
            ("would be refused", self.refused),
            ("would not be encrypted any more", self.exposed),
            ("are refused now, and would pass", self.admitted),
            ("go on, or are refused as before", self.unchanged),
            ("would pass only under audit", self.audited),
        ] {
            table.row([what.to_owned(), pairs.to_string(), connections.to_string(), open.to_string()]);
        }
        table
    }
}

/// `None`: there are none.
fn table<'a>(pairs: impl Iterator<Item = &'a Pair>) -> Option<Table<8>> {
    let mut pairs = pairs.peekable();
    pairs.peek()?;
    let mut table =
        Table::new(["SOURCE", "DESTINATION", "PORT", "CONNECTIONS", "OPEN", "LAST SEEN", "NOW", "WOULD BE"]);
    for Pair { between, connections, open, last, .. } in pairs {
        let Between { direction, workload, other, protocol, port, now, then } = between;
        let (source, destination) = if direction == "inbound" { (other, workload) } else { (workload, other) };
        table.row([
            source.clone(),
            destination.clone(),
            if protocol == "tcp" { port.to_string() } else { format!("{port}/{protocol}") },
            connections.to_string(),
            open.to_string(),
            if *open > 0 { "now".to_owned() } else { format!("{} ago", short(since(*last))) },
            judgement(now),
            judgement(then),
        ]);
    }
    Some(table)
}

fn judgement(JudgementReport { outcome, reason, rule, audited }: &JudgementReport) -> String {
    let audit = if *audited { ", under audit" } else { "" };
    format!("{} ({}{audit})", outcome.label(), rule.as_ref().unwrap_or(reason))
}

/// From a time in seconds since 1970 until now.
fn since(moment: i64) -> Duration {
    let moment = UNIX_EPOCH + Duration::from_secs(moment.try_into().unwrap_or(0));
    SystemTime::now().duration_since(moment).unwrap_or_default()
}

#[cfg(test)]
mod tests;
