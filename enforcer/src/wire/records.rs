//! TLS 1.3 as anybody on the wire sees it (RFC 8446 5), from the first octet to the last.
//!
//! Two kinds of connections are known. One begins with a handshake: a ClientHello or a ServerHello in the clear,
//! change_cipher_spec for the sake of middleboxes (appendix D.4), and from the first encrypted record on nothing but
//! application_data. The other has its keys from elsewhere, and is application_data alone. There are no keys here, so
//! what is in an encrypted record is not judged.

use serde::Serialize;

use super::hello::{Agreed, Handshake};
use super::{Code, Finding};

const HEADER: usize = 5;
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
/// What a record may hold (5.1).
const LONGEST: usize = 1 << 14;
/// The same when it is encrypted (5.2).
const LONGEST_ENCRYPTED: usize = LONGEST + 256;
/// The true type of the content, and the tag of the cipher suites.
const SHORTEST_ENCRYPTED: usize = 1 + 16;
/// change_cipher_spec: one around a HelloRetryRequest, one before what is encrypted.
const MOST_CHANGES: usize = 2;

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Opening {
    /// With a handshake in it.
    Handshake,
    /// With encrypted records: its keys come from elsewhere.
    Data,
}

impl Opening {
    /// For people.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Handshake => "a handshake",
            Self::Data => "application data",
        }
    }
}

/// How many records of each type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Records {
    /// Handshake messages in the clear.
    pub handshake: usize,
    /// Without a meaning in TLS 1.3.
    pub change_cipher_spec: usize,
    /// Alerts in the clear.
    pub alert: usize,
    /// Encrypted records.
    pub application_data: usize,
    /// Octets in encrypted records, their headers not among them.
    pub encrypted_octets: usize,
}

impl Records {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.handshake + self.change_cipher_spec + self.alert + self.application_data
    }

    fn count(&mut self, content: u8, length: usize) {
        match content {
            HANDSHAKE => self.handshake += 1,
            CHANGE_CIPHER_SPEC => self.change_cipher_spec += 1,
            ALERT => self.alert += 1,
            _ => {
                self.application_data += 1;
                self.encrypted_octets += length;
            }
        }
    }
}

/// Whose octets these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Server,
}

/// Where the octets begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// With the first one of the connection.
    Beginning,
    /// Somewhere: the next boundary of two records is looked for, and what is before it is skipped.
    Middle,
}

/// What one direction says.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) opening: Option<Opening>,
    pub(super) records: Records,
    pub(super) agreed: Option<Agreed>,
    pub(super) skipped: usize,
    pub(super) unfinished: usize,
    /// An alert in the clear: the handshake came to nothing.
    pub(super) is_refused: bool,
    pub(super) findings: Vec<Finding>,
}

/// Reads all of it; stops at the first octet that is not where TLS 1.3 would have it.
pub(super) fn read(octets: &[u8], role: Role, start: Start) -> Reading {
    let mut reader = Reader { role, is_encrypted: start == Start::Middle, ..Reader::default() };
    let mut at = match start {
        Start::Beginning => 0,
        Start::Middle => match boundary(octets) {
            Ok(at) => at,
            Err(finding) => return Reading { findings: finding.into_iter().collect(), ..Reading::default() },
        },
    };
    reader.reading.skipped = at;
    while at < octets.len() {
        match reader.record(octets, at) {
            Ok(Some(length)) => at += length,
            Ok(None) => {
                reader.reading.unfinished = octets.len() - at;
                break;
            }
            Err((code, what)) => {
                let finding = Finding::new(code, what, &octets[at..]);
                reader.reading.findings.push(Finding { offset: Some(at), ..finding });
                break;
            }
        }
    }
    reader.reading.agreed = reader.handshake.agreed.take();
    reader.reading
}

struct Reader {
    role: Role,
    is_encrypted: bool,
    handshake: Handshake,
    reading: Reading,
}

impl Default for Reader {
    fn default() -> Self {
        Self { role: Role::Client, is_encrypted: false, handshake: Handshake::default(), reading: Reading::default() }
    }
}

type Wrong = (Code, String);

impl Reader {
    /// The length of the record that begins there; `None`: it is not all there.
    fn record(&mut self, octets: &[u8], at: usize) -> Result<Option<usize>, Wrong> {
        let rest = &octets[at..];
        let Some(&[content, major, minor, high, low]) = rest.first_chunk::<HEADER>() else {
            return if may_begin(rest) { Ok(None) } else { Err(not_tls()) };
        };
        if !may_begin(&[content, major, minor]) {
            return Err(not_tls());
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        self.allows(content, minor, length)?;
        let Some(body) = rest.get(HEADER..HEADER + length) else { return Ok(None) };
        self.take(content, at, body)?;
        self.reading.records.count(content, length);
        Ok(Some(HEADER + length))
    }

    fn allows(&self, content: u8, minor: u8, length: usize) -> Result<(), Wrong> {
        let wrong = |what: String| Err((Code::NotTls13, what));
        let is_first = self.reading.records.total() == 0;
        let lengths = match content {
            CHANGE_CIPHER_SPEC => 1..=1,
            ALERT => 2..=2,
            HANDSHAKE => 1..=LONGEST,
            _ => SHORTEST_ENCRYPTED..=LONGEST_ENCRYPTED,
        };
        if !lengths.contains(&length) {
            return wrong(format!("a record of type {content} with {length} octets, which no peer of TLS 1.3 sends"));
        }
        // For a first ClientHello (5.1).
        let is_hello = is_first && content == HANDSHAKE && self.role == Role::Client;
        if minor != 3 && !(minor == 1 && is_hello) {
            return wrong(format!("a record of version 0x03{minor:02x} where TLS 1.3 writes 0x0303"));
        }
        if self.is_encrypted && content != APPLICATION_DATA {
            return wrong(format!("a record of type {content} in the clear, behind encrypted ones"));
        }
        if is_first && content == CHANGE_CIPHER_SPEC {
            return wrong("a change_cipher_spec before a handshake".to_owned());
        }
        if content == APPLICATION_DATA && !is_first && !self.is_encrypted && !self.handshake.is_done(self.role) {
            return wrong("encrypted records before the handshake has agreed on keys".to_owned());
        }
        Ok(())
    }

    fn take(&mut self, content: u8, at: usize, body: &[u8]) -> Result<(), Wrong> {
        if self.reading.records.total() == 0 && !self.is_encrypted {
            let is_data = content == APPLICATION_DATA;
            self.reading.opening = Some(if is_data { Opening::Data } else { Opening::Handshake });
        }
        match content {
            CHANGE_CIPHER_SPEC if body != [1] || self.reading.records.change_cipher_spec == MOST_CHANGES => {
                return Err((Code::NotTls13, "a change_cipher_spec that says something".to_owned()));
            }
            HANDSHAKE => self.handshake.take(self.role, body).map_err(|what| (Code::NotTls13, what))?,
            ALERT => {
                self.reading.is_refused = true;
                let what = format!("the handshake was given up: alert {} (RFC 8446 6)", body[1]);
                let finding = Finding::new(Code::Refused, what, body);
                self.reading.findings.push(Finding { offset: Some(at), ..finding });
            }
            APPLICATION_DATA => self.is_encrypted = true,
            _ => {}
        }
        Ok(())
    }
}

/// Whether a record may begin with these octets, of which three count.
fn may_begin(octets: &[u8]) -> bool {
    let is_right = |(place, octet): (usize, &u8)| match place {
        0 => (CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(octet),
        1 => *octet == 3,
        _ => *octet <= 4,
    };
    octets.iter().take(3).enumerate().all(is_right)
}

fn not_tls() -> Wrong {
    (Code::NotTls, "no TLS record begins here: this is in the clear".to_owned())
}

/// Where the first encrypted record begins that begins at all. By chance this many octets look like a boundary once in
/// 2^38 times: two headers in the right distance, or one that ends with what was captured.
fn boundary(octets: &[u8]) -> Result<usize, Option<Finding>> {
    const FURTHEST: usize = HEADER + LONGEST_ENCRYPTED;
    let found = (0..octets.len().min(FURTHEST)).find(|&at| begins_records(octets, at));
    found.ok_or_else(|| match octets.len() {
        0 => None,
        FURTHEST.. => {
            let what = format!("no TLS record begins within {FURTHEST} octets: this is in the clear");
            Some(Finding { offset: Some(0), ..Finding::new(Code::NotTls, what, octets) })
        }
        _ => {
            let what = "no TLS record begins here: the rest of a long one, or in the clear".to_owned();
            Some(Finding { offset: Some(0), ..Finding::new(Code::NoBoundary, what, octets) })
        }
    })
}

fn begins_records(octets: &[u8], first: usize) -> bool {
    const ENOUGH: usize = 4;
    let mut at = first;
    for count in 0..ENOUGH {
        let rest = octets.get(at..).unwrap_or_default();
        let Some(&[APPLICATION_DATA, 3, 3, high, low]) = rest.first_chunk::<HEADER>() else {
            // What is left is the beginning of the next header, or nothing.
            let is_left = rest.len() < HEADER && may_begin(rest) && (count >= 2 || count == 1 && rest.is_empty());
            // A packet often begins with a record; what comes behind that is for the reader to judge.
            return is_left || count >= 1 && first == 0;
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if !(SHORTEST_ENCRYPTED..=LONGEST_ENCRYPTED).contains(&length) {
            return false;
        }
        at += HEADER + length;
        if at > octets.len() {
            return count >= 1 || first == 0;
        }
    }
    true
}
