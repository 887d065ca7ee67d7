//! Probing kernel TLS: each probe connects a pair of sockets over the loopback, and installs keys that nobody uses.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use ktls_core::{
    AeadKey, ConnectionTrafficSecrets, Error, ProtocolVersion, TlsCryptoInfoRx, TlsCryptoInfoTx, setup_ulp,
};

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
