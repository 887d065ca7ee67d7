//! The TCP segment in a packet (RFC 791, 8200, 9293).
//!
//! Checksums are not looked at: those of packets that this machine sends are often not there yet when they are captured.
//! What segmentation offload leaves behind is read too: packets longer than the wire takes, and lengths of 0 where they
//! are longer than 64 KiB.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Packet;

/// A segment, and what it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment<'a> {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    /// The number of its first octet, or of the SYN.
    pub(super) sequence: u32,
    /// What it says has arrived, if it says so.
    pub(super) acknowledges: Option<u32>,
    pub(super) syn: bool,
    pub(super) fin: bool,
    pub(super) rst: bool,
    pub(super) payload: &'a [u8],
}

/// Why a packet cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    /// Less of it was captured than there was.
    #[error("cut off")]
    CutOff,
    /// A piece of a packet (RFC 791 3.2).
    #[error("a fragment")]
    Fragment,
    /// Lengths that do not fit, or another protocol.
    #[error("not TCP over IP")]
    Malformed,
}

const TCP: u8 = 6;

/// Reads a packet.
pub(super) fn read(packet: &Packet) -> Result<Segment<'_>, Unreadable> {
    let octets = &*packet.octets;
    if octets.len() < packet.length {
        return Err(Unreadable::CutOff);
    }
    let (from, to, tcp) = match octets.first().map(|octet| octet >> 4) {
        Some(4) => ipv4(octets)?,
        Some(6) => ipv6(octets)?,
        _ => return Err(Unreadable::Malformed),
    };
    let header = usize::from(tcp.get(12).ok_or(Unreadable::Malformed)? >> 4) * 4;
    let payload = tcp.get(header..).filter(|_| header >= 20).ok_or(Unreadable::Malformed)?;
    let flags = tcp[13];
    Ok(Segment {
        from: SocketAddr::new(from, half(tcp, 0)),
        to: SocketAddr::new(to, half(tcp, 2)),
        sequence: word(tcp, 4),
        acknowledges: (flags & 0x10 != 0).then(|| word(tcp, 8)),
        syn: flags & 0x02 != 0,
        fin: flags & 0x01 != 0,
        rst: flags & 0x04 != 0,
        payload,
    })
}

type Addressed<'a> = (IpAddr, IpAddr, &'a [u8]);

fn ipv4(octets: &[u8]) -> Result<Addressed<'_>, Unreadable> {
    const MORE_OR_OFFSET: u16 = 0x3fff;
    let header = usize::from(octets[0] & 0x0f) * 4;
    if header < 20 || octets.len() < header || octets[9] != TCP {
        return Err(Unreadable::Malformed);
    }
    if half(octets, 6) & MORE_OR_OFFSET != 0 {
        return Err(Unreadable::Fragment);
    }
    let end = match usize::from(half(octets, 2)) {
        0 => octets.len(),
        length => length,
    };
    let address = |at: usize| IpAddr::V4(Ipv4Addr::from(word(octets, at)));
    Ok((address(12), address(16), octets.get(header..end).ok_or(Unreadable::Malformed)?))
}

fn ipv6(octets: &[u8]) -> Result<Addressed<'_>, Unreadable> {
    const HEADER: usize = 40;
    // Hop-by-hop, routing and destination options (RFC 8200 4): the next header and the length, in 8 octets beyond the first.
    const OPTIONS: [u8; 3] = [0, 43, 60];
    const FRAGMENT: u8 = 44;
    if octets.len() < HEADER {
        return Err(Unreadable::Malformed);
    }
    let end = match usize::from(half(octets, 4)) {
        0 => octets.len(),
        length => HEADER + length,
    };
    let (mut next, mut rest) = (octets[6], octets.get(HEADER..end).ok_or(Unreadable::Malformed)?);
    while OPTIONS.contains(&next) {
        let [following, length, ..] = *rest else { return Err(Unreadable::Malformed) };
        rest = rest.get((usize::from(length) + 1) * 8..).ok_or(Unreadable::Malformed)?;
        next = following;
    }
    let address = |at: usize| {
        let halves = std::array::from_fn::<u16, 8, _>(|index| half(octets, at + 2 * index));
        IpAddr::V6(Ipv6Addr::from(halves))
    };
    match next {
        TCP => Ok((address(8), address(24), rest)),
        FRAGMENT => Err(Unreadable::Fragment),
        _ => Err(Unreadable::Malformed),
    }
}

/// The caller has made sure that it is there.
fn half(octets: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([octets[at], octets[at + 1]])
}

fn word(octets: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tests::build::{Made, packet};

    #[test]
    fn both_versions_are_read() {
        for [client, server] in [["10.0.0.1:40000", "10.0.0.2:80"], ["[fd00::1]:40000", "[fd00::2]:80"]] {
            let [from, to] = [client, server].map(|end| end.parse::<SocketAddr>().unwrap());
            let made = Made { sequence: 7, acknowledges: 9, flags: 0x11, payload: b"hello", ..Made::between(from, to) };
            let packet = packet(&made);
            let segment = read(&packet).unwrap();
            assert_eq!((segment.from, segment.to, segment.payload), (from, to, &b"hello"[..]));
            assert_eq!((segment.sequence, segment.acknowledges), (7, Some(9)));
            assert_eq!((segment.syn, segment.fin, segment.rst), (false, true, false));

            // Padding, as a short frame has it, is no payload.
            let mut padded = packet.clone();
            padded.octets.extend([0; 6]);
            padded.length += 6;
            assert_eq!(read(&padded).unwrap().payload, b"hello");

            // Longer than the field for the length can say.
            let mut big = packet.clone();
            let at = if from.is_ipv4() { 2 } else { 4 };
            big.octets[at..at + 2].fill(0);
            assert_eq!(read(&big).unwrap().payload, b"hello");
        }
    }

    #[test]
    fn options_of_ipv6_are_passed_over() {
        let [from, to] = ["[fd00::1]:1", "[fd00::2]:2"].map(|end| end.parse::<SocketAddr>().unwrap());
        let mut packet = packet(&Made { payload: b"x", ..Made::between(from, to) });
        // A jumbo payload option (RFC 2675 2).
        packet.octets.splice(40..40, [6, 0, 0xc2, 4, 0, 0, 0, 29]);
        packet.octets[4..7].copy_from_slice(&[0, 0, 0]);
        packet.length += 8;
        assert_eq!(read(&packet).unwrap().payload, b"x");
    }

    #[test]
    fn what_is_not_whole_is_not_read() {
        let [from, to] = ["10.0.0.1:1", "10.0.0.2:2"].map(|end| end.parse::<SocketAddr>().unwrap());
        let whole = packet(&Made { payload: b"hello", ..Made::between(from, to) });
        let mut cut = whole.clone();
        cut.octets.truncate(42);
        assert_eq!(read(&cut), Err(Unreadable::CutOff));
        let mut fragment = whole.clone();
        fragment.octets[6] = 0x20;
        assert_eq!(read(&fragment), Err(Unreadable::Fragment));
        for length in 0..whole.octets.len() {
            let short = Packet { length, octets: whole.octets[..length].to_vec(), ..whole };
            assert_eq!(read(&short), Err(Unreadable::Malformed), "{length}");
        }
    }
}
