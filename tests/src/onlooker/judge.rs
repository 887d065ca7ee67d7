//! The judgement of one packet after the other. Pure: no capture, no clock.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};

use crate::records::Records;
use crate::streams::Segment;
use crate::wire::{find, segment};

/// Directions of connections that are remembered; beyond that the oldest are forgotten.
const REMEMBERED: usize = 4096;
/// What may wait for a segment that has not come; no socket has more on its way.
const AHEAD: usize = 16 << 20;

/// What is known of a wire.
#[derive(Debug)]
pub(super) struct Judge {
    markers: Vec<Vec<u8>>,
    closing: Vec<u8>,
    streams: HashMap<(SocketAddr, SocketAddr), Stream>,
    /// Counts packets, for the age of streams.
    now: u64,
    /// The closing packets that have come.
    closed: Vec<Vec<u8>>,
}

/// One direction of a connection.
#[derive(Debug)]
struct Stream {
    /// The sequence number of the first octet.
    start: u32,
    /// How many octets have come without a gap.
    come: u64,
    records: Records,
    /// The last octets, where a marker may have begun.
    tail: Vec<u8>,
    /// What came before its turn, by its place in the stream.
    ahead: BTreeMap<u64, Vec<u8>>,
    /// When the last segment came.
    last: u64,
}

impl Judge {
    pub(super) fn new(markers: &[&str], closing: &str) -> Judge {
        let markers = markers.iter().map(|marker| marker.as_bytes().to_vec()).collect();
        Judge { markers, closing: closing.into(), streams: HashMap::new(), now: 0, closed: Vec::new() }
    }

    /// Whether this closing packet has come.
    pub(super) fn has_closed(&self, closing: &str) -> bool {
        self.closed.iter().any(|payload| payload == closing.as_bytes())
    }

    /// Takes the next Ethernet frame. An error is why it counts as plaintext.
    pub(super) fn see(&mut self, frame: &[u8]) -> Result<()> {
        self.now += 1;
        let packet = LaxSlicedPacket::from_ethernet(frame).context("not a packet")?;
        let is_own = matches!(packet.net, None | Some(LaxNetSlice::Arp(_)));
        match packet.transport {
            _ if self.markers.iter().any(|marker| find(frame, marker)) => {
                bail!("a marker in a packet: {}", frame.escape_ascii())
            }
            Some(TransportSlice::Tcp(_)) => {
                let segment = segment(frame).context("TCP, and no segment")?;
                let names = format!("{} -> {}", segment.from, segment.to);
                self.follow(segment).context(names)
            }
            Some(TransportSlice::Udp(datagram)) if datagram.payload().starts_with(&self.closing) => {
                self.closed.push(datagram.payload().to_vec());
                Ok(())
            }
            Some(TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_)) => Ok(()),
            None if is_own => Ok(()),
            _ => bail!("not TCP: {}", frame.escape_ascii()),
        }
    }

    fn follow(&mut self, segment: Segment) -> Result<()> {
        let ends = (segment.from, segment.to);
        let begins = segment.sequence.wrapping_add(u32::from(segment.syn));
        if segment.syn && self.streams.get(&ends).is_none_or(|stream| stream.start != begins) {
            self.forget();
            self.streams.insert(ends, Stream::at(begins, self.now));
        }
        let Some(stream) = self.streams.get_mut(&ends) else {
            // A reset that answers something old.
            ensure!(segment.payload.is_empty(), "payload of a connection whose beginning was not seen");
            return Ok(());
        };
        stream.last = self.now;
        stream.take(begins, &segment.payload, &self.markers)
    }

    /// Makes room for one.
    fn forget(&mut self) {
        if self.streams.len() < REMEMBERED {
            return;
        }
        let oldest = self.streams.iter().min_by_key(|(_, stream)| stream.last).map(|(ends, _)| *ends);
        oldest.and_then(|ends| self.streams.remove(&ends));
    }
}

impl Stream {
    fn at(start: u32, now: u64) -> Stream {
        Stream { start, come: 0, records: Records::default(), tail: Vec::new(), ahead: BTreeMap::new(), last: now }
    }

    fn take(&mut self, sequence: u32, payload: &[u8], markers: &[Vec<u8>]) -> Result<()> {
        if payload.is_empty() {
            return Ok(());
        }
        // Sequence numbers wrap; the distance to what is expected does not.
        let expected = self.start.wrapping_add(u32::try_from(self.come & u64::from(u32::MAX))?);
        let place = self.come.checked_add_signed(i64::from(sequence.wrapping_sub(expected).cast_signed()));
        let Some(place) = place else { bail!("a segment from before the beginning") };
        self.ahead
            .entry(place)
            .and_modify(|known| {
                if known.len() < payload.len() {
                    *known = payload.to_vec()
                }
            })
            .or_insert_with(|| payload.to_vec());
        while let Some((place, payload)) = self.ahead.first_key_value().filter(|(place, _)| **place <= self.come) {
            let (place, known) = (*place, usize::try_from(self.come - place)?.min(payload.len()));
            let payload = self.ahead.remove(&place).unwrap_or_default();
            self.judge(&payload[known..], markers)?;
        }
        ensure!(self.ahead.values().map(Vec::len).sum::<usize>() <= AHEAD, "a gap in the capture");
        Ok(())
    }

    fn judge(&mut self, octets: &[u8], markers: &[Vec<u8>]) -> Result<()> {
        self.come += octets.len() as u64;
        let longest = markers.iter().map(Vec::len).max().unwrap_or_default();
        let border = [&self.tail[..], &octets[..octets.len().min(longest)]].concat();
        let seen = markers.iter().any(|marker| find(&border, marker));
        self.tail.extend_from_slice(&octets[octets.len().saturating_sub(longest)..]);
        self.tail.drain(..self.tail.len().saturating_sub(longest));
        ensure!(!seen, "a marker across the border of two packets");
        self.records.take(octets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    /// Begins with the last sequence numbers, so that they wrap.
    const START: u32 = u32::MAX - 2;
    const DATA: &[u8] = &[23, 3, 3, 0, 3, 9, 9, 9];

    fn judge() -> Judge {
        let mut judge = Judge::new(&["secret"], "closing");
        judge.see(&frame(None, &[])).unwrap();
        judge
    }

    /// The SYN, or what begins at this place of the stream.
    fn frame(place: Option<u32>, payload: &[u8]) -> Vec<u8> {
        let sequence = place.map_or(START, |place| START.wrapping_add(1 + place));
        let tcp = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        let tcp = tcp.tcp(40_000, 80, sequence, 1000);
        let tcp = if place.is_none() { tcp.syn() } else { tcp };
        let mut bytes = Vec::new();
        tcp.write(&mut bytes, payload).unwrap();
        bytes
    }

    #[test]
    fn takes_records_in_any_order_and_twice() {
        let mut judge = judge();
        for place in [0, 16, 8, 8, 0, 24] {
            judge.see(&frame(Some(place), DATA)).unwrap();
        }
        judge.see(&frame(Some(28), &[DATA, DATA].concat()[4..])).unwrap();
        judge.see(&frame(Some(40), b"hello")).unwrap_err();
    }

    #[test]
    fn sees_plaintext_at_once_and_behind_records() {
        judge().see(&frame(Some(0), b"GET /")).unwrap_err();
        let mut judge = judge();
        judge.see(&frame(Some(0), DATA)).unwrap();
        judge.see(&frame(Some(8), b"hello")).unwrap_err();
    }

    #[test]
    fn sees_a_marker_in_a_packet_and_across_a_border() {
        let record = |text: &[u8]| [&[23, 3, 3, 0, u8::try_from(text.len()).unwrap()][..], text].concat();
        judge().see(&frame(Some(0), &record(b"xxsecretxx"))).unwrap_err();
        let (mut judge, whole) = (judge(), record(b"xxsecretxx"));
        judge.see(&frame(Some(0), &whole[..9])).unwrap();
        judge.see(&frame(Some(9), &whole[9..])).unwrap_err();
    }

    #[test]
    fn a_used_port_is_used_again() {
        let mut judge = judge();
        judge.see(&frame(Some(0), &DATA[..6])).unwrap();
        let mut syn = frame(None, &[]);
        // Another initial sequence number.
        syn[38..42].copy_from_slice(&[0, 0, 0, 9]);
        judge.see(&syn).unwrap();
        let mut first = frame(Some(0), DATA);
        first[38..42].copy_from_slice(&[0, 0, 0, 10]);
        judge.see(&first).unwrap();
    }

    #[test]
    fn datagrams_are_plaintext_but_for_the_closing_one() {
        let datagram = |payload: &[u8]| {
            let mut bytes = Vec::new();
            let udp = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(1, 2);
            udp.write(&mut bytes, payload).unwrap();
            bytes
        };
        let mut judge = judge();
        judge.see(&datagram(b"hello")).unwrap_err();
        judge.see(&datagram(b"closing one")).unwrap();
        assert!(judge.has_closed("closing one") && !judge.has_closed("closing two"));
    }

    #[test]
    fn payload_without_a_beginning_cannot_be_judged() {
        Judge::new(&[], "closing").see(&frame(Some(0), DATA)).unwrap_err();
    }
}
