//! What an onlooker on the wire can say of one connection: a pure function of captured packets, without a key and without
//! asking an agent.
//!
//! `segment` finds TCP in a packet, `stream` puts each direction together, `records` reads TLS 1.3 from it octet by octet
//! (`hello` what its handshake says in the clear), and [`judge`] brings it together; `pcap` writes the packets down. What
//! is not seen is never taken for good: a gap, a packet that is cut off or a direction without a record leaves the
//! question open, and an octet outside of a TLS 1.3 record answers it.
//!
//! Whether ciphertext is ciphertext cannot be seen without the keys; that is what a marker is for, which somebody sends
//! through the connection and which must not occur in any packet.

mod finding;
mod hello;
pub mod pcap;
mod records;
mod segment;
mod stream;

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

pub use finding::{Code, Finding, Shown, Weight};
pub use hello::Agreed;
pub use records::{Opening, Records};

use records::{Reading, Role, Start};
use segment::Segment;
use stream::Stream;

/// A captured packet, from the header of IP on.
#[derive(Clone, Debug)]
pub struct Packet {
    /// When it was captured, since 1970.
    pub at: Duration,
    /// How long it was; more than was captured if it is cut off.
    pub length: usize,
    /// What was captured.
    pub octets: Vec<u8>,
}

/// A connection as the wire shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ends {
    /// Who opened it.
    pub client: SocketAddr,
    /// To whom.
    pub server: SocketAddr,
}

/// One of its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Who opened it.
    Client,
    /// Who accepted it.
    Server,
}

/// When a connection was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// While packets were captured: every octet must be there, from the first to the last.
    During,
    /// Before that: the first record may have begun earlier, and the last may go on.
    Before,
}

/// What is to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Which connection.
    pub ends: Ends,
    /// When it was opened.
    pub opened: Opened,
    /// What was sent through it and must not be seen; empty where nothing is known of what was sent.
    pub marker: &'a [u8],
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// What the client has sent.
    pub client: Seen,
    /// What the server has sent.
    pub server: Seen,
    /// How the connection begins; nothing where its beginning was not seen.
    pub opening: Option<Opening>,
    /// What its handshake has agreed on, if there was one in it.
    pub agreed: Option<Agreed>,
    /// Everything that speaks against it or leaves it open.
    pub findings: Vec<Finding>,
}

/// One direction of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Packets, those without payload too.
    pub packets: usize,
    /// Octets of the stream, each once.
    pub octets: usize,
    /// Of these, at the start, the end of a record that had begun before the capture.
    pub skipped: usize,
    /// Of these, at the end, the beginning of a record that goes on.
    pub unfinished: usize,
    /// Whole records.
    pub records: Records,
    /// It has ended: with FIN, or the connection with RST.
    pub ended: bool,
}

impl Judgement {
    /// Whether both directions have carried a whole record.
    #[must_use]
    pub fn has_records_both_ways(&self) -> bool {
        [&self.client, &self.server].iter().all(|seen| seen.records.total() > 0)
    }

    /// Whether nothing more can come.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.client.ended && self.server.ended
    }
}

/// Judges the packets of one connection; those of others among them count only if the marker is in them.
#[must_use]
pub fn judge(packets: &[Packet], question: &Question<'_>) -> Judgement {
    let mut findings = Vec::new();
    let mut segments = Vec::new();
    for (number, packet) in packets.iter().enumerate() {
        match segment::read(packet) {
            Ok(segment) if question.ends.side_of(&segment).is_some() => segments.push(segment),
            Ok(_another_connection) => {}
            Err(why) => findings.push(Finding::new(
                Code::Unreadable,
                format!("packet {} of the capture is {why}", number + 1),
                &packet.octets,
            )),
        }
        if let Some(at) = find(&packet.octets, question.marker) {
            let what = format!("what was sent is in packet {} of the capture, at octet {at}", number + 1);
            findings.push(Finding::new(Code::MarkerSeen, what, &packet.octets[at..]));
        }
    }
    let [client, server] = [Side::Client, Side::Server].map(|side| {
        let of = |side: Side| segments.iter().filter(move |segment| question.ends.side_of(segment) == Some(side));
        Stream::of(side, of(side), of(side.other()), question.opened)
    });
    conclude([client, server], question, findings)
}

fn conclude(streams: [Stream; 2], question: &Question<'_>, mut findings: Vec<Finding>) -> Judgement {
    let [client, server] = &streams;
    let start = |stream: &Stream| if stream.has_beginning { Start::Beginning } else { Start::Middle };
    let mut said = records::read(&client.octets, Role::Client, start(client));
    let mut answered = records::read(&server.octets, Role::Server, start(server));
    for (side, stream, reading) in [(Side::Client, client, &mut said), (Side::Server, server, &mut answered)] {
        findings.extend(stream.findings.iter().cloned());
        findings.extend(complete(side, stream, reading, question.opened));
        findings.extend(reading.findings.drain(..).map(|finding| Finding { side: Some(side), ..finding }));
        // Packets may share it out among them.
        let is_new = !findings.iter().any(|finding| finding.code == Code::MarkerSeen);
        if let Some(at) = find(&stream.octets, question.marker).filter(|_| is_new) {
            let what = "what was sent is in the stream, across packets".to_owned();
            findings.push(Finding::new(Code::MarkerSeen, what, &stream.octets[at..]).at(side, at));
        }
    }
    if let (Some(one), Some(other)) = (said.opening, answered.opening)
        && one != other
    {
        let what = format!("the client begins with {}, the server with {}", one.label(), other.label());
        findings.push(Finding::new(Code::NotTls13, what, &[]));
    }
    let seen = |stream: &Stream, reading: &Reading| Seen {
        packets: stream.packets,
        octets: stream.octets.len(),
        skipped: reading.skipped,
        unfinished: reading.unfinished,
        records: reading.records,
        ended: stream.ended || client.was_reset || server.was_reset,
    };
    Judgement {
        client: seen(client, &said),
        server: seen(server, &answered),
        opening: said.opening.or(answered.opening),
        agreed: answered.agreed,
        findings,
    }
}

/// What a direction still owes.
fn complete(side: Side, stream: &Stream, reading: &Reading, opened: Opened) -> Option<Finding> {
    let whole = stream.octets.len() - reading.unfinished;
    match (reading.records.total(), reading.unfinished, opened) {
        _ if !reading.findings.is_empty() || reading.is_refused => None,
        (0, _, _) => {
            let what = "no whole TLS record was captured in this direction".to_owned();
            Some(Finding::new(Code::Nothing, what, &stream.octets).at(side, 0))
        }
        (_, 1.., Opened::During) => {
            let what = format!("the last record is cut off: {} octets of it were captured", reading.unfinished);
            Some(Finding::new(Code::Truncated, what, &stream.octets[whole..]).at(side, whole))
        }
        _ => None,
    }
}

impl Ends {
    /// Who of the two sent it, if it belongs to this connection.
    fn side_of(&self, segment: &Segment<'_>) -> Option<Side> {
        match (segment.from, segment.to) {
            ends if ends == (self.client, self.server) => Some(Side::Client),
            ends if ends == (self.server, self.client) => Some(Side::Server),
            _ => None,
        }
    }

    /// Those of the connection to this server that a packet belongs to, if it does to one.
    #[must_use]
    pub fn to(server: SocketAddr, packet: &Packet) -> Option<Self> {
        let Segment { from, to, .. } = segment::read(packet).ok()?;
        match server {
            _ if to == server => Some(Self { client: from, server }),
            _ if from == server => Some(Self { client: to, server }),
            _ => None,
        }
    }

    /// Whether a packet belongs to this connection.
    #[must_use]
    pub fn have(&self, packet: &Packet) -> bool {
        segment::read(packet).is_ok_and(|segment| self.side_of(&segment).is_some())
    }
}

impl Side {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// Where something is; nothing is nowhere.
#[must_use]
pub fn find(octets: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = *wanted.first()?;
    let begins = octets.iter().enumerate().filter(|&(_, &octet)| octet == first);
    begins.map(|(at, _)| at).find(|&at| octets[at..].starts_with(wanted))
}

#[cfg(test)]
pub(crate) mod tests;
