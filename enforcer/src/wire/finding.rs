//! What speaks against a connection, or leaves a question open, with the octets that say so.

use std::fmt::{self, Write as _};

use serde::{Serialize, Serializer};

use super::Side;

/// Octets that a finding shows.
const SHOWN: usize = 32;

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of thing.
    pub code: Code,
    /// What, as a sentence for people.
    pub text: String,
    /// Whose octets.
    pub side: Option<Side>,
    /// Where they are in what that side has sent; 0 is the first octet that was captured.
    pub offset: Option<usize>,
    /// The octets, the first 32 of them.
    #[serde(serialize_with = "hexadecimal")]
    pub octets: Vec<u8>,
}

/// What kind of finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Octets that are not in a TLS record.
    NotTls,
    /// Octets in a TLS record, but not as TLS 1.3 has it on the wire.
    NotTls13,
    /// What was sent can be read.
    MarkerSeen,
    /// Payload where TCP has none: behind a FIN, in a RST, before the first octet.
    OutsideOfStream,
    /// Nothing to judge in one direction.
    Nothing,
    /// Octets were not captured.
    Gap,
    /// Octets were sent twice, and not the same ones.
    Conflict,
    /// The stream ends inside a record.
    Truncated,
    /// The first packet of the connection was not captured.
    BeginningMissed,
    /// A packet that is cut off, or in pieces.
    Unreadable,
    /// No record begins in what was captured.
    NoBoundary,
    /// The handshake was given up.
    Refused,
}

/// What a finding means for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weight {
    /// It leaves the question open.
    LeavesOpen,
    /// It answers it: no.
    Disproves,
}

impl Code {
    /// For scripts.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotTls => "not-tls",
            Self::NotTls13 => "not-tls-13",
            Self::MarkerSeen => "marker-seen",
            Self::OutsideOfStream => "outside-of-stream",
            Self::Nothing => "nothing",
            Self::Gap => "gap",
            Self::Conflict => "conflict",
            Self::Truncated => "truncated",
            Self::BeginningMissed => "beginning-missed",
            Self::Unreadable => "unreadable",
            Self::NoBoundary => "no-boundary",
            Self::Refused => "refused",
        }
    }

    /// What such a finding means.
    #[must_use]
    pub const fn weight(self) -> Weight {
        match self {
            Self::NotTls | Self::NotTls13 | Self::MarkerSeen | Self::OutsideOfStream => Weight::Disproves,
            Self::Nothing
            | Self::Gap
            | Self::Conflict
            | Self::Truncated
            | Self::BeginningMissed
            | Self::Unreadable
            | Self::NoBoundary
            | Self::Refused => Weight::LeavesOpen,
        }
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

impl Finding {
    /// With the first of these octets.
    pub(super) fn new(code: Code, text: String, octets: &[u8]) -> Self {
        Self { code, text, side: None, offset: None, octets: octets[..octets.len().min(SHOWN)].to_vec() }
    }

    /// In a stream, there.
    pub(super) fn at(self, side: Side, offset: usize) -> Self {
        Self { side: Some(side), offset: Some(offset), ..self }
    }
}

/// Octets as people read them: in hexadecimal, and the text that is in them.
pub struct Shown<'a>(pub &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for octet in self.0 {
            write!(f, "{octet:02x} ")?;
        }
        f.write_char('|')?;
        for &octet in self.0 {
            f.write_char(if octet == b' ' || octet.is_ascii_graphic() { char::from(octet) } else { '.' })?;
        }
        f.write_char('|')
    }
}

fn hexadecimal<S: Serializer>(octets: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    let mut text = String::with_capacity(2 * octets.len());
    for octet in octets {
        // Writing to a string does not fail.
        let _written = write!(text, "{octet:02x}");
    }
    serializer.serialize_str(&text)
}
