//! Who asked for what, and what became of it: one line of JSON for each issue, refusal, revocation, token and step of a
//! rotation, in a file that is only ever appended to.
//!
//! A line is written before the answer is given; what cannot be written down is not done. The file is opened for each
//! line, so that it may be moved away at any time.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The file.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A node, by its certificate.
    Node(String, SocketAddr),
    /// Somebody without a certificate, who has a token or nothing.
    Stranger(SocketAddr),
    /// Somebody on control's own host, who may open its socket.
    Operator {
        /// User.
        uid: u32,
        /// Process, where the kernel tells.
        pid: Option<i32>,
    },
    /// Control itself.
    Control,
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name, address) => write!(f, "node {name} at {address}"),
            Self::Stranger(address) => write!(f, "{address}"),
            Self::Operator { uid, pid: Some(pid) } => write!(f, "uid {uid}, pid {pid}"),
            Self::Operator { uid, pid: None } => write!(f, "uid {uid}"),
            Self::Control => f.write_str("control"),
        }
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// An authority was made.
    Made,
    /// A certificate was issued.
    Issued,
    /// It was asked for, and not done.
    Refused,
    /// A certificate was revoked.
    Revoked,
    /// An identity or a node is issued no more.
    Banned,
    /// It may be issued again.
    Admitted,
    /// A token was made.
    Token,
    /// A step of a rotation.
    Rotated,
    /// A request for an upstream authority was made.
    Requested,
    /// An intermediate was renewed.
    Renewed,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    event: Event,
    who: String,
    subject: &'a str,
    detail: &'a str,
}

impl Audit {
    /// The audit log of this file, which is made at its first line, for its owner alone.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Writes a line.
    ///
    /// # Errors
    ///
    /// [`Unwritten`].
    pub fn note(&self, event: Event, who: &Asker, (subject, detail): (&str, &str)) -> Result<(), Unwritten> {
        let now = OffsetDateTime::now_utc();
        let time = now.format(&Rfc3339).unwrap_or_else(|_unprintable| now.unix_timestamp().to_string());
        let line = Line { time, event, who: who.to_string(), subject, detail };
        let written = serde_json::to_vec(&line).map_err(io::Error::other).and_then(|line| self.append(line));
        written.map_err(|cause| Unwritten { path: self.path.clone(), cause })
    }

    fn append(&self, mut line: Vec<u8>) -> io::Result<()> {
        line.push(b'\n');
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
        file.write_all(&line)
    }
}

/// The audit log cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("write audit log {path}; nothing is done that is not written down")]
pub struct Unwritten {
    path: PathBuf,
    #[source]
    cause: io::Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_added_also_after_the_file_was_moved_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let audit = Audit::new(&path);
        let who = Asker::Operator { uid: 0, pid: Some(7) };
        audit.note(Event::Token, &who, ("node-a", "600 s")).unwrap();
        audit.note(Event::Refused, &Asker::Stranger("192.0.2.1:9".parse().unwrap()), ("?", "a \"quote\"\n")).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((lines[0]["event"].as_str(), lines[0]["who"].as_str()), (Some("token"), Some("uid 0, pid 7")));
        assert_eq!(lines[1]["detail"], "a \"quote\"\n");
        std::fs::rename(&path, folder.path().join("audit.log.1")).unwrap();
        audit.note(Event::Admitted, &who, ("x", "")).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
    }

    #[test]
    fn what_cannot_be_written_is_an_error() {
        let audit = Audit::new(Path::new("/proc/nowhere/audit.log"));
        assert!(audit.note(Event::Made, &Asker::Control, ("", "")).is_err());
    }
}
