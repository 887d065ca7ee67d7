//! Packets, streams and records as tests want them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::wire::{Ends, Packet, Side};

pub(crate) const SYN: u8 = 2;
pub(crate) const FIN: u8 = 1;
pub(crate) const RST: u8 = 4;
const ACK: u8 = 0x10;

/// A packet.
#[derive(Clone, Copy)]
pub(crate) struct Made<'a> {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) sequence: u32,
    pub(crate) acknowledges: u32,
    pub(crate) flags: u8,
    pub(crate) payload: &'a [u8],
}

impl Made<'_> {
    pub(crate) fn between(from: SocketAddr, to: SocketAddr) -> Self {
        Self { from, to, sequence: 0, acknowledges: 0, flags: 0, payload: &[] }
    }
}

pub(crate) fn packet(made: &Made<'_>) -> Packet {
    let mut tcp = Vec::new();
    tcp.extend(made.from.port().to_be_bytes());
    tcp.extend(made.to.port().to_be_bytes());
    tcp.extend(made.sequence.to_be_bytes());
    tcp.extend(made.acknowledges.to_be_bytes());
    tcp.extend([0x50, made.flags, 0xff, 0xff, 0, 0, 0, 0]);
    tcp.extend(made.payload);
    let length = u16::try_from(tcp.len()).unwrap();
    let mut octets = match (made.from.ip(), made.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let [high, low] = (length + 20).to_be_bytes();
            let header = [0x45, 0, high, low, 0, 0, 0x40, 0, 64, 6, 0, 0];
            [&header[..], &from.octets(), &to.octets()].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let [high, low] = length.to_be_bytes();
            [&[0x60, 0, 0, 0, high, low, 6, 64][..], &from.octets(), &to.octets()].concat()
        }
        _ => panic!("two versions"),
    };
    octets.extend(tcp);
    Packet { at: Duration::ZERO, length: octets.len(), octets }
}

/// The connection of every test.
pub(crate) fn ends() -> Ends {
    Ends { client: "10.0.0.1:40000".parse().unwrap(), server: "10.0.0.2:80".parse().unwrap() }
}

/// What a test captures of a connection. Sequence numbers cross their wrap.
#[derive(Clone, Default)]
pub(crate) struct Wire {
    pub(crate) packets: Vec<Packet>,
    /// Octets that each side has sent.
    sent: [u32; 2],
}

const ISN: u32 = u32::MAX - 20;

impl Wire {
    /// With the packets that open a connection.
    pub(crate) fn opened() -> Self {
        let mut wire = Self::default();
        wire.raw(Side::Client, ISN, None, SYN, b"");
        wire.raw(Side::Server, ISN, Some(ISN.wrapping_add(1)), SYN, b"");
        wire
    }

    /// The next octets of one side.
    pub(crate) fn sends(&mut self, side: Side, payload: &[u8]) -> &mut Self {
        let offset = self.sent[place(side)];
        self.sends_at(side, offset, payload);
        self.sent[place(side)] = offset + u32::try_from(payload.len()).unwrap();
        self
    }

    /// Octets of one side, there in its stream.
    pub(crate) fn sends_at(&mut self, side: Side, offset: u32, payload: &[u8]) -> &mut Self {
        let acknowledges = Self::number(self.sent[place(side.other())]);
        self.raw(side, Self::number(offset), Some(acknowledges), 0, payload);
        self
    }

    /// The next octets of one side are lost, for us alone.
    pub(crate) fn misses(&mut self, side: Side, octets: u32) -> &mut Self {
        self.sent[place(side)] += octets;
        self
    }

    /// Both sides end.
    pub(crate) fn ends(&mut self) -> &mut Self {
        for side in [Side::Client, Side::Server] {
            self.flagged(side, FIN, b"");
        }
        let last = Self::number(self.sent[0] + 1);
        self.raw(Side::Server, Self::number(self.sent[1] + 1), Some(last), 0, b"");
        self
    }

    pub(crate) fn flagged(&mut self, side: Side, flags: u8, payload: &[u8]) -> &mut Self {
        let (sequence, acknowledges) = (self.sent[place(side)], self.sent[place(side.other())]);
        self.raw(side, Self::number(sequence), Some(Self::number(acknowledges)), flags, payload);
        self
    }

    fn number(offset: u32) -> u32 {
        ISN.wrapping_add(1).wrapping_add(offset)
    }

    fn raw(&mut self, side: Side, sequence: u32, acknowledges: Option<u32>, flags: u8, payload: &[u8]) {
        let ends = ends();
        let (from, to) = if side == Side::Client { (ends.client, ends.server) } else { (ends.server, ends.client) };
        let flags = flags | if acknowledges.is_some() { ACK } else { 0 };
        let acknowledges = acknowledges.unwrap_or(0);
        self.packets.push(packet(&Made { sequence, acknowledges, flags, payload, ..Made::between(from, to) }));
    }
}

const fn place(side: Side) -> usize {
    match side {
        Side::Client => 0,
        Side::Server => 1,
    }
}

/// A record.
pub(crate) fn record(content: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&[content, 3, 3, length[0], length[1]], body].concat()
}

/// A record that looks encrypted.
pub(crate) fn data(length: usize) -> Vec<u8> {
    record(23, &vec![0xaa; length])
}

/// A record with a ClientHello, in the version that a first one has.
pub(crate) fn client_hello() -> Vec<u8> {
    let mut hello = record(22, &message(1, &[0x55; 200]));
    hello[2] = 1;
    hello
}

/// A handshake message.
pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let [_, high, middle, low] = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[kind, high, middle, low], body].concat()
}

/// A record with a ServerHello that selects this version in the extension, if any, and this cipher suite.
pub(crate) fn server_hello(version: Option<u16>, suite: u16) -> Vec<u8> {
    record(22, &message(2, &server_hello_body([7; 32], version, suite)))
}

pub(crate) fn server_hello_body(random: [u8; 32], version: Option<u16>, suite: u16) -> Vec<u8> {
    let mut body = [&[3, 3][..], &random, &[2, 9, 9], &suite.to_be_bytes(), &[0]].concat();
    // A key share of X25519, whose content does not matter.
    let mut extensions = vec![0, 51, 0, 6, 0, 29, 0, 2, 1, 1];
    if let Some(version) = version {
        extensions.extend([0, 43, 0, 2]);
        extensions.extend(version.to_be_bytes());
    }
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    body
}
