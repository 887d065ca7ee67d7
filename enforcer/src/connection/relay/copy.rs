//! Carrying the bytes, both ways at once, until both directions have ended.
//!
//! One buffer per direction and nothing else is held here: a reader that stalls stops the reading from the other
//! side, so backpressure passes through. The end of one direction is passed on as such, and the other goes on
//! (half-close). An error ends both, and says which side it came from; resetting is the caller's business.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes in flight per direction: the payload of one TLS record (RFC 8446 5.1).
pub(super) const BUFFER: usize = 16 * 1024;
/// The same where an application writes much at once.
const MUCH: usize = 4 * BUFFER;

/// Which end of the relay failed, and how.
#[derive(Debug)]
pub(super) enum Failure {
    /// The application's socket.
    Application(io::Error),
    /// The peer's socket, or the TLS session on it.
    Peer(io::Error),
}

/// Payload bytes carried so far.
pub(super) struct Carried<'a> {
    pub(super) to_peer: &'a AtomicU64,
    pub(super) from_peer: &'a AtomicU64,
}

/// Copies until both directions have ended in order.
pub(super) async fn both_ways<A, P>(application: &mut A, peer: &mut P, carried: Carried<'_>) -> Result<(), Failure>
where
    A: AsyncRead + AsyncWrite + Unpin,
    P: AsyncRead + AsyncWrite + Unpin,
{
    // A peer's bytes come a record at a time.
    let (mut outward, mut inward) = (Direction::new(MUCH), Direction::new(BUFFER));
    poll_fn(|cx| {
        let out = outward.poll(cx, application, peer, carried.to_peer).map_err(|error| match error {
            End::Read(error) => Failure::Application(error),
            End::Write(error) => Failure::Peer(error),
        })?;
        let back = inward.poll(cx, peer, application, carried.from_peer).map_err(|error| match error {
            End::Read(error) => Failure::Peer(error),
            End::Write(error) => Failure::Application(error),
        })?;
        if out.is_ready() && back.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// At which of its two ends a direction failed.
enum End {
    Read(io::Error),
    Write(io::Error),
}

struct Direction {
    buffer: Box<[u8]>,
    /// How large the buffer may become.
    most: usize,
    start: usize,
    end: usize,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    /// Reading and writing.
    Copying,
    /// As `Copying`, and the writer may hold bytes back.
    Unflushed,
    /// The reader has ended, and the writer is being told.
    Ending,
    Ended,
}

impl Direction {
    fn new(most: usize) -> Self {
        Self { buffer: vec![0; BUFFER].into_boxed_slice(), most, start: 0, end: 0, state: State::Copying }
    }

    /// Makes the buffer as large as the last read says that the next one needs.
    fn fit(&mut self) {
        let wanted = if self.end == self.buffer.len() {
            self.most
        } else if self.end < BUFFER / 2 {
            BUFFER
        } else {
            return;
        };
        if wanted != self.buffer.len() {
            self.buffer = vec![0; wanted].into_boxed_slice();
        }
    }

    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        carried: &AtomicU64,
    ) -> Poll<Result<(), End>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            match self.state {
                State::Ended => return Poll::Ready(Ok(())),
                State::Ending => {
                    ready!(Pin::new(&mut *writer).poll_shutdown(cx)).map_err(End::Write)?;
                    self.state = State::Ended;
                }
                State::Copying | State::Unflushed if self.start < self.end => {
                    ready!(self.poll_drain(cx, writer, carried))?;
                }
                State::Copying | State::Unflushed => match self.poll_fill(cx, reader) {
                    Poll::Ready(result) => result?,
                    Poll::Pending => {
                        // Nothing more to send for now: what the writer holds back must go.
                        if matches!(self.state, State::Unflushed) {
                            ready!(Pin::new(&mut *writer).poll_flush(cx)).map_err(End::Write)?;
                            self.state = State::Copying;
                        }
                        return Poll::Pending;
                    }
                },
            }
        }
    }

    fn poll_fill<R: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, reader: &mut R) -> Poll<Result<(), End>> {
        self.fit();
        let mut buffer = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(reader).poll_read(cx, &mut buffer)).map_err(End::Read)?;
        (self.start, self.end) = (0, buffer.filled().len());
        if self.end == 0 {
            self.state = State::Ending;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_drain<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
        carried: &AtomicU64,
    ) -> Poll<Result<(), End>> {
        let written =
            ready!(Pin::new(writer).poll_write(cx, &self.buffer[self.start..self.end])).map_err(End::Write)?;
        if written == 0 {
            return Poll::Ready(Err(End::Write(io::ErrorKind::WriteZero.into())));
        }
        self.start += written;
        self.state = State::Unflushed;
        carried.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn each_direction_ends_by_itself_and_bytes_are_counted() {
        let (mut app, mut app_end) = duplex(64);
        let (mut peer, mut peer_end) = duplex(64);
        let (to_peer, from_peer) = (AtomicU64::new(0), AtomicU64::new(0));
        let relay = async {
            let carried = Carried { to_peer: &to_peer, from_peer: &from_peer };
            both_ways(&mut app_end, &mut peer_end, carried).await
        };
        let talk = async {
            app.write_all(&[7; 1000]).await.unwrap();
            app.shutdown().await.unwrap();
            let mut back = Vec::new();
            app.read_to_end(&mut back).await.unwrap();
            back
        };
        let answer = async {
            let mut got = Vec::new();
            // The request has ended before a byte of the answer is sent.
            peer.read_to_end(&mut got).await.unwrap();
            peer.write_all(&[9; 2000]).await.unwrap();
            peer.shutdown().await.unwrap();
            got
        };
        let (outcome, back, got) = tokio::join!(relay, talk, answer);
        outcome.unwrap();
        assert_eq!((got, back), (vec![7; 1000], vec![9; 2000]));
        assert_eq!((to_peer.into_inner(), from_peer.into_inner()), (1000, 2000));
    }
}
