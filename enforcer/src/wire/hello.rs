//! What a handshake of TLS 1.3 says in the clear (RFC 8446 4.1): a ClientHello, and a ServerHello that settles the version,
//! the cipher suite and the key exchange. Anything else in the clear is not TLS 1.3.

use rustls::{CipherSuite, NamedGroup};
use serde::Serialize;

use super::records::Role;

const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
/// With a HelloRetryRequest between them.
const MOST_HELLOS: usize = 2;
/// A ClientHello with every key share and extension that is in use has a twentieth of this.
const LONGEST: usize = 1 << 16;
const TLS13: u16 = 0x0304;
/// The cipher suites of RFC 8446 B.4, but for the one with a short tag.
const SUITES: std::ops::RangeInclusive<u16> = 0x1301..=0x1304;
/// The random of a ServerHello that is a HelloRetryRequest (4.1.3): the SHA-256 of that name.
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11,
    0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// What a ServerHello has settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Agreed {
    /// The cipher suite's name in the IANA registry.
    pub cipher: String,
    /// The group's name there; nothing where no key share was sent.
    pub group: Option<String>,
}

/// The messages of one direction, as far as they have come.
#[derive(Debug, Default)]
pub(super) struct Handshake {
    pending: Vec<u8>,
    hellos: usize,
    pub(super) agreed: Option<Agreed>,
    is_settled: bool,
}

impl Handshake {
    /// Takes what a record holds; an error is what TLS 1.3 has no place for.
    pub(super) fn take(&mut self, role: Role, body: &[u8]) -> Result<(), String> {
        self.pending.extend_from_slice(body);
        let expected = if role == Role::Client { CLIENT_HELLO } else { SERVER_HELLO };
        while let Some(&kind) = self.pending.first() {
            if kind != expected || self.is_settled || self.hellos == MOST_HELLOS {
                return Err(format!("handshake message {kind} in the clear, which TLS 1.3 encrypts or does not have"));
            }
            let Some(&[_, high, middle, low]) = self.pending.first_chunk() else { return Ok(()) };
            let length = usize::try_from(u32::from_be_bytes([0, high, middle, low])).unwrap_or(usize::MAX);
            if length > LONGEST {
                return Err(format!("a handshake message of {length} octets"));
            }
            let Some(message) = self.pending.get(4..4 + length) else { return Ok(()) };
            if role == Role::Server {
                let hello = server_hello(message)?;
                self.is_settled = !hello.is_retry;
                self.agreed = Some(hello.agreed);
            }
            self.hellos += 1;
            self.pending.drain(..4 + length);
        }
        Ok(())
    }

    /// Whether encrypted records may follow.
    pub(super) fn is_done(&self, role: Role) -> bool {
        self.hellos > 0 && self.pending.is_empty() && (role == Role::Client || self.is_settled)
    }
}

struct ServerHello {
    is_retry: bool,
    agreed: Agreed,
}

fn server_hello(message: &[u8]) -> Result<ServerHello, String> {
    const SUPPORTED_VERSIONS: u16 = 43;
    const KEY_SHARE: u16 = 51;
    let cut = || "a ServerHello that is cut off".to_owned();
    let mut fields = Fields(message);
    let version = fields.number().ok_or_else(cut)?;
    let random = fields.take(32).ok_or_else(cut)?;
    fields.short().ok_or_else(cut)?;
    let suite = fields.number().ok_or_else(cut)?;
    fields.take(1).ok_or_else(cut)?;
    // Before TLS 1.3 there need not be extensions.
    let mut extensions = Fields(fields.long().unwrap_or_default());
    let (mut selected, mut group) = (version, None);
    while !extensions.0.is_empty() {
        let kind = extensions.number().ok_or_else(cut)?;
        let mut content = Fields(extensions.long().ok_or_else(cut)?);
        match kind {
            SUPPORTED_VERSIONS => selected = content.number().ok_or_else(cut)?,
            KEY_SHARE => group = content.number(),
            _ => {}
        }
    }
    if selected != TLS13 || !SUITES.contains(&suite) {
        return Err(format!("a ServerHello that selects version {selected:#06x} and cipher suite {suite:#06x}"));
    }
    let group = group.map(|group| NamedGroup::from(group).as_str().unwrap_or("unknown").to_owned());
    let cipher = CipherSuite::from(suite).as_str().unwrap_or("unknown").to_owned();
    Ok(ServerHello { is_retry: random == RETRY, agreed: Agreed { cipher, group } })
}

/// Reads from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        let taken = self.take(2)?;
        Some(u16::from_be_bytes([taken[0], taken[1]]))
    }

    /// A vector with one octet of length.
    fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(length.into())
    }

    /// A vector with two octets of length.
    fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(length.into())
    }
}
