//! The peer's socket as the handshake sees it: never more than one TLS record at a time.
//!
//! rustls reads ahead, and whoever drives it reads on until nothing comes. When the kernel is to take over the record
//! layer, a byte that was read beyond the handshake would be lost. So until the handshake is over a read ends with its
//! record (RFC 8446 5.1), and before the next record the reader is made to look whether it still wants one. Afterwards
//! reads go straight through; but where much comes, more is read at once than rustls asks for, which is 4 KiB.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Content type, legacy version, length.
const HEADER: usize = 5;

/// Octets that are read at once where much comes: a whole record, with what goes around it (RFC 8446 5.2).
const MUCH: usize = 17 * 1024;

/// A socket that is read record by record.
pub(super) struct Records<S = TcpStream> {
    stream: S,
    header: [u8; HEADER],
    /// Bytes of the header that are read.
    filled: usize,
    /// Bytes of the header that are handed on.
    given: usize,
    /// Bytes of the record's body that are still on the socket.
    body: usize,
    reading: Reading,
    ahead: Ahead,
}

/// What was read beyond what was asked for.
#[derive(Default)]
struct Ahead {
    /// Empty where little comes.
    octets: Box<[u8]>,
    start: usize,
    end: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// A read ends with its record; the next one finds nothing, once.
    RecordByRecord,
    /// The reader was told that there is nothing, and has come back for the next record.
    NextRecord,
    /// A read takes what there is.
    Freely,
}

impl<S: AsyncRead + Unpin> Records<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            header: [0; HEADER],
            filled: 0,
            given: 0,
            body: 0,
            reading: Reading::RecordByRecord,
            ahead: Ahead::default(),
        }
    }

    /// From now on reads take what there is.
    pub(super) fn read_freely(&mut self) {
        self.reading = Reading::Freely;
    }

    pub(super) fn stream(&self) -> &S {
        &self.stream
    }

    pub(super) fn into_stream(self) -> S {
        self.stream
    }

    /// Reads ahead as long as each read finds more than its reader has asked for.
    fn poll_freely(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (ahead, wanted) = (&mut self.ahead, buffer.remaining());
        if ahead.start == ahead.end {
            if ahead.octets.len() <= wanted {
                let before = buffer.filled().len();
                ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
                let has_more = wanted < MUCH && buffer.filled().len() == before + wanted;
                ahead.octets = if has_more { vec![0; MUCH].into_boxed_slice() } else { Box::default() };
                return Poll::Ready(Ok(()));
            }
            let mut read = ReadBuf::new(&mut ahead.octets);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            (ahead.start, ahead.end) = (0, read.filled().len());
        }
        let count = wanted.min(ahead.end - ahead.start);
        buffer.put_slice(&ahead.octets[ahead.start..ahead.start + count]);
        ahead.start += count;
        if ahead.end < wanted {
            *ahead = Ahead::default();
        }
        Poll::Ready(Ok(()))
    }

    /// Reads the header of the next record. False at the end of the stream.
    fn poll_header(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.filled < HEADER {
            let mut buffer = ReadBuf::new(&mut self.header[self.filled..]);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            let read = buffer.filled().len();
            if read == 0 {
                return Poll::Ready(Ok(false));
            }
            self.filled += read;
        }
        Poll::Ready(Ok(true))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Records<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.body == 0 && this.given == this.filled {
            match this.reading {
                Reading::Freely => return this.poll_freely(cx, buffer),
                Reading::RecordByRecord if this.filled > 0 => {
                    this.reading = Reading::NextRecord;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Reading::RecordByRecord | Reading::NextRecord => this.reading = Reading::RecordByRecord,
            }
            (this.filled, this.given) = (0, 0);
        }
        if this.filled < HEADER {
            if !ready!(this.poll_header(cx))? {
                return Poll::Ready(Ok(()));
            }
            this.body = usize::from(u16::from_be_bytes([this.header[3], this.header[4]]));
        }
        if this.given < HEADER {
            let count = buffer.remaining().min(HEADER - this.given);
            buffer.put_slice(&this.header[this.given..this.given + count]);
            this.given += count;
            return Poll::Ready(Ok(()));
        }
        let count = buffer.remaining().min(this.body);
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(count));
        ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        this.body -= read;
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Records<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(fuzzing)]
pub(crate) mod fuzz;

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Two records, of which the second has only just begun.
    const WIRE: &[u8] = b"\x16\x03\x03\x00\x03abc\x17\x03\x03\x00\x05de";

    async fn records() -> (Records, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (near, _) = listener.accept().await.unwrap();
        far.write_all(WIRE).await.unwrap();
        // All of it is there: what is not read is left out on purpose.
        let mut seen = [0; WIRE.len()];
        while near.peek(&mut seen).await.unwrap() < WIRE.len() {}
        (Records::new(near), far)
    }

    /// As the driver of a handshake does: read until nothing comes.
    fn read_on(records: &mut Records) -> Vec<u8> {
        let mut read = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            let mut part = [0; 64];
            let mut buffer = ReadBuf::new(&mut part);
            match Pin::new(&mut *records).poll_read(&mut cx, &mut buffer) {
                Poll::Ready(Ok(())) => read.extend_from_slice(buffer.filled()),
                Poll::Ready(Err(error)) => unreachable!("{error}"),
                Poll::Pending => return read,
            }
        }
    }

    #[tokio::test]
    async fn whoever_reads_on_gets_one_record_at_a_time() {
        let (mut records, _far) = records().await;
        assert_eq!(read_on(&mut records), &WIRE[..8]);
        assert_eq!(read_on(&mut records), &WIRE[8..]);
    }

    #[tokio::test]
    async fn after_the_first_record_not_a_byte_of_the_second_is_gone() {
        let (mut records, _far) = records().await;
        read_on(&mut records);
        let mut stream = records.into_stream();
        let mut rest = vec![0; WIRE.len() - 8];
        stream.read_exact(&mut rest).await.unwrap();
        assert_eq!(rest, &WIRE[8..]);
    }

    #[tokio::test]
    async fn where_much_comes_it_is_read_at_once_and_nothing_is_lost() {
        let (mut records, mut far) = records().await;
        read_on(&mut records);
        records.read_freely();
        assert_eq!(read_on(&mut records), &WIRE[8..]);
        let much: Vec<u8> = (0..40_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let (sending, much_of_it) = (async { far.write_all(&much).await.unwrap() }, much.len());
        let receiving = async {
            let (mut read, mut most) = (Vec::new(), 0);
            while read.len() < much_of_it {
                let mut part = [0; 64];
                let count = records.read(&mut part).await.unwrap();
                read.extend_from_slice(&part[..count]);
                most = most.max(records.ahead.end);
            }
            (read, most)
        };
        let ((), (read, most)) = tokio::join!(sending, receiving);
        assert!(read == much && most > 64, "{most} at once");
        drop(far);
        assert_eq!(records.read(&mut [0; 64]).await.unwrap(), 0);
        assert!(records.ahead.octets.is_empty());
    }

    #[tokio::test]
    async fn after_the_handshake_reads_go_straight_through() {
        let (mut records, _far) = records().await;
        read_on(&mut records);
        records.read_freely();
        assert_eq!(read_on(&mut records), &WIRE[8..]);
    }
}
