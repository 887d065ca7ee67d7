//! The command line: one file a verb, each with its `Args` and its `run`.
//!
//! A verb writes its result to standard output and everything else to standard error. It gives back an [`ExitCode`];
//! an error that it does not name one for is [`ExitCode::Failed`].

pub mod agent;
mod ask;
pub mod ca;
pub mod control;
pub mod doctor;
mod ends;
pub mod explain;
pub mod guard;
pub mod identity;
mod operator;
pub mod policy;
pub mod status;
mod table;
pub mod uninstall;
pub mod verify;

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};

use clap::{Parser, Subcommand};

use crate::observe::log::Format;

/// Mutual TLS with workload identities for every TCP connection of this node's enrolled workloads.
///
/// No change, restart or sidecar for the applications. What is not allowed to be in the clear neither leaves nor
/// arrives, also when the agent is dead.
#[derive(Debug, Parser)]
#[command(name = "enforcer", version, after_help = after_help(), disable_help_subcommand = true)]
pub struct Cli {
    /// What log lines look like; they go to standard error.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT", help_heading = "Logs")]
    pub log_format: Format,

    /// How much is logged: a level, or directives such as `info,connection=off`.
    #[arg(long, global = true, default_value = "info", value_name = "FILTER", help_heading = "Logs")]
    pub log_level: String,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Agent(agent::Args),
    Control(control::Args),
    Ca(ca::Args),
    Identity(identity::Args),
    Status(status::Args),
    Explain(explain::Args),
    Policy(policy::Args),
    Verify(verify::Args),
    #[command(hide = true)]
    VerifyErrand(verify::ErrandArgs),
    Doctor(doctor::Args),
    Guard(guard::Args),
    Uninstall(uninstall::Args),
}

const EXAMPLES: &str = "\
Examples:
  enforcer doctor                                   what can this kernel do?
  enforcer agent --config /etc/enforcer/agent.yaml  run the agent
  enforcer status                                   who talks to whom, and how?";

fn after_help() -> String {
    let mut help = format!("{EXAMPLES}\n\nExit codes:");
    for code in ExitCode::ALL {
        // Writing to a string does not fail.
        let _written = write!(help, "\n  {}  {}", *code as u8, code.meaning());
    }
    help
}

impl Cli {
    /// Runs the verb and says how the process should end.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        let result = match &self.verb {
            Verb::Agent(args) => agent::run(args),
            Verb::Control(args) => control::run(args),
            Verb::Ca(args) => ca::run(args),
            Verb::Identity(args) => identity::run(args),
            Verb::Status(args) => status::run(args),
            Verb::Explain(args) => explain::run(args),
            Verb::Policy(args) => policy::run(args),
            Verb::Verify(args) => verify::run(args),
            Verb::VerifyErrand(args) => verify::run_errand(args),
            Verb::Doctor(args) => doctor::run(args),
            Verb::Guard(args) => guard::run(args),
            Verb::Uninstall(args) => uninstall::run(args),
        };
        result.unwrap_or_else(|error| {
            complain(&format_args!("{error:#}"));
            ExitCode::Failed
        })
    }
}

/// How the process ends. The numbers are an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Done.
    Ok = 0,
    /// Something went wrong; standard error says what.
    Failed = 1,
    /// The command line is wrong, or a file that it names. The number is clap's.
    Usage = 2,
    /// The configuration is wrong; every mistake is on standard error.
    BadConfig = 3,
    /// This kernel, or this process's rights, are not enough.
    KernelUnable = 4,
    /// No agent answers at the admin address, or no control at its socket.
    Unreachable = 5,
}

impl ExitCode {
    const ALL: &'static [Self] =
        &[Self::Ok, Self::Failed, Self::Usage, Self::BadConfig, Self::KernelUnable, Self::Unreachable];

    const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "done",
            Self::Failed => "failed; standard error says why",
            Self::Usage => "wrong command line, or a file given there that cannot be used",
            Self::BadConfig => "wrong configuration; every mistake is on standard error",
            Self::KernelUnable => "this kernel, or this process's rights, are not enough",
            Self::Unreachable => "no agent answers at the admin address, or no control at its socket",
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// Tells the user what is wrong.
pub fn complain(what: &dyn fmt::Display) {
    // Without a standard error there is nobody to tell.
    let _told = writeln!(io::stderr(), "enforcer: {what}");
}

/// Tells the user that the kernel does not take the programs.
fn kernel_unable(error: anyhow::Error) -> ExitCode {
    complain(&format_args!("{error:#}"));
    complain(&"`enforcer doctor` says what this kernel can do");
    ExitCode::KernelUnable
}

/// Writes a verb's result. A reader that has seen enough (`enforcer status | head`) is no error.
fn print(result: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(result.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_names_every_exit_code() {
        let help = Cli::command().render_long_help().to_string();
        for code in ExitCode::ALL {
            assert!(help.contains(&format!("{}  {}", *code as u8, code.meaning())), "{help}");
        }
    }

    #[test]
    fn log_flags_are_accepted_after_the_verb() {
        let cli = Cli::try_parse_from(["enforcer", "doctor", "--log-format", "json", "--log-level", "debug"]).unwrap();
        assert_eq!((cli.log_format, cli.log_level.as_str()), (Format::Json, "debug"));
        assert!(Cli::try_parse_from(["enforcer"]).is_err());
    }
}
