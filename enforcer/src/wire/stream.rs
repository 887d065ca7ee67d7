//! One direction of a connection, put together from segments by their sequence numbers.
//!
//! Segments may come out of order, twice or overlapping. Only what is there without a gap, from the first octet on, is the
//! stream; that something is missing is a finding, and so is everything that would not be part of the stream for the
//! receiver. What is judged must be shorter than 2 GiB, the distance at which sequence numbers mean two things.

use super::segment::Segment;
use super::{Code, Finding, Opened, Side};

/// What one side has sent.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Without a gap.
    pub(super) octets: Vec<u8>,
    /// They begin with the first octet of the connection.
    pub(super) has_beginning: bool,
    /// It ends with FIN.
    pub(super) ended: bool,
    /// This side has sent RST.
    pub(super) was_reset: bool,
    pub(super) packets: usize,
    pub(super) findings: Vec<Finding>,
}

impl Stream {
    /// From the segments that this side has sent, and those that the other side has answered with.
    pub(super) fn of<'a>(
        side: Side,
        sent: impl Iterator<Item = &'a Segment<'a>>,
        answers: impl Iterator<Item = &'a Segment<'a>>,
        opened: Opened,
    ) -> Self {
        let sent: Vec<&Segment<'_>> = sent.collect();
        let mut stream = Self { packets: sent.len(), ..Self::default() };
        for reset in sent.iter().filter(|segment| segment.rst) {
            stream.was_reset = true;
            stream.outside(side, reset.payload, "in a RST");
        }
        let sent: Vec<&Segment<'_>> = sent.into_iter().filter(|segment| !segment.rst).collect();
        let Some(base) = stream.base(side, &sent, opened) else { return stream };
        let mut pieces = Vec::new();
        let mut end = None;
        for segment in sent {
            let offset = distance(segment.sequence.wrapping_add(u32::from(segment.syn)), base);
            if segment.fin {
                end = Some(offset + length(segment.payload));
            }
            if !segment.payload.is_empty() {
                pieces.push((offset, segment.payload));
            }
        }
        stream.join(side, pieces);
        stream.end(side, end);
        stream.account(side, answers, base);
        stream
    }

    /// The number of the first octet.
    fn base(&mut self, side: Side, sent: &[&Segment<'_>], opened: Opened) -> Option<u32> {
        let first = sent.first()?.sequence;
        let mut beginnings = sent.iter().filter(|segment| segment.syn).map(|segment| segment.sequence.wrapping_add(1));
        let Some(beginning) = beginnings.next() else {
            if opened == Opened::During {
                let what = "the first packet of this direction was not captured".to_owned();
                self.findings.push(Finding::new(Code::BeginningMissed, what, &[]).at(side, 0));
            }
            // A keep-alive without payload has the number before that of the next octet.
            let carrying = sent.iter().filter(|segment| !segment.payload.is_empty());
            let lowest = carrying.map(|segment| distance(segment.sequence, first)).min().unwrap_or(0);
            return Some(plus(first, lowest));
        };
        if beginnings.any(|another| another != beginning) {
            let what = "the same ports were used for two connections".to_owned();
            self.findings.push(Finding::new(Code::Conflict, what, &[]).at(side, 0));
        }
        self.has_beginning = true;
        Some(beginning)
    }

    /// Takes what follows on what is there. Pieces behind a gap are not part of the stream.
    fn join(&mut self, side: Side, mut pieces: Vec<(i64, &[u8])>) {
        pieces.sort_by_key(|&(offset, _)| offset);
        for (offset, piece) in pieces {
            let Ok(at) = usize::try_from(offset) else {
                let before = usize::try_from(-offset).unwrap_or(usize::MAX).min(piece.len());
                self.outside(side, &piece[..before], "before the first octet");
                self.add(side, 0, &piece[before..]);
                continue;
            };
            if at > self.octets.len() {
                let (have, missing) = (self.octets.len(), at - self.octets.len());
                let what = format!("{missing} octets were not captured");
                self.findings.push(Finding::new(Code::Gap, what, &[]).at(side, have));
                return;
            }
            self.add(side, at, piece);
        }
    }

    fn add(&mut self, side: Side, at: usize, piece: &[u8]) {
        let known = (self.octets.len() - at).min(piece.len());
        let before = &self.octets[at..at + known];
        if let Some(differs) = before.iter().zip(piece).position(|(one, other)| one != other) {
            let what = "octets were sent twice, and differ".to_owned();
            self.findings.push(Finding::new(Code::Conflict, what, &piece[differs..]).at(side, at + differs));
        }
        self.octets.extend_from_slice(&piece[known..]);
    }

    fn end(&mut self, side: Side, end: Option<i64>) {
        let Some(end) = end.and_then(|end| usize::try_from(end).ok()) else { return };
        if self.octets.len() > end {
            let behind = self.octets.split_off(end);
            self.outside(side, &behind, "behind the FIN");
        }
        self.ended = self.octets.len() == end;
        self.missing(side, end);
    }

    /// What the other side says has arrived must be here.
    fn account<'a>(&mut self, side: Side, answers: impl Iterator<Item = &'a Segment<'a>>, base: u32) {
        let said = answers.filter(|answer| !answer.rst).filter_map(|answer| answer.acknowledges);
        let Some(arrived) = said.map(|said| distance(said, base)).max() else { return };
        // FIN counts as one.
        self.missing(side, usize::try_from(arrived - i64::from(self.ended)).unwrap_or(0));
    }

    /// There should be so many octets.
    fn missing(&mut self, side: Side, expected: usize) {
        let have = self.octets.len();
        if expected > have && !self.findings.iter().any(|finding| finding.code == Code::Gap) {
            let what = format!("{} octets were not captured", expected - have);
            self.findings.push(Finding::new(Code::Gap, what, &[]).at(side, have));
        }
    }

    fn outside(&mut self, side: Side, octets: &[u8], place: &str) {
        if !octets.is_empty() {
            let what = format!("{} octets of payload {place}", octets.len());
            let finding = Finding::new(Code::OutsideOfStream, what, octets);
            self.findings.push(Finding { side: Some(side), ..finding });
        }
    }
}

/// How far one sequence number is behind another.
fn distance(number: u32, base: u32) -> i64 {
    i64::from(number.wrapping_sub(base).cast_signed())
}

fn plus(number: u32, distance: i64) -> u32 {
    // A distance of two sequence numbers fits.
    number.wrapping_add_signed(i32::try_from(distance).unwrap_or(0))
}

fn length(payload: &[u8]) -> i64 {
    i64::try_from(payload.len()).unwrap_or(i64::MAX)
}
