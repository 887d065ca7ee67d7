//! Probing kernel TLS: each probe connects a pair of sockets over the loopback, and installs keys that nobody uses.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use ktls_core::{
    AeadKey, ConnectionTrafficSecrets, Error, ProtocolVersion, TlsCryptoInfoRx, TlsCryptoInfoTx, setup_ulp,
};
use socket2::SockRef;

use crate::kernel::ktls::expect_no_padding;

/// Sending and receiving with one cipher.
pub(super) fn cipher(secrets: fn() -> ConnectionTrafficSecrets) -> Result<(), String> {
    install(secrets).map(drop).map_err(|error| explain(&error))
}

/// `TLS_RX_EXPECT_NO_PAD`: the kernel decrypts right into the reader's buffer (Linux 6.0).
pub(super) fn expect_no_pad() -> Result<(), String> {
    let (socket, _peer) = install(aes_128_gcm).map_err(|error| explain(&error))?;
    expect_no_padding(&socket).map_err(|error| format!("set TLS_RX_EXPECT_NO_PAD: {error}"))
}

/// Other keys for a session that is in the kernel already (absent in Linux 6.12, there in 7.2).
pub(super) fn rekey() -> Result<(), String> {
    let again = || install(aes_128_gcm).and_then(|(socket, _peer)| set_keys(&socket, aes_128_gcm));
    again().map_err(|error| explain(&error))
}

/// Whether what was accepted without blocking is sent when the socket is closed at once.
///
/// When the send buffer is full in the middle of a record, the kernel keeps the rest for later, and drops it when the
/// socket is closed or its sending half is shut down (seen on 6.1, 6.12 and 7.2: up to 12,420 octets of the last
/// record). A writer that blocks is not concerned.
pub(super) fn keeps_the_end() -> Result<(), String> {
    // Where the buffer ends in a record depends on its size, so one transfer proves nothing. The first one shows it on
    // Debian's 6.1, in some milliseconds; those that show nothing take a quarter of a second and more.
    const BUFFERS: [usize; 5] = [20_000, 40_000, 30_000, 60_000, 4_000];
    for buffer in BUFFERS {
        let (accepted, arrived) = write_and_close(buffer).map_err(|error| error.to_string())?;
        if arrived < accepted {
            return Err(format!("of {accepted} octets on the wire {arrived} arrived"));
        }
    }
    Ok(())
}

/// Writes as many blocks as go into the buffer, closes, and counts: octets that the accepted blocks have on the wire, and
/// octets that arrive.
fn write_and_close(buffer: usize) -> io::Result<(usize, usize)> {
    /// Header, content type and tag of a record (RFC 8446 5.2).
    const OVERHEAD: usize = 5 + 1 + 16;
    /// Of the longest record.
    const BLOCK: usize = 16 * 1024;
    /// More than any of the buffers takes.
    const WRITES: usize = 32;
    let (mut socket, mut peer) = install(aes_128_gcm).map_err(|error| io::Error::other(explain(&error)))?;
    socket.set_nonblocking(true)?;
    SockRef::from(&socket).set_send_buffer_size(buffer)?;
    SockRef::from(&peer).set_recv_buffer_size(BLOCK)?;
    let mut accepted = 0;
    for _ in 0..WRITES {
        match socket.write(&[0; BLOCK]) {
            Ok(written) => accepted += written + OVERHEAD,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    drop(socket);
    let mut arrived = Vec::new();
    peer.read_to_end(&mut arrived)?;
    Ok((accepted, arrived.len()))
}

/// Keys of zeros: only whether the kernel takes them matters.
pub(super) fn aes_128_gcm() -> ConnectionTrafficSecrets {
    ConnectionTrafficSecrets::Aes128Gcm { key: AeadKey::new([0; 16]), iv: [0; 8], salt: [0; 4] }
}

pub(super) fn aes_256_gcm() -> ConnectionTrafficSecrets {
    ConnectionTrafficSecrets::Aes256Gcm { key: AeadKey::new([0; 32]), iv: [0; 8], salt: [0; 4] }
}

pub(super) fn chacha20_poly1305() -> ConnectionTrafficSecrets {
    ConnectionTrafficSecrets::Chacha20Poly1305 { key: AeadKey::new([0; 32]), iv: [0; 12], salt: [] }
}

/// A connected socket with kernel TLS, and its peer, which must stay open as long as the socket is used.
fn install(secrets: fn() -> ConnectionTrafficSecrets) -> Result<(TcpStream, TcpStream), Error> {
    let (socket, peer) = pair().map_err(Error::General)?;
    setup_ulp(&socket)?;
    set_keys(&socket, secrets)?;
    Ok((socket, peer))
}

fn set_keys(socket: &TcpStream, secrets: fn() -> ConnectionTrafficSecrets) -> Result<(), Error> {
    TlsCryptoInfoTx::new(ProtocolVersion::TLSv1_3, secrets(), 0)?.set(socket)?;
    TlsCryptoInfoRx::new(ProtocolVersion::TLSv1_3, secrets(), 0)?.set(socket)
}

/// The crate's own words leave open what was tried.
fn explain(error: &Error) -> String {
    match error {
        Error::Ulp(cause) if error.is_ktls_unsupported() => format!("{cause}: the kernel has no tls module"),
        Error::Ulp(cause) => format!("set TCP_ULP: {cause}"),
        Error::CryptoMaterial(cause) => format!("set keys: {cause}"),
        other => other.to_string(),
    }
}

fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let socket = TcpStream::connect(listener.local_addr()?)?;
    let (peer, _address) = listener.accept()?;
    Ok((socket, peer))
}
