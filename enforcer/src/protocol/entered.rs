//! A connection as tonic serves it, once it is known who is at the other end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// A connection with its caller, and with what keeps its place: that is given back when it ends.
pub(crate) struct Entered<S, C, P> {
    stream: S,
    caller: C,
    _place: P,
}

impl<S, C, P> Entered<S, C, P> {
    /// Calls over `stream` are `caller`'s.
    pub(crate) fn new(stream: S, caller: C, place: P) -> Self {
        Self { stream, caller, _place: place }
    }
}

impl<S, C: Clone + Send + Sync + 'static, P> Connected for Entered<S, C, P> {
    type ConnectInfo = C;

    fn connect_info(&self) -> C {
        self.caller.clone()
    }
}

impl<S: AsyncRead + Unpin, C: Unpin, P: Unpin> AsyncRead for Entered<S, C, P> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin, C: Unpin, P: Unpin> AsyncWrite for Entered<S, C, P> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
