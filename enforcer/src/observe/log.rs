//! Logs: where they go and what they look like. To standard error, so that a verb's output stays its own.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// What a log line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Logs cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter does not parse.
    #[error("parse log level {filter:?}; examples: info, debug, info,connection=off")]
    Filter {
        /// What was given.
        filter: String,
        /// Why not.
        #[source]
        cause: Cause,
    },
    /// Something has set up logs before.
    #[error("logs are set up already")]
    Twice(#[source] Cause),
}

/// Sets up logs for the whole process. `filter` is a level, or directives as tracing-subscriber's `EnvFilter` has
/// them.
///
/// # Errors
///
/// [`Error`].
pub fn start(format: Format, filter: &str) -> Result<(), Error> {
    let parsed = parse(filter).map_err(|cause| Error::Filter { filter: filter.to_owned(), cause })?;
    let logs = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(io::stderr);
    let started = match format {
        Format::Text => logs.with_ansi(io::stderr().is_terminal()).try_init(),
        Format::Json => logs.json().flatten_event(true).try_init(),
    };
    started.map_err(Error::Twice)
}

/// `EnvFilter` takes a lone word that is no level for the name of a module, and then `--log-level verbose` would turn
/// everything off.
fn parse(filter: &str) -> Result<EnvFilter, Cause> {
    for directive in filter.split(',').filter(|directive| !directive.contains('=')) {
        directive.parse::<LevelFilter>()?;
    }
    Ok(EnvFilter::builder().parse(filter)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_levels_and_directives() {
        for filter in
            ["info", "off", "debug,connection=off", "enforcer::observe=trace", "warn,enforcer=debug,hyper=off"]
        {
            assert!(parse(filter).is_ok(), "{filter}");
        }
        for filter in ["loud", "connection", "a=b=c", "info,connection=loud"] {
            assert!(parse(filter).is_err(), "{filter}");
        }
        let error = start(Format::Text, "loud").unwrap_err().to_string();
        assert!(error.starts_with("parse log level \"loud\"; examples: info"), "{error}");
    }
}
