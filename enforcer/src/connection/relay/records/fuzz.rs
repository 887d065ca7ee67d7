//! Records that come in any pieces.

use std::collections::VecDeque;
use std::task::Waker;

use super::{AsyncRead, Context, HEADER, Pin, Poll, ReadBuf, Records, io};
use crate::fuzzing::Input;

/// What comes, piece by piece, and then nothing.
struct Pieces(VecDeque<Vec<u8>>);

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(piece) = self.0.front_mut() else { return Poll::Pending };
        let count = buffer.remaining().min(piece.len());
        buffer.put_slice(&piece[..count]);
        piece.drain(..count);
        if piece.is_empty() {
            self.0.pop_front();
        }
        Poll::Ready(Ok(()))
    }
}

/// Nothing is lost or comes twice, and who reads on until nothing comes has not read beyond a record.
pub(crate) fn records(data: &[u8]) {
    let mut input = Input(data);
    let freely_after = input.octet().unwrap_or_default();
    let pieces: VecDeque<Vec<u8>> =
        input.parts().into_iter().filter(|piece| !piece.is_empty()).map(<[u8]>::to_vec).collect();
    let all: Vec<u8> = pieces.iter().flatten().copied().collect();
    let mut records = Records::new(Pieces(pieces));
    let (mut read, mut boundary) = (Vec::new(), 0);
    let mut nothing = 0;
    for turn in 0.. {
        if turn == u32::from(freely_after) {
            records.read_freely();
        }
        let is_bounded = turn < u32::from(freely_after);
        match read_once(&mut records, turn) {
            Some(part) => {
                read.extend_from_slice(&part);
                nothing = 0;
            }
            None => nothing += 1,
        }
        assert_eq!(read, all[..read.len()]);
        while is_bounded && nothing == 0 && read.len() > boundary {
            boundary += record_at(&all[boundary..]);
        }
        assert!(!is_bounded || read.len() <= boundary, "beyond its record");
        // Once between two records, once for good.
        if nothing > 2 && turn > u32::from(freely_after) {
            break;
        }
    }
    let rest: Vec<u8> = records.into_stream().0.into_iter().flatten().collect();
    let unread = all.len() - read.len();
    assert!(rest.len() <= unread && unread - rest.len() <= HEADER, "lost");
}

/// Octets of the record that begins here.
fn record_at(octets: &[u8]) -> usize {
    let length = octets.get(3..HEADER).map_or(0, |length| usize::from(length[0]) << 8 | usize::from(length[1]));
    HEADER + length
}

fn read_once(records: &mut Records<Pieces>, turn: u32) -> Option<Vec<u8>> {
    let mut space = [0; 300];
    let room = 1 + (turn as usize * 37) % space.len();
    let mut buffer = ReadBuf::new(&mut space[..room]);
    match Pin::new(records).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer) {
        Poll::Ready(Ok(())) => Some(buffer.filled().to_vec()),
        Poll::Ready(Err(error)) => panic!("{error}"),
        Poll::Pending => None,
    }
}
