//! What can go wrong with an authority, and how soon it may be asked again.

use std::io;
use std::path::PathBuf;

use instant_acme::{Error as Acme, Problem};

use super::chain::Unusable;
use super::http;
use crate::ca;
use crate::identity::plain::{LONGEST_WORDS, plain};

/// There is no certificate for a public name, or no newer one. What the authority has said is in it only in printable form.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing can be kept.
    #[error("prepare directory {path} for certificates of public names")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        cause: ca::Error,
    },
    /// A file cannot be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// A file is damaged, or of another name. It is not written over: it may hold what cannot be had again soon.
    #[error("use {path}, which was kept for a public name: {why}; move it away, and another one is asked for")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file cannot be written. What would be in it is used all the same.
    #[error("keep certificate of public name")]
    Write(#[source] ca::Error),
    /// The roots that the authority's own certificate is verified against cannot be used.
    #[error("use roots {path} for the ACME server: {why}; name a PEM file with its roots in `acme.roots`")]
    Roots {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A key, or a request for it, cannot be made.
    #[error("make key and request for public name")]
    Key(#[source] rcgen::Error),
    /// The account's key cannot be made or used.
    #[error("use account key: {0}")]
    AccountKey(String),
    /// A handshake cannot be set up.
    #[error("set up TLS for public name")]
    Tls(#[source] rustls::Error),
    /// The authority could not be spoken to.
    #[error("reach ACME server: {0}")]
    Unreachable(String),
    /// The authority refuses.
    #[error("ACME server refuses: {kind}: {detail}")]
    Refused {
        /// The type of the problem document (RFC 8555 6.7).
        kind: String,
        /// What it says.
        detail: String,
    },
    /// The authority does not do what RFC 8555 says.
    #[error("understand ACME server: {0}")]
    Unexpected(String),
    /// The authority takes too long.
    #[error("wait for ACME server: order not done in time")]
    TimedOut,
    /// What the authority has issued cannot be used.
    #[error("use certificate that the ACME server has issued: {0}")]
    Unusable(#[from] Unusable),
}

/// How soon another attempt does no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// Nobody counts it.
    Soon,
    /// The authority counts attempts that fail.
    Later,
}

impl Error {
    pub(super) fn again(&self) -> Again {
        match self {
            Self::Unreachable(_) | Self::Read { .. } | Self::Content { .. } | Self::Roots { .. } => Again::Soon,
            Self::Refused { kind, .. } if kind.ends_with(":badNonce") => Again::Soon,
            _ => Again::Later,
        }
    }

    pub(super) fn of_problem(problem: &Problem) -> Self {
        let told = |text: Option<&String>, most| text.map_or_else(|| "nothing said".to_owned(), |it| plain(it, most));
        // What is wrong with the one name of an order may be said there alone.
        let subproblem = problem.subproblems.first().and_then(|problem| problem.detail.as_ref());
        let mut detail = told(problem.detail.as_ref(), LONGEST_WORDS);
        if let Some(more) = subproblem {
            detail = format!("{detail}: {}", plain(more, LONGEST_WORDS));
        }
        Self::Refused { kind: told(problem.r#type.as_ref(), LONGEST_KIND), detail }
    }
}

impl From<Acme> for Error {
    fn from(error: Acme) -> Self {
        match error {
            Acme::Api(problem) => Self::of_problem(&problem),
            Acme::Other(cause) => match cause.downcast::<http::Error>() {
                Ok(error) => (*error).into(),
                Err(other) => Self::Unexpected(plain(&other.to_string(), LONGEST_WORDS)),
            },
            // Its text may quote what was sent.
            other => Self::Unexpected(plain(&other.to_string(), LONGEST_WORDS)),
        }
    }
}

impl From<http::Error> for Error {
    fn from(error: http::Error) -> Self {
        let mut text = error.to_string();
        if let Some(cause) = std::error::Error::source(&error) {
            text = format!("{text}: {cause}");
        }
        let text = plain(&text, LONGEST_WORDS);
        if error.is_answer() { Self::Unexpected(text) } else { Self::Unreachable(text) }
    }
}

/// Characters of a problem's type that are shown.
const LONGEST_KIND: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn of_json(json: &str) -> Error {
        Error::of_problem(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn what_the_authority_says_is_cut_and_cannot_forge_a_line_of_the_log() {
        let detail = "no\\nlevel=ERROR \\u001b[2J\\u202e".to_owned() + &"x".repeat(1000);
        let text = of_json(&format!(r#"{{"type":"urn:ietf:params:acme:error:dns","detail":"{detail}"}}"#)).to_string();
        assert!(
            text.starts_with(
                "ACME server refuses: urn:ietf:params:acme:error:dns: no\\nlevel=ERROR \\u{1b}[2J\\u{202e}x"
            )
        );
        assert!(text.ends_with("x...") && text.len() < 400 && text.is_ascii(), "{text}");
        assert!(of_json("{}").to_string().ends_with("nothing said: nothing said"));
        let nested = of_json(r#"{"detail":"some","subproblems":[{"detail":"this one"}]}"#);
        assert!(nested.to_string().ends_with("some: this one"));
    }

    #[test]
    fn only_what_no_authority_counts_is_tried_again_soon() {
        let refused = |kind: &str| of_json(&format!(r#"{{"type":"urn:ietf:params:acme:error:{kind}"}}"#)).again();
        assert_eq!(
            [refused("badNonce"), refused("rateLimited"), refused("unauthorized")],
            [Again::Soon, Again::Later, Again::Later]
        );
        assert_eq!(Error::TimedOut.again(), Again::Later);
        assert_eq!(Error::Unreachable(String::new()).again(), Again::Soon);
        assert_eq!(Error::from(Acme::Other(Box::new(http::Error::TimedOut))).again(), Again::Soon);
        assert_eq!(Error::from(Acme::Other("else".into())).again(), Again::Later);
    }
}
