//! The keys of a direct connection, from the pair session in which it was offered.
//!
//! The pattern is that of DTLS-SRTP (RFC 5764): the handshake happens once, beside the connection, and its exporter
//! (RFC 8446 7.5, the interface of RFC 5705) makes what the connection needs. For each offer:
//!
//! ```text
//! context = by || number || source || destination          45 octets, each part as in `message`
//! secrets = TLS-Exporter("EXPERIMENTAL-enforcer-direct-1", context, 2 * Hash.length)
//! forward = secrets[.. Hash.length]                        from source to destination
//! back    = secrets[Hash.length ..]                        from destination to source
//! key     = HKDF-Expand-Label(direction, "key", "", key_length)      RFC 8446 7.3
//! iv      = HKDF-Expand-Label(direction, "iv", "", 12)
//! ```
//!
//! Hash and AEAD are those of the session's cipher suite, and record numbers begin at 0. The label needs no
//! registration (RFC 5705 4). Two offers never have the same context (see [`super::Numbers`]), so no key is ever
//! made twice; the addresses are in it so that keys cannot serve another connection than the offered one.

use rustls::crypto::tls13::OkmBlock;
use rustls::{CipherSuite, SupportedCipherSuite, Tls13CipherSuite};
use zeroize::Zeroizing;

use super::Offer;
use super::message::put_endpoint;

/// The exporter's label.
const LABEL: &[u8] = b"EXPERIMENTAL-enforcer-direct-1";
/// Of the longest hash, SHA-384.
const MAX_HASH: usize = 48;
/// Of the longest key.
const MAX_KEY: u8 = 32;
/// Of every TLS 1.3 AEAD here.
const IV: u8 = 12;

/// There are no keys. The connection must be reset.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The handshake is not over, or rustls refuses.
    #[error("export secrets of a pair session")]
    Export(#[source] rustls::Error),
    /// The session is not TLS 1.3 with an AEAD that the kernel knows.
    #[error("pair session without a usable cipher suite: {0:?}")]
    CipherSuite(Option<CipherSuite>),
}

/// The keys of both directions of one connection.
pub struct Keys {
    /// What the opener of the connection sends with.
    pub forward: TrafficKey,
    /// What the other end sends with.
    pub back: TrafficKey,
}

/// The key of one direction. It is erased when it is dropped.
pub struct TrafficKey {
    /// What it is for.
    pub suite: CipherSuite,
    key: Zeroizing<[u8; MAX_KEY as usize]>,
    key_length: u8,
    /// The per-record nonce is this, combined with the record's number (RFC 8446 5.3).
    pub iv: Zeroizing<[u8; IV as usize]>,
}

impl TrafficKey {
    /// From the secret of its direction, as RFC 8446 7.3 says.
    fn expand(suite: &Tls13CipherSuite, secret: &[u8]) -> Result<Self, Error> {
        let name = suite.common.suite;
        let key_length = match name {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => 16,
            CipherSuite::TLS13_AES_256_GCM_SHA384 | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => MAX_KEY,
            _ => return Err(Error::CipherSuite(Some(name))),
        };
        let expander = suite.hkdf_provider.expander_for_okm(&OkmBlock::new(secret));
        let mut made = Self { suite: name, key: Zeroizing::default(), key_length, iv: Zeroizing::default() };
        let too_long = |_length| Error::CipherSuite(Some(name));
        expander
            .expand_slice(&[&label(b"key", key_length)], &mut made.key[..usize::from(key_length)])
            .map_err(too_long)?;
        expander.expand_slice(&[&label(b"iv", IV)], &mut *made.iv).map_err(too_long)?;
        Ok(made)
    }

    /// The key: 16 octets for AES-128-GCM, 32 for the others.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key[..usize::from(self.key_length)]
    }
}

/// Makes the keys of an offered connection. Both agents get the same, and they alone can.
///
/// # Errors
///
/// [`Error`].
pub fn derive<T>(session: &rustls::ConnectionCommon<T>, offer: &Offer) -> Result<Keys, Error> {
    let suite = match session.negotiated_cipher_suite() {
        Some(SupportedCipherSuite::Tls13(suite)) => suite,
        other => return Err(Error::CipherSuite(other.map(|suite| suite.suite()))),
    };
    let length = suite.common.hash_provider.output_len();
    let mut buffer = Zeroizing::new([0; 2 * MAX_HASH]);
    let secrets = buffer.get_mut(..2 * length).ok_or(Error::CipherSuite(Some(suite.common.suite)))?;
    session.export_keying_material(&mut *secrets, LABEL, Some(&context(offer))).map_err(Error::Export)?;
    let (forward, back) = secrets.split_at(length);
    Ok(Keys { forward: TrafficKey::expand(suite, forward)?, back: TrafficKey::expand(suite, back)? })
}

fn context(offer: &Offer) -> Vec<u8> {
    let mut context = vec![offer.by.code()];
    context.extend(offer.number.to_be_bytes());
    put_endpoint(&mut context, offer.connection.source);
    put_endpoint(&mut context, offer.connection.destination);
    context
}

/// The `HkdfLabel` of RFC 8446 7.1 for the label `name` and an empty context.
fn label(name: &[u8], length: u8) -> Vec<u8> {
    const PREFIX: &[u8] = b"tls13 ";
    // The names are ours, and short.
    let name_length = u8::try_from(PREFIX.len() + name.len()).unwrap_or(u8::MAX);
    [&[0, length, name_length], PREFIX, name, &[0]].concat()
}

#[cfg(test)]
pub(super) mod tests;
