//! Moving the record layer of a TLS 1.3 session into the kernel, and the control records that remain ours.
//!
//! `ktls-core` lays out and installs the keys. Its reading loop is not used: it reserves 64 KiB for every connection
//! that meets a control record, and its close_notify is lost when the send buffer is full. The other candidate, the
//! `ktls` crate, panics on a ChangeCipherSpec record, which any peer can send.
//!
//! This file is what the relay does with its own sockets; `direct` is what is done to an application's socket.

mod direct;

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use ktls_core::{ConnectionTrafficSecrets, ContentType, ProtocolVersion, TlsCryptoInfoRx, TlsCryptoInfoTx};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, TlsGetRecordType, recvmsg};
use rustls::ExtractedSecrets;
use socket2::SockRef;
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, ReadBuf};

pub(super) use direct::expect_no_padding;
pub use direct::{
    Installed, Key, enlarge_send_buffer, flush_open_record, keys, receive_with, records_sent, send_with,
    set_write_gate, unread, unsent,
};

/// `AlertLevel.warning` of RFC 8446 6.
const WARNING: u8 = 1;
/// `AlertDescription.close_notify` of RFC 8446 6.1.
const CLOSE_NOTIFY: u8 = 0;
/// `HandshakeType.new_session_ticket` of RFC 8446 4.
const NEW_SESSION_TICKET: u8 = 4;
/// `HandshakeType.key_update` of RFC 8446 4.
const KEY_UPDATE: u8 = 24;
/// Enough for every control record that is understood: a ticket is looked at only as far as its type.
const CONTROL_RECORD: usize = 256;

/// The kernel would not take the session.
#[derive(Debug, thiserror::Error)]
#[error("install {part} of a TLS session in the kernel")]
pub struct Error {
    part: &'static str,
    #[source]
    cause: ktls_core::Error,
}

/// Puts the kernel's record layer under a socket; bytes go through unchanged until keys are installed. To be done
/// before the handshake: the kernel refuses it once the peer has sent FIN, which may come with the peer's last
/// handshake message.
///
/// # Errors
///
/// [`Error`].
pub fn attach(socket: &impl AsFd) -> Result<(), Error> {
    ktls_core::setup_ulp(&socket.as_fd()).map_err(|cause| Error { part: "record layer", cause })
}

/// Whether an [`attach`] failed because this kernel has no record layer.
#[must_use]
pub fn is_missing(error: &Error) -> bool {
    matches!(&error.cause, ktls_core::Error::Ulp(cause) if cause.raw_os_error() == Some(libc::ENOENT))
}

/// Whether an [`attach`] failed because the socket has a record layer already (`tcp_set_ulp` in the kernel, all versions).
#[must_use]
pub fn is_there(error: &Error) -> bool {
    matches!(&error.cause, ktls_core::Error::Ulp(cause) if cause.raw_os_error() == Some(libc::EEXIST))
}

/// Gives both directions of a session to the kernel, on a socket that is [`attach`]ed. The handshake must be over,
/// everything that was encrypted must be written, and no byte after the handshake may have been read from the socket.
///
/// # Errors
///
/// [`Error`]. The socket cannot be used any more: the kernel may hold one direction.
pub fn install(socket: &impl AsFd, secrets: ExtractedSecrets) -> Result<(), Error> {
    let failed = |part| move |cause| Error { part, cause };
    let (tx_sequence, tx) = secrets.tx;
    let (rx_sequence, rx) = secrets.rx;
    let tx = ConnectionTrafficSecrets::try_from(tx)
        .and_then(|keys| TlsCryptoInfoTx::new(ProtocolVersion::TLSv1_3, keys, tx_sequence))
        .map_err(failed("sending keys"))?;
    let rx = ConnectionTrafficSecrets::try_from(rx)
        .and_then(|keys| TlsCryptoInfoRx::new(ProtocolVersion::TLSv1_3, keys, rx_sequence))
        .map_err(failed("receiving keys"))?;
    tx.set(&socket.as_fd()).map_err(failed("sending keys"))?;
    rx.set(&socket.as_fd()).map_err(failed("receiving keys"))
}

/// Watches a socket for errors alone, on a descriptor of its own. When the kernel meets a record that it cannot take it
/// raises an error without making the socket readable, and whoever waits for data would wait for ever.
///
/// # Errors
///
/// The operating system's.
pub fn watch_errors(socket: &impl AsFd) -> io::Result<AsyncFd<OwnedFd>> {
    let descriptor = socket.as_fd().try_clone_to_owned()?;
    // SAFETY: the descriptor is ours, and `AsyncFd` owns it until it has let go of it.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::PRIORITY) }?)
}

/// Reads what there is right now, whatever the runtime knows of the socket; appends nothing at the end of the stream.
///
/// # Errors
///
/// The operating system's; `WouldBlock` when there is nothing.
pub fn read(socket: &impl AsFd, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
    // SAFETY: `recv` initializes as many octets as it says, and takes none back.
    let count = SockRef::from(socket).recv_with_flags(unsafe { buffer.unfilled_mut() }, libc::MSG_DONTWAIT)?;
    // SAFETY: as it says.
    unsafe { buffer.assume_init(count) };
    buffer.advance(count);
    Ok(())
}

/// A record that is not application data. A plain `read` fails with EIO until it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// The peer sends no more data (RFC 8446 6.1).
    CloseNotify,
    /// Any other alert: the session is over. The description of RFC 8446 6.
    Alert(u8),
    /// The peer changes its sending keys (RFC 8446 4.6.3).
    KeyUpdate,
    /// The peer offers a session ticket, which we never use (RFC 8446 4.6.1).
    NewSessionTicket,
    /// Nothing that belongs here.
    Unexpected,
}

/// Takes one control record.
///
/// # Errors
///
/// The operating system's; `WouldBlock` when there is none.
pub fn receive_control(socket: &impl AsRawFd) -> io::Result<Control> {
    let mut payload = [0_u8; CONTROL_RECORD];
    let mut buffers = [IoSliceMut::new(&mut payload)];
    let mut space = nix::cmsg_space!(u8);
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut buffers, Some(&mut space), MsgFlags::MSG_DONTWAIT)?;
    let length = message.bytes;
    let kind = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::TlsGetRecordType(kind) => Some(kind),
        _ => None,
    });
    Ok(classify(kind, &payload[..length]))
}

fn classify(kind: Option<TlsGetRecordType>, payload: &[u8]) -> Control {
    match (kind, payload) {
        (Some(TlsGetRecordType::Alert), &[_level, CLOSE_NOTIFY]) => Control::CloseNotify,
        (Some(TlsGetRecordType::Alert), &[_level, description]) => Control::Alert(description),
        (Some(TlsGetRecordType::Handshake), &[KEY_UPDATE, ..]) => Control::KeyUpdate,
        (Some(TlsGetRecordType::Handshake), &[NEW_SESSION_TICKET, ..]) => Control::NewSessionTicket,
        _ => Control::Unexpected,
    }
}

/// Tells the peer that no more data comes.
///
/// # Errors
///
/// The operating system's; `WouldBlock` when the send buffer is full: then it was not sent and has to be tried again.
pub fn send_close_notify(socket: &impl AsRawFd) -> io::Result<()> {
    let mut alert = [WARNING, CLOSE_NOTIFY];
    ktls_core::ffi::send_tls_control_message(socket.as_raw_fd(), ContentType::Alert, &mut alert).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_records_are_told_apart() {
        let cases: [(Option<TlsGetRecordType>, &[u8], Control); 9] = [
            (Some(TlsGetRecordType::Alert), &[1, 0], Control::CloseNotify),
            (Some(TlsGetRecordType::Alert), &[2, 0], Control::CloseNotify),
            (Some(TlsGetRecordType::Alert), &[2, 40], Control::Alert(40)),
            (Some(TlsGetRecordType::Alert), &[2], Control::Unexpected),
            (Some(TlsGetRecordType::Handshake), &[24, 0, 0, 1, 0], Control::KeyUpdate),
            (Some(TlsGetRecordType::Handshake), &[4, 0, 0], Control::NewSessionTicket),
            (Some(TlsGetRecordType::Handshake), &[], Control::Unexpected),
            (Some(TlsGetRecordType::ChangeCipherSpec), &[1], Control::Unexpected),
            (None, &[1, 2, 3], Control::Unexpected),
        ];
        for (kind, payload, expected) in cases {
            assert_eq!(classify(kind, payload), expected, "{kind:?} {payload:?}");
        }
    }
}
