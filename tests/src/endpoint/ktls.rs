//! Kernel TLS set up by the program itself, with keys that both ends know: what encryption costs where nobody has to
//! agree on anything. The bench measures the direct path against it.
//!
//! Suite and options are what the agents install by default. The keys are printed here, so nothing is kept secret.

use std::io;
use std::net::TcpStream;

use ktls_core::{AeadKey, ConnectionTrafficSecrets, Error, ProtocolVersion, TlsCryptoInfoRx, TlsCryptoInfoTx};
use nix::sys::socket::setsockopt;
// The second is what the first one is made of.
use nix::{setsockopt_impl, sockopt_impl};

/// What one end of a connection sends with.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    Client,
    Server,
}

sockopt_impl!(
    /// That no record is padded: it is decrypted right into the reader's buffer.
    ExpectNoPadding,
    SetOnly,
    libc::SOL_TLS,
    libc::TLS_RX_EXPECT_NO_PAD,
    bool
);

/// Gives the kernel the keys of both directions; to be done before anything is sent or read.
pub(super) fn install(stream: &TcpStream, end: End) -> io::Result<()> {
    let (own, other) = match end {
        End::Client => (1, 2),
        End::Server => (2, 1),
    };
    let install = || {
        ktls_core::setup_ulp(stream)?;
        TlsCryptoInfoTx::new(ProtocolVersion::TLSv1_3, keys(own), 0)?.set(stream)?;
        TlsCryptoInfoRx::new(ProtocolVersion::TLSv1_3, keys(other), 0)?.set(stream)
    };
    install().map_err(|error: Error| io::Error::other(error))?;
    Ok(setsockopt(stream, ExpectNoPadding, &true)?)
}

fn keys(direction: u8) -> ConnectionTrafficSecrets {
    ConnectionTrafficSecrets::Aes128Gcm { key: AeadKey::new([direction; 16]), iv: [direction; 8], salt: [direction; 4] }
}
