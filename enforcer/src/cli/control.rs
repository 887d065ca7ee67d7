//! `enforcer control`: the certificate authority as a server, and the tokens with which nodes join it.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use super::ExitCode;
use super::operator::{Place, with_control};
use crate::ca::server;
use crate::protocol::CreateTokenRequest;

/// Run the certificate authority in the foreground until SIGTERM or SIGINT, or make tokens for its nodes.
#[derive(Debug, ClapArgs)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  enforcer control --config /etc/enforcer/control.yaml
  enforcer control token create --node node-a --ttl 10m > token"
)]
pub struct Args {
    /// YAML file with the authority and its nodes.
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,

    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Tokens with which nodes join.
    #[command(subcommand)]
    Token(TokenVerb),
}

#[derive(Debug, Subcommand)]
enum TokenVerb {
    /// Make a token with which a machine becomes a node, once, and print it.
    ///
    /// A node that was revoked is admitted again. Whoever has the token can join: hand it over as you would a password.
    Create {
        #[command(flatten)]
        place: Place,
        /// The node, as a Placement names it.
        #[arg(long, value_name = "NAME")]
        node: String,
        /// How long it is good for: 90s, 10m, 2h, 1d.
        #[arg(long, value_name = "TIME", default_value = "10m", value_parser = span)]
        ttl: Duration,
    },
}

/// Runs control, or a verb of it.
///
/// # Errors
///
/// When it cannot start, or does not do what it is asked for.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match (&args.verb, &args.config) {
        (Some(Verb::Token(TokenVerb::Create { place, node, ttl })), _) => create(place, node, *ttl),
        (None, Some(config)) => serve(config),
        (None, None) => Ok(ExitCode::Usage),
    }
}

fn serve(config: &std::path::Path) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(async {
        let failed = server::Error::Signals;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let requested = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        server::run(config, requested).await
    });
    match served {
        Ok(()) => Ok(ExitCode::Ok),
        Err(server::Error::Config(mistakes)) => {
            super::complain(&mistakes);
            Ok(ExitCode::BadConfig)
        }
        Err(error) => Err(error.into()),
    }
}

fn create(place: &Place, node: &str, ttl: Duration) -> anyhow::Result<ExitCode> {
    let seconds = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
    let request = CreateTokenRequest { node: node.to_owned(), lifetime_seconds: seconds };
    with_control(
        place,
        async |mut control| Ok(control.create_token(request).await?.into_inner()),
        |token| {
            super::print(&format!("{}\n", token.token))?;
            writeln!(std::io::stderr(), "good for one join of {node}, until {}", super::operator::at(token.expires))?;
            Ok(())
        },
    )
}

/// `10m` and the like.
fn span(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err("write a number with s, m, h or d, as in 10m".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_none| "write a number with s, m, h or d, as in 10m".to_owned())?;
    number
        .checked_mul(unit)
        .filter(|&seconds| seconds > 0)
        .map(Duration::from_secs)
        .ok_or_else(|| "too long, or nothing".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_numbers_with_units() {
        let cases = [("90s", 90), ("10m", 600), ("2h", 7200), ("1d", 86400)];
        for (text, seconds) in cases {
            assert_eq!(span(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "10", "m", "1.5h", "-1m", "0m", "10 m", "99999999999999999999d", "18446744073709551615d", "é"]
        {
            assert!(span(text).is_err(), "{text}");
        }
    }
}
