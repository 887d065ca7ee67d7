//! TCP streams put together again from captured segments.
//!
//! Each direction of a connection is a stream of its own. Segments may come out of order, twice, or
//! overlapping; bytes that were never captured leave a gap, which is kept as such and never papered over.
//! A stream must be shorter than 2 GiB, the distance at which TCP sequence numbers become ambiguous.

use std::net::SocketAddr;

/// One captured TCP segment.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Who sent it.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// Its sequence number: that of its first byte, or of the SYN.
    pub sequence: u32,
    /// Whether it opens a connection.
    pub syn: bool,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// One direction of one connection.
#[derive(Debug)]
pub struct Stream {
    /// Who sent it.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// The parts of it that were captured, in order; more than one means a gap between them.
    pub chunks: Vec<Chunk>,
}

/// Bytes without a gap.
#[derive(Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where in the stream they begin; the first byte after the SYN is 0.
    pub offset: usize,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Stream {
    /// All bytes from the first one, if none is missing in between.
    pub fn whole(&self) -> Option<&[u8]> {
        match self.chunks.as_slice() {
            [] => Some(&[]),
            [only] if only.offset == 0 => Some(&only.bytes),
            _ => None,
        }
    }
}

/// Puts the segments, given in the order of capture, together. A port that is used again gives another stream.
pub fn reassemble(segments: Vec<Segment>) -> Vec<Stream> {
    let mut open: Vec<Open> = Vec::new();
    for segment in segments {
        // The newest connection of these two ends; a search from the back because old ones stay in the list.
        let known = open.iter_mut().rev().find(|known| known.from == segment.from && known.to == segment.to);
        match known {
            Some(known) if !segment.syn || segment.sequence.wrapping_add(1) == known.start => {
                known.segments.push(segment)
            }
            _ => open.push(Open::at(segment)),
        }
    }
    open.into_iter().map(Open::close).collect()
}

/// A stream whose segments are still being collected.
struct Open {
    from: SocketAddr,
    to: SocketAddr,
    /// The sequence number of the first byte.
    start: u32,
    segments: Vec<Segment>,
}

impl Open {
    fn at(first: Segment) -> Open {
        let start = first.sequence.wrapping_add(u32::from(first.syn));
        Open { from: first.from, to: first.to, start, segments: vec![first] }
    }

    fn close(self) -> Stream {
        let start = self.start;
        let mut pieces: Vec<(i64, Vec<u8>)> = self
            .segments
            .into_iter()
            .filter(|segment| !segment.payload.is_empty())
            .map(|segment| {
                let first = segment.sequence.wrapping_add(u32::from(segment.syn));
                (i64::from(first.wrapping_sub(start).cast_signed()), segment.payload)
            })
            .collect();
        pieces.sort_by_key(|(offset, _)| *offset);
        Stream { from: self.from, to: self.to, chunks: join(pieces) }
    }
}

/// Joins pieces sorted by offset. What was seen before is not replaced; bytes before the start (a capture that
/// began late, a keep-alive) are left out here, the raw packets still have them.
fn join(pieces: Vec<(i64, Vec<u8>)>) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = Vec::new();
    for (offset, bytes) in pieces {
        let before_start = usize::try_from(-offset).unwrap_or(0).min(bytes.len());
        let (offset, bytes) = (usize::try_from(offset).unwrap_or(0), &bytes[before_start..]);
        match chunks.last_mut() {
            Some(last) if offset <= last.offset + last.bytes.len() => {
                let known = (last.offset + last.bytes.len() - offset).min(bytes.len());
                last.bytes.extend_from_slice(&bytes[known..]);
            }
            _ if bytes.is_empty() => {}
            _ => chunks.push(Chunk { offset, bytes: bytes.to_vec() }),
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u32 = u32::MAX - 3; // so that every test also crosses the wrap of the sequence numbers

    fn syn() -> Segment {
        Segment { syn: true, ..segment(0, "") }
    }

    /// A segment `offset` bytes into the stream; the SYN takes the number before the first byte.
    fn segment(offset: u32, payload: &str) -> Segment {
        let sequence = START.wrapping_add(offset).wrapping_add(u32::from(!payload.is_empty()));
        Segment {
            from: "10.0.0.1:40000".parse().unwrap(),
            to: "10.0.0.2:80".parse().unwrap(),
            sequence,
            syn: false,
            payload: payload.into(),
        }
    }

    fn chunks(segments: Vec<Segment>) -> Vec<(usize, String)> {
        let mut streams = reassemble(segments);
        assert_eq!(streams.len(), 1);
        let chunks = streams.remove(0).chunks;
        chunks.into_iter().map(|chunk| (chunk.offset, String::from_utf8(chunk.bytes).unwrap())).collect()
    }

    #[test]
    fn joins_segments_in_order() {
        assert_eq!(chunks(vec![syn(), segment(0, "abc"), segment(3, "def")]), [(0, "abcdef".to_owned())]);
    }

    #[test]
    fn sorts_segments_out_of_order() {
        let segments = vec![syn(), segment(3, "def"), segment(6, "g"), segment(0, "abc")];
        assert_eq!(chunks(segments), [(0, "abcdefg".to_owned())]);
    }

    #[test]
    fn takes_a_retransmission_once() {
        let segments = vec![syn(), segment(0, "abc"), segment(0, "abc"), segment(3, "d")];
        assert_eq!(chunks(segments), [(0, "abcd".to_owned())]);
    }

    #[test]
    fn takes_only_what_is_new_of_an_overlap() {
        let segments = vec![syn(), segment(0, "abcd"), segment(2, "cdef"), segment(1, "bc")];
        assert_eq!(chunks(segments), [(0, "abcdef".to_owned())]);
    }

    #[test]
    fn keeps_a_gap() {
        let segments = vec![syn(), segment(0, "abc"), segment(5, "fg")];
        assert_eq!(chunks(segments), [(0, "abc".to_owned()), (5, "fg".to_owned())]);
    }

    #[test]
    fn a_stream_with_a_gap_is_not_whole() {
        assert_eq!(reassemble(vec![syn(), segment(5, "fg")])[0].whole(), None);
        assert_eq!(reassemble(vec![syn(), segment(0, "ab"), segment(3, "d")])[0].whole(), None);
        assert_eq!(reassemble(vec![syn(), segment(0, "ab")])[0].whole(), Some(b"ab".as_slice()));
    }

    #[test]
    fn a_repeated_syn_is_the_same_connection_and_another_syn_is_not() {
        let again = Segment { sequence: 77, ..syn() };
        let streams = reassemble(vec![syn(), syn(), segment(0, "abc"), again]);
        assert_eq!(streams.len(), 2);
        assert_eq!(streams[0].whole(), Some(b"abc".as_slice()));
    }

    #[test]
    fn directions_are_streams_of_their_own() {
        let mut back = segment(0, "answer");
        (back.from, back.to) = (back.to, back.from);
        assert_eq!(reassemble(vec![syn(), segment(0, "question"), back]).len(), 2);
    }

    #[test]
    fn starts_at_the_first_segment_when_the_syn_was_not_captured() {
        assert_eq!(chunks(vec![segment(10, "abc"), segment(13, "d")]), [(0, "abcd".to_owned())]);
    }

    #[test]
    fn leaves_out_a_keep_alive_before_the_start() {
        let segments = vec![segment(10, "abc"), segment(9, "?")];
        assert_eq!(chunks(segments), [(0, "abc".to_owned())]);
    }
}
