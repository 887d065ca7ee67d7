//! The peer's socket as the handshake sees it: never more than one TLS record at a time.
//!
//! rustls reads ahead. When the kernel is to take over the record layer, a byte that rustls has read beyond the
//! handshake would be lost, so until the handshake is over a read ends with its record (RFC 8446 5.1). Afterwards
//! reads go straight through.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Content type, legacy version, length.
const HEADER: usize = 5;

/// A socket that is read record by record.
pub(super) struct Records {
    stream: TcpStream,
    header: [u8; HEADER],
    /// Bytes of the header that are read.
    filled: usize,
    /// Bytes of the header that are handed on.
    given: usize,
    /// Bytes of the record's body that are still on the socket.
    body: usize,
    reading: Reading,
}

enum Reading {
    /// A read ends with its record.
    RecordByRecord,
    /// A read takes what there is.
    Freely,
}

impl Records {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, header: [0; HEADER], filled: 0, given: 0, body: 0, reading: Reading::RecordByRecord }
    }

    /// From now on reads take what there is.
    pub(super) fn read_freely(&mut self) {
        self.reading = Reading::Freely;
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
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

impl AsyncRead for Records {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.body == 0 && this.given == this.filled {
            if matches!(this.reading, Reading::Freely) {
                return Pin::new(&mut this.stream).poll_read(cx, buffer);
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

impl AsyncWrite for Records {
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
