//! Where the record layer runs after the handshake: in user space, or in the kernel.
//!
//! [`Session`] is the peer's side of the relay in either case: plain bytes in and out, end of data only after a
//! close_notify, and a close_notify when our side ends. With an application's own socket at the other end it is FIN.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::ExtractedSecrets;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::copy::BUFFER;
use super::records::Records;
use crate::kernel::ktls::{self, Control};

/// Records that are sent on one key at most. AES-GCM allows 2^24.5 (RFC 8446 5.5), and the kernel does not count.
const RECORD_LIMIT: u64 = 1 << 24;

/// Why a session whose records are in the kernel had to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Ended {
    /// The keys would have to change.
    #[error("keys must change and cannot, with the record layer in the kernel")]
    RekeyUnsupported,
    /// The peer sent an alert.
    #[error("peer sent TLS alert {0}")]
    Alert(u8),
    /// The peer sent a record that has no place here.
    #[error("peer sent an unexpected TLS record")]
    UnexpectedRecord,
}

impl From<Ended> for io::Error {
    fn from(ended: Ended) -> Self {
        Self::other(ended)
    }
}

/// An authenticated session with a peer.
pub(super) enum Session {
    /// rustls makes the records.
    UserSpace(Box<TlsStream<Records>>),
    /// The kernel makes them.
    Kernel(KernelSession),
}

impl Session {
    /// Leaves the records to rustls.
    pub(super) fn in_user_space(mut stream: TlsStream<Records>) -> Self {
        stream.get_mut().0.read_freely();
        Self::UserSpace(Box::new(stream))
    }

    /// Hands the records to the kernel.
    ///
    /// # Errors
    ///
    /// The kernel's, or rustls's if the session has no secrets to extract. The connection is lost then.
    pub(super) fn in_kernel(stream: TlsStream<Records>) -> io::Result<Self> {
        let (records, early, secrets) = match stream {
            TlsStream::Client(stream) => {
                let (records, mut session) = stream.into_inner();
                (records, drain(session.reader())?, session.dangerous_extract_secrets())
            }
            TlsStream::Server(stream) => {
                let (records, mut session) = stream.into_inner();
                (records, drain(session.reader())?, session.dangerous_extract_secrets())
            }
        };
        let secrets: ExtractedSecrets = secrets.map_err(io::Error::other)?;
        let stream = records.into_stream();
        let sent = secrets.tx.0;
        ktls::install(&stream, secrets).map_err(io::Error::other)?;
        KernelSession::new(stream, (early, sent), End::Told).map(Self::Kernel)
    }

    /// A socket whose keys came from a pair session.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(super) fn keyed(stream: TcpStream) -> io::Result<Self> {
        KernelSession::new(stream, (Vec::new(), 0), End::Fin).map(Self::Kernel)
    }

    /// The socket below.
    pub(super) fn stream(&self) -> &TcpStream {
        match self {
            Self::UserSpace(stream) => stream.get_ref().0.stream(),
            Self::Kernel(session) => &session.stream,
        }
    }
}

/// Takes what rustls has decrypted already: data of the peer that came with its last handshake message.
fn drain(mut reader: rustls::Reader<'_>) -> io::Result<Vec<u8>> {
    let mut early = Vec::new();
    let mut part = [0; 1024];
    loop {
        match reader.read(&mut part) {
            Ok(0) => return Ok(early),
            Ok(count) => early.extend_from_slice(&part[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(early),
            Err(error) => return Err(error),
        }
    }
}

/// A session whose records the kernel makes.
pub(super) struct KernelSession {
    stream: TcpStream,
    /// The same socket, for errors that do not make it readable.
    errors: AsyncFd<OwnedFd>,
    /// Decrypted before the kernel took over, and not read yet. At most one record.
    early: Vec<u8>,
    given: usize,
    /// Records sent on the current key.
    sent: u64,
    closing: Closing,
    end: End,
}

/// How the ends tell each other that no more data comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// By close_notify (RFC 8446 6.1).
    Told,
    /// By FIN alone: an application knows no other way, and would take an alert for an error.
    Fin,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Closing {
    Open,
    /// The peer's close_notify came: what follows is the end.
    PeerClosed,
}

impl KernelSession {
    /// With what was decrypted, and how many records were sent, before the kernel took over.
    fn new(stream: TcpStream, (early, sent): (Vec<u8>, u64), end: End) -> io::Result<Self> {
        let errors = ktls::watch_errors(&stream)?;
        Ok(Self { stream, errors, early, given: 0, sent, closing: Closing::Open, end })
    }

    /// Reads what there is, or waits for it; and for a failure of the socket, which may come with nothing to read.
    fn poll_read_or_fail(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buffer) {
            return Poll::Ready(read);
        }
        // An error by itself counts as the end of writing, for which nobody else waits on this descriptor. So does an end of
        // both directions, which may be known here a moment before it is known that there is something to read.
        let mut ended = ready!(self.errors.poll_write_ready(cx))?;
        if let Some(error) = self.stream.take_error()? {
            return Poll::Ready(Err(error));
        }
        match ktls::read(&self.stream, buffer) {
            // Both have ended, and the record that is on its way makes the socket readable.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ended.clear_ready();
                Poll::Pending
            }
            read => Poll::Ready(read),
        }
    }

    /// Takes the record that made `read` fail.
    fn control(&mut self) -> io::Result<()> {
        // The socket was readable, and nobody else reads it.
        match ktls::receive_control(&self.stream)? {
            Control::CloseNotify => {
                self.closing = Closing::PeerClosed;
                Ok(())
            }
            Control::NewSessionTicket => Ok(()),
            Control::KeyUpdate => Err(Ended::RekeyUnsupported.into()),
            Control::Alert(description) => Err(Ended::Alert(description).into()),
            Control::Unexpected => Err(Ended::UnexpectedRecord.into()),
        }
    }
}

impl AsyncRead for KernelSession {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.given < this.early.len() {
            let count = buffer.remaining().min(this.early.len() - this.given);
            buffer.put_slice(&this.early[this.given..this.given + count]);
            this.given += count;
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.closing == Closing::PeerClosed {
                return Poll::Ready(Ok(()));
            }
            let before = buffer.filled().len();
            match ready!(this.poll_read_or_fail(cx, buffer)) {
                Ok(()) if buffer.filled().len() > before => return Poll::Ready(Ok(())),
                Ok(()) if this.end == End::Fin => return Poll::Ready(Ok(())),
                // FIN without close_notify: the data may be cut short (RFC 8446 6.1).
                Ok(()) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Err(error) if error.raw_os_error() == Some(libc::EIO) => this.control()?,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for KernelSession {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.sent >= RECORD_LIMIT {
            return Poll::Ready(Err(Ended::RekeyUnsupported.into()));
        }
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, data))?;
        // The kernel fills records; a write never continues the record of the write before.
        this.sent += written.div_ceil(BUFFER) as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Sends close_notify if that is how it is told, and then FIN.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.end == End::Fin {
            return Pin::new(&mut this.stream).poll_shutdown(cx);
        }
        loop {
            ready!(this.stream.poll_write_ready(cx))?;
            match this.stream.try_io(Interest::WRITABLE, || ktls::send_close_notify(&this.stream)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(()) => return Pin::new(&mut this.stream).poll_shutdown(cx),
            }
        }
    }
}

impl AsyncRead for Session {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::UserSpace(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Kernel(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Session {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::UserSpace(stream) => Pin::new(stream).poll_write(cx, data),
            Self::Kernel(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::UserSpace(stream) => Pin::new(stream).poll_flush(cx),
            Self::Kernel(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::UserSpace(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Kernel(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use tokio::io::AsyncReadExt;
    use tokio::runtime::{Builder, Runtime};
    use tokio::time::timeout;

    use super::*;

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_all().build().unwrap()
    }

    /// The stream belongs to a runtime that never looks, as if it were about to.
    #[test]
    fn an_end_of_both_directions_is_no_failure_before_it_can_be_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        near.shutdown(std::net::Shutdown::Write).unwrap();
        let (late, quick) = (runtime(), runtime());
        let stream = late.block_on(async { TcpStream::from_std(near) }).unwrap();
        let read = quick.block_on(async {
            let mut session = Session::keyed(stream).unwrap();
            drop(far);
            timeout(Duration::from_secs(10), session.read_u8()).await.expect("the end is noticed")
        });
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "read_u8 wants one more");
    }
}
