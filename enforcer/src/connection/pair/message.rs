//! The messages of a pair session: small, framed, and read strictly.
//!
//! ```text
//! frame     = length kind body
//! length    = u16, octets of kind and body
//! kind      = u8: 1 offer, 2 accept, 3 installed, 4 abort, 5 closed, 6 opened
//! offer     = number source destination
//! accept    = number
//! installed = number
//! opened    = number
//! abort     = by number reason
//! closed    = by number reason
//! number    = u64            by     = u8: 1 session client, 2 session server
//! reason    = u32            source, destination = address port
//! address   = 16 octets, IPv4 as v4-mapped (RFC 4291 2.5.5.2)
//! port      = u16, not 0
//! ```
//!
//! Integers are in network order. An agent that reads anything else ends the session: both ends are ours, so it is
//! a mistake or an attack, and there is nothing to resynchronise on. A reason that this version does not know is
//! carried as its number, because a newer agent may say why in its own words.

use std::net::{Ipv6Addr, SocketAddr};

use super::{Connection, Role};

/// Octets of the longest frame.
pub const LONGEST: usize = LENGTH + 1 + NUMBER + 2 * ENDPOINT;

/// Of the length itself.
const LENGTH: usize = 2;
const NUMBER: usize = 8;
const ENDPOINT: usize = 18;

const OFFER: u8 = 1;
const ACCEPT: u8 = 2;
const INSTALLED: u8 = 3;
const ABORT: u8 = 4;
const CLOSED: u8 = 5;
const OPENED: u8 = 6;

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// The sender's workload has opened this connection, and the sender holds it.
    Offer {
        /// The sender's number for it.
        number: u64,
        /// The connection.
        connection: Connection,
    },
    /// The receiver's offer stands, and the sender's end has its keys.
    Accept {
        /// The receiver's number.
        number: u64,
    },
    /// The end of the sender's offer has its keys too: the receiver's may be opened.
    Installed {
        /// The sender's number.
        number: u64,
    },
    /// The end of the receiver's offer that is the sender's is open: the receiver's may be too.
    Opened {
        /// The receiver's number.
        number: u64,
    },
    /// The connection is not to be, or not to be any more.
    Abort {
        /// Who offered it.
        by: Role,
        /// The number of the offer.
        number: u64,
        /// A number of [`enforcer_ebpf::Reason`].
        reason: u32,
    },
    /// The sender's end was closed.
    Closed {
        /// Who offered the connection.
        by: Role,
        /// The number of the offer.
        number: u64,
        /// A number of [`enforcer_ebpf::Reason`].
        reason: u32,
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
    /// No connection has an end with port 0.
    #[error("endpoint with port 0")]
    Port,
}

/// Appends a message as a frame.
pub fn encode(message: &Message, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend([0; LENGTH]);
    match *message {
        Message::Offer { number, connection } => {
            out.push(OFFER);
            out.extend(number.to_be_bytes());
            put_endpoint(out, connection.source);
            put_endpoint(out, connection.destination);
        }
        Message::Accept { number } => put_number(out, ACCEPT, number),
        Message::Installed { number } => put_number(out, INSTALLED, number),
        Message::Opened { number } => put_number(out, OPENED, number),
        Message::Abort { by, number, reason } => put_end(out, ABORT, (by, number, reason)),
        Message::Closed { by, number, reason } => put_end(out, CLOSED, (by, number, reason)),
    }
    // No message is longer than `LONGEST`, so the length fits.
    let length = u16::try_from(out.len() - start - LENGTH).unwrap_or(u16::MAX);
    out[start..start + LENGTH].copy_from_slice(&length.to_be_bytes());
}

fn put_number(out: &mut Vec<u8>, kind: u8, number: u64) {
    out.push(kind);
    out.extend(number.to_be_bytes());
}

fn put_end(out: &mut Vec<u8>, kind: u8, (by, number, reason): (Role, u64, u32)) {
    out.extend([kind, by.code()]);
    out.extend(number.to_be_bytes());
    out.extend(reason.to_be_bytes());
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
            OFFER => {
                let number = self.number()?;
                let connection = Connection { source: self.endpoint()?, destination: self.endpoint()? };
                Ok(Message::Offer { number, connection })
            }
            ACCEPT => Ok(Message::Accept { number: self.number()? }),
            INSTALLED => Ok(Message::Installed { number: self.number()? }),
            OPENED => Ok(Message::Opened { number: self.number()? }),
            ABORT => Ok(Message::Abort { by: self.role()?, number: self.number()?, reason: self.reason()? }),
            CLOSED => Ok(Message::Closed { by: self.role()?, number: self.number()?, reason: self.reason()? }),
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
            Message::Accept { number: 1 },
            Message::Installed { number: 2 },
            Message::Opened { number: 5 },
            Message::Abort { by: Role::Client, number: 3, reason: 48 },
            Message::Closed { by: Role::Server, number: 4, reason: u32::MAX },
        ]
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
        assert_eq!(expected.len(), LONGEST);
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
        let cases = [
            (vec![0, 0], Malformed::Length(0)),
            (vec![0, 46], Malformed::Length(46)),
            (vec![0xff, 0xff], Malformed::Length(0xffff)),
            (vec![0, 1, 0], Malformed::Kind(0)),
            (vec![0, 1, 7], Malformed::Kind(7)),
            (vec![0, 1, ACCEPT], Malformed::Body { kind: ACCEPT, length: 0 }),
            ([&[0, 10, ACCEPT][..], &number, &[0]].concat(), Malformed::Body { kind: ACCEPT, length: 9 }),
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
