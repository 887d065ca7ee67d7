//! `enforcer doctor`: what this kernel can do, and what follows; and what programs miss, where an agent can tell.

use std::fmt::Write as _;

use std::net::SocketAddr;

use clap::Args as ClapArgs;
use serde::Serialize;

use super::table::Table;
use super::{ExitCode, ask, status};
use crate::kernel::probe::{Abilities, probe};
use crate::observe::report::{MissedReport, WorkloadReport};

/// Try out what this kernel can do, and say what follows. Needs no agent; one that runs is asked what programs have
/// missed on direct connections.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Needs the rights that the agent has, so run it as root. The exit code is 4 if the agent cannot work on this machine.

Examples:
  enforcer doctor
  enforcer doctor --json | jq '.abilities[] | select(.outcome == \"unable\")'")]
pub struct Args {
    /// Where the admin socket of an agent listens, if one runs.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15000")]
    admin: SocketAddr,

    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Probes and prints.
///
/// # Errors
///
/// When standard output cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let abilities = probe();
    // Without an agent there is nobody who could have missed anything.
    let workloads = ask::status(args.admin).map(|status| status.workloads).unwrap_or_default();
    let result = match args.json {
        true => serde_json::to_string_pretty(&Answer::new(&abilities, &workloads))? + "\n",
        false => show(&abilities)? + &status::missed(&workloads)?,
    };
    super::print(&result)?;
    Ok(if abilities.missing_for_relay().next().is_none() { ExitCode::Ok } else { ExitCode::KernelUnable })
}

#[derive(Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    abilities: &'a Abilities,
    missed: Vec<MissedBy<'a>>,
}

#[derive(Serialize)]
struct MissedBy<'a> {
    workload: &'a str,
    #[serde(flatten)]
    missed: &'a MissedReport,
}

impl<'a> Answer<'a> {
    fn new(abilities: &'a Abilities, workloads: &'a [WorkloadReport]) -> Self {
        let of = |workload: &'a WorkloadReport| {
            workload.missed.iter().map(|missed| MissedBy { workload: &workload.name, missed })
        };
        Self { abilities, missed: workloads.iter().flat_map(of).collect() }
    }
}

fn show(abilities: &Abilities) -> anyhow::Result<String> {
    let mut table = Table::new(["ABILITY", "NEEDED BY", "ABLE", "WHAT FOLLOWS"]);
    for ability in &abilities.abilities {
        let (able, consequence) = match ability.result() {
            Ok(()) => ("yes", ability.consequence.to_owned()),
            Err(error) => ("no", format!("{} ({error})", ability.consequence)),
        };
        table.row([ability.name.to_owned(), ability.need.label().to_owned(), able.to_owned(), consequence]);
    }
    let mut text = format!("Linux {}\n\n{table}\n", abilities.release);
    let missing: Vec<_> = abilities.missing_for_relay().map(|ability| ability.name).collect();
    match missing.as_slice() {
        [] => writeln!(text, "The agent can work here.")?,
        missing => writeln!(text, "The agent cannot work here. Missing: {}.", missing.join(", "))?,
    }
    match abilities.direct() {
        Ok(()) => match abilities.direct_loses_nothing() {
            Ok(()) => writeln!(text, "Connections can be direct: kernel TLS on the applications' own sockets.")?,
            Err(why) => writeln!(text, "Connections can be direct where the policy says `path: direct`: {why}.")?,
        },
        Err(why) => writeln!(text, "Connections are relayed, none can be direct ({why}).")?,
    }
    match abilities.ktls() {
        Ok(()) => writeln!(text, "Records of relayed connections can be made in the kernel (offload: on).")?,
        Err(why) => {
            writeln!(text, "Records of relayed connections are made in user space, also with offload: on ({why}).")?
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::probe::Outcome;

    #[test]
    fn says_what_is_missing_and_why() {
        let mut abilities = probe();
        for ability in &mut abilities.abilities {
            ability.outcome = Outcome::Able;
        }
        let text = show(&abilities).unwrap();
        assert!(text.contains("The agent can work here.\nConnections can be direct"), "{text}");

        for ability in &mut abilities.abilities {
            if ability.name == "eBPF sk_lookup" {
                ability.outcome = Outcome::Unable { error: "no such thing".to_owned() };
            }
        }
        let text = show(&abilities).unwrap();
        assert!(text.contains("no    ") && text.contains("(no such thing)"), "{text}");
        assert!(text.contains("cannot work here. Missing: eBPF sk_lookup."), "{text}");
    }
}
