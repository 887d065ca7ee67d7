//! The messages of a pair session: small, framed, and read strictly.
//!
//! ```text
//! frame   = length kind body
//! length  = u16, octets of kind and body
//! kind    = u8: 1 offer, 2 opened, 3 abort, 4 again
//! offer   = number source destination
//! opened  = number
//! abort   = by number reason
//! again   = number source destination suite forward back
//! number  = u64            by    = u8: 1 session client, 2 session server
//! reason  = u32            suite = u16 (RFC 8446 B.4)
//! source, destination = address port
//! address = 16 octets, IPv4 as v4-mapped (RFC 4291 2.5.5.2)
//! port    = u16, not 0
//! forward, back = key iv, as long as the suite has them (see `secrets`)
//! ```
//!
//! Integers are in network order. An agent that reads anything else ends the session: both ends are ours, so it is
//! a mistake or an attack, and there is nothing to resynchronise on. A reason that this version does not know is
//! carried as its number, because a newer agent may say why in its own words.

use std::net::{Ipv6Addr, SocketAddr};

use rustls::CipherSuite;

use super::secrets::LONGEST_KEYS;
use super::{Connection, Keys, Role};

/// Octets of the longest frame.
pub const LONGEST: usize = LENGTH + 1 + NUMBER + 2 * ENDPOINT + SUITE + LONGEST_KEYS;

/// Of the length itself.
const LENGTH: usize = 2;
const NUMBER: usize = 8;
const ENDPOINT: usize = 18;
const SUITE: usize = 2;

const OFFER: u8 = 1;
const OPENED: u8 = 2;
const ABORT: u8 = 3;
const AGAIN: u8 = 4;

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// The sender's workload has opened this connection; the sender holds it, and has given it the keys of this offer.
    Offer {
        /// The sender's number for it.
        number: u64,
        /// The connection.
        connection: Connection,
    },
    /// The sender's end of the receiver's offer has its keys and is open: the receiver's may be too.
    Opened {
        /// The receiver's number.
        number: u64,
    },
    /// The connection is not to be.
    Abort {
        /// Who offered it.
        by: Role,
        /// The number of the offer.
        number: u64,
        /// A number of [`enforcer_ebpf::Reason`].
        reason: u32,
    },
    /// The sender's workload has opened this connection, and it was offered in a session that is lost. Its socket has
    /// the keys of that offer, and kernels before 7.2 take no others.
    Again {
        /// The sender's number for it in this session.
        number: u64,
        /// The connection.
        connection: Connection,
        /// What the sender's end has.
        keys: Keys,
    },
}

/// What was received is no message. The session must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No message is that long, or that short.
    #[error("frame of {0} octets")]
    Length(usize),
    /// There is no such kind.
    #[error("message of unknown kind {0}")]
    Kind(u8),
    /// The body has another length than its kind.
    #[error("message of kind {kind} with a body of {length} octets")]
    Body {
        /// The kind.
        kind: u8,
        /// Octets of the body.
        length: usize,
    },
    /// Neither session client nor session server.
    #[error("unknown role {0}")]
    Role(u8),
    /// Not one that keys of connections are for.
    #[error("keys for unknown cipher suite {0:#06x}")]
    Suite(u16),
    /// No connection has an end with port 0.
    #[error("endpoint with port 0")]
    Port,
}

/// Appends a message as a frame.
pub fn encode(message: &Message, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend([0; LENGTH]);
    match message {
        Message::Offer { number, connection } => put_offer(out, OFFER, (*number, connection)),
        Message::Opened { number } => {
            out.push(OPENED);
            out.extend(number.to_be_bytes());
        }
        Message::Abort { by, number, reason } => {
            out.extend([ABORT, by.code()]);
            out.extend(number.to_be_bytes());
            out.extend(reason.to_be_bytes());
        }
        Message::Again { number, connection, keys } => {
            put_offer(out, AGAIN, (*number, connection));
            out.extend(u16::from(keys.forward.suite).to_be_bytes());
            keys.put(out);
        }
    }
    // No message is longer than `LONGEST`, so the length fits.
    let length = u16::try_from(out.len() - start - LENGTH).unwrap_or(u16::MAX);
    out[start..start + LENGTH].copy_from_slice(&length.to_be_bytes());
}

fn put_offer(out: &mut Vec<u8>, kind: u8, (number, connection): (u64, &Connection)) {
    out.push(kind);
    out.extend(number.to_be_bytes());
    put_endpoint(out, connection.source);
    put_endpoint(out, connection.destination);
}

/// The endpoint in the form that frames and key derivation share: address, then port.
pub(super) fn put_endpoint(out: &mut Vec<u8>, endpoint: SocketAddr) {
    let endpoint_as_kept = enforcer_ebpf::Endpoint::from(endpoint);
    out.extend(endpoint_as_kept.address);
    out.extend(endpoint.port().to_be_bytes());
}

/// Reads the message at the beginning of `input`, and says how many octets it took. `None`: more must be received
/// first, at most [`LONGEST`] octets in all.
///
/// # Errors
///
/// [`Malformed`], as soon as it can be known.
pub fn decode(input: &[u8]) -> Result<Option<(Message, usize)>, Malformed> {
    let Some((length, rest)) = input.split_first_chunk::<LENGTH>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(*length));
    if length == 0 || length + LENGTH > LONGEST {
        return Err(Malformed::Length(length));
    }
    let Some((&kind, body)) = rest.get(..length).and_then(<[u8]>::split_first) else { return Ok(None) };
    let mut body = Body { kind, length: body.len(), rest: body };
    let message = body.message()?;
    body.end()?;
    Ok(Some((message, LENGTH + length)))
}

/// What is left of a body.
struct Body<'a> {
    kind: u8,
    length: usize,
    rest: &'a [u8],
}

impl Body<'_> {
    fn message(&mut self) -> Result<Message, Malformed> {
        match self.kind {
            OFFER => Ok(Message::Offer { number: self.number()?, connection: self.connection()? }),
            OPENED => Ok(Message::Opened { number: self.number()? }),
            ABORT => Ok(Message::Abort { by: self.role()?, number: self.number()?, reason: self.reason()? }),
            AGAIN => Ok(Message::Again { number: self.number()?, connection: self.connection()?, keys: self.keys()? }),
            kind => Err(Malformed::Kind(kind)),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let wrong = Malformed::Body { kind: self.kind, length: self.length };
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(wrong)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::Body { kind: self.kind, length: self.length }) }
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        self.take().map(u64::from_be_bytes)
    }

    fn reason(&mut self) -> Result<u32, Malformed> {
        self.take().map(u32::from_be_bytes)
    }

    fn role(&mut self) -> Result<Role, Malformed> {
        let [code] = self.take()?;
        [Role::Client, Role::Server].into_iter().find(|role| role.code() == code).ok_or(Malformed::Role(code))
    }

    fn connection(&mut self) -> Result<Connection, Malformed> {
        Ok(Connection { source: self.endpoint()?, destination: self.endpoint()? })
    }

    /// The keys are the rest of the body.
    fn keys(&mut self) -> Result<Keys, Malformed> {
        let number = u16::from_be_bytes(self.take()?);
        let length = Keys::octets(CipherSuite::from(number)).ok_or(Malformed::Suite(number))?;
        let wrong = Malformed::Body { kind: self.kind, length: self.length };
        let (octets, rest) = self.rest.split_at_checked(length).ok_or(wrong)?;
        self.rest = rest;
        Keys::new(CipherSuite::from(number), octets).ok_or(wrong)
    }

    fn endpoint(&mut self) -> Result<SocketAddr, Malformed> {
        let address = Ipv6Addr::from(self.take::<16>()?).to_canonical();
        match u16::from_be_bytes(self.take()?) {
            0 => Err(Malformed::Port),
            port => Ok(SocketAddr::new(address, port)),
        }
    }
}

impl Role {
    /// As in frames and in the key derivation.
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Client => 1,
            Self::Server => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages() -> Vec<Message> {
        let connection =
            Connection { source: "10.0.0.1:40000".parse().unwrap(), destination: "[fd00::2]:443".parse().unwrap() };
        vec![
            Message::Offer { number: u64::MAX, connection },
            Message::Opened { number: 5 },
            Message::Abort { by: Role::Client, number: 3, reason: 48 },
            Message::Abort { by: Role::Server, number: 4, reason: u32::MAX },
            again(CipherSuite::TLS13_AES_128_GCM_SHA256),
            again(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
        ]
    }

    fn again(suite: CipherSuite) -> Message {
        let connection =
            Connection { source: "[fd00::1]:40000".parse().unwrap(), destination: "10.0.0.2:443".parse().unwrap() };
        let octets: Vec<u8> = (1..).take(Keys::octets(suite).unwrap()).collect();
        Message::Again { number: 6, connection, keys: Keys::new(suite, &octets).unwrap() }
    }

    fn encoded(message: &Message) -> Vec<u8> {
        let mut out = Vec::new();
        encode(message, &mut out);
        out
    }

    #[test]
    fn an_offer_looks_as_documented() {
        let connection =
            Connection { source: "10.0.0.1:258".parse().unwrap(), destination: "[fd00::2]:443".parse().unwrap() };
        let mut expected = vec![0, 45, 1, 0, 0, 0, 0, 0, 0, 0, 5];
        expected.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1, 1, 2]);
        expected.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 187]);
        assert_eq!(encoded(&Message::Offer { number: 5, connection }), expected);
    }

    #[test]
    fn keys_of_an_offer_follow_it_when_it_is_made_again() {
        let octets = encoded(&again(CipherSuite::TLS13_AES_128_GCM_SHA256));
        let (head, keys) = octets.split_at(3 + 8 + 36);
        assert_eq!(head[..3], [0, 103, 4]);
        assert_eq!(keys[..2], [0x13, 0x01]);
        assert_eq!(keys[2..], (1..=56).collect::<Vec<u8>>());
        assert_eq!(encoded(&again(CipherSuite::TLS13_AES_256_GCM_SHA384)).len(), LONGEST);
    }

    #[test]
    fn no_key_is_shown() {
        let shown = format!("{:?}", again(CipherSuite::TLS13_AES_128_GCM_SHA256));
        assert!(shown.contains("TLS13_AES_128_GCM_SHA256") && !shown.contains("17"), "{shown}");
    }

    #[test]
    fn every_message_comes_back_one_after_the_other() {
        let mut stream: Vec<u8> = messages().iter().flat_map(encoded).collect();
        for message in messages() {
            let (read, taken) = decode(&stream).unwrap().unwrap();
            assert_eq!(read, message);
            stream.drain(..taken);
        }
        assert_eq!(decode(&stream), Ok(None));
    }

    #[test]
    fn a_part_of_a_message_is_none_and_not_wrong() {
        for message in messages() {
            let whole = encoded(&message);
            for length in 0..whole.len() {
                assert_eq!(decode(&whole[..length]), Ok(None), "{message:?} cut to {length}");
            }
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let number = [0; 8];
        let end = |role: u8| [&[0, 14, ABORT, role][..], &number, &[0; 4]].concat();
        let keys = |suite: u16, octets: u8| {
            let ends = [[0; 16].as_slice(), &[1, 1], &[0; 16], &[1, 1]].concat();
            let body = [&number[..], &ends, &suite.to_be_bytes(), &vec![0; octets.into()]].concat();
            [&[0, u8::try_from(body.len() + 1).unwrap(), AGAIN][..], &body].concat()
        };
        let cases = [
            (vec![0, 0], Malformed::Length(0)),
            (vec![0, 136], Malformed::Length(136)),
            (vec![0xff, 0xff], Malformed::Length(0xffff)),
            (vec![0, 1, 0], Malformed::Kind(0)),
            (vec![0, 1, 5], Malformed::Kind(5)),
            (vec![0, 1, OPENED], Malformed::Body { kind: OPENED, length: 0 }),
            ([&[0, 10, OPENED][..], &number, &[0]].concat(), Malformed::Body { kind: OPENED, length: 9 }),
            (keys(0x1304, 56), Malformed::Suite(0x1304)),
            (keys(0x1301, 55), Malformed::Body { kind: AGAIN, length: 101 }),
            (keys(0x1301, 57), Malformed::Body { kind: AGAIN, length: 103 }),
            (end(0), Malformed::Role(0)),
            (end(3), Malformed::Role(3)),
            ([&[0, 45, OFFER][..], &[0; 44]].concat(), Malformed::Port),
        ];
        for (input, expected) in cases {
            assert_eq!(decode(&input), Err(expected), "{input:?}");
        }
    }

    /// Whatever one octet becomes, the result is a message that encodes to the same octets, or an error.
    #[test]
    fn a_frame_has_one_meaning() {
        for message in messages() {
            let whole = encoded(&message);
            for position in 0..whole.len() {
                for value in 0..=u8::MAX {
                    let mut changed = whole.clone();
                    changed[position] = value;
                    if let Ok(Some((read, taken))) = decode(&changed) {
                        assert_eq!(encoded(&read), changed[..taken]);
                    }
                }
            }
        }
    }
}
