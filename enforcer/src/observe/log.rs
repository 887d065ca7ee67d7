//! Logs: where they go and what they look like. To standard error, so that a verb's output stays its own.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// What a log line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

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
        cause: ParseError,
    },
    /// Something has set up logs before.
    #[error("logs are set up already")]
    Twice(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Sets up logs for the whole process. `filter` is a level, or directives as tracing-subscriber's `EnvFilter` has
/// them.
///
/// # Errors
///
/// [`Error`].
pub fn start(format: Format, filter: &str) -> Result<(), Error> {
    let parsed =
        EnvFilter::builder().parse(filter).map_err(|cause| Error::Filter { filter: filter.to_owned(), cause })?;
    let logs = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(io::stderr);
    let started = match format {
        Format::Text => logs.with_ansi(io::stderr().is_terminal()).try_init(),
        Format::Json => logs.json().flatten_event(true).try_init(),
    };
    started.map_err(Error::Twice)
}
