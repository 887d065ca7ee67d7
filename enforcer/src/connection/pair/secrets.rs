//! The keys of a direct connection, from the pair session in which it was offered.
//!
//! The pattern is that of DTLS-SRTP (RFC 5764): the handshake happens once, beside the connection, and its exporter
//! (RFC 8446 7.5, the interface of RFC 5705) makes what the connections need:
//!
//! ```text
//! secret  = TLS-Exporter("EXPERIMENTAL-enforcer-direct-2", "", Hash.length)      once for the session
//! context = by || number || source || destination                               45 octets, each part as in `message`
//! okm     = HKDF-Expand(secret, context, 2 * (key_length + 12))                  RFC 5869 2.3, for each offer
//! forward = key, iv = okm[.. key_length], the next 12      from source to destination
//! back    = key, iv = the rest, in the same way            from destination to source
//! ```
//!
//! Hash and AEAD are those of the session's cipher suite, and record numbers begin at 0. The label needs no
//! registration (RFC 5705 4). Two offers never have the same context (see [`super::Numbers`]), so no key is ever
//! made twice; the addresses are in it so that keys cannot serve another connection than the offered one.
//!
//! When the session is lost before an offer is answered, the offer is made again in the next one with the keys that it
//! had (`Message::Again`): the opener's socket has them already. That is the one case in which keys are in a message, and
//! they go from the agent that has them to the one that would have made the same.
//!
//! An exporter for each offer and traffic secrets of their own (RFC 8446 7.3) would take thirty compressions of the hash
//! in place of five, and nobody needs the secrets in between. The two of the HMAC's key itself are made once for the
//! session, which the HKDF of the TLS library does not do.

use std::fmt;

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac;
use rustls::{CipherSuite, SupportedCipherSuite};
use zeroize::Zeroizing;

use super::Offer;
use super::message::put_endpoint;
use crate::kernel::ktls::Key;

/// The exporter's label.
const LABEL: &[u8] = b"EXPERIMENTAL-enforcer-direct-2";
/// Of the longest hash, SHA-384.
const MAX_HASH: usize = 48;
/// Of the longest key.
const MAX_KEY: usize = 32;
/// Of every TLS 1.3 AEAD here.
const IV: usize = 12;
/// Octets of the keys of both directions, at most.
pub(super) const LONGEST_KEYS: usize = 2 * (MAX_KEY + IV);
/// Of what names an offer.
const CONTEXT: usize = 45;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// What the opener of the connection sends with.
    pub forward: TrafficKey,
    /// What the other end sends with.
    pub back: TrafficKey,
}

/// The key of one direction. It is erased when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct TrafficKey {
    /// What it is for.
    pub suite: CipherSuite,
    key: Zeroizing<[u8; MAX_KEY]>,
    key_length: usize,
    /// The per-record nonce is this, combined with the record's number (RFC 8446 5.3).
    pub iv: Zeroizing<[u8; IV]>,
}

/// Octets of a key; `None` for a suite that connections do not have.
const fn key_length(suite: CipherSuite) -> Option<usize> {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => Some(16),
        CipherSuite::TLS13_AES_256_GCM_SHA384 | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Some(MAX_KEY),
        _ => None,
    }
}

impl Keys {
    /// How many octets the keys of a suite have together.
    pub(super) const fn octets(suite: CipherSuite) -> Option<usize> {
        match key_length(suite) {
            Some(length) => Some(2 * (length + IV)),
            None => None,
        }
    }

    /// From as many octets as [`Keys::octets`] says, in the order of the derivation.
    pub(in crate::connection) fn new(suite: CipherSuite, octets: &[u8]) -> Option<Self> {
        if Self::octets(suite) != Some(octets.len()) {
            return None;
        }
        let (forward, back) = octets.split_at(octets.len() / 2);
        Some(Self { forward: TrafficKey::new(suite, forward), back: TrafficKey::new(suite, back) })
    }

    /// Appends them in this order.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        for key in [&self.forward, &self.back] {
            out.extend(key.key());
            out.extend(&*key.iv);
        }
    }
}

impl<'a> From<&'a TrafficKey> for Key<'a> {
    fn from(key: &'a TrafficKey) -> Self {
        Self { suite: key.suite, key: key.key(), iv: &key.iv }
    }
}

impl fmt::Debug for TrafficKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrafficKey").field("suite", &self.suite).finish_non_exhaustive()
    }
}

impl TrafficKey {
    /// From as many octets as key and iv have.
    pub(in crate::connection) fn new(suite: CipherSuite, octets: &[u8]) -> Self {
        let (key, iv) = octets.split_at(octets.len() - IV);
        let mut made = Self { suite, key: Zeroizing::default(), key_length: key.len(), iv: Zeroizing::default() };
        made.key[..key.len()].copy_from_slice(key);
        made.iv.copy_from_slice(iv);
        made
    }

    /// The key: 16 octets for AES-128-GCM, 32 for the others.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key[..self.key_length]
    }
}

/// What a session makes keys from.
pub struct Secret {
    suite: CipherSuite,
    /// Of the keys of one connection.
    octets: usize,
    /// With the pads hashed.
    key: hmac::Key,
}

impl Secret {
    /// Exports it from a session. Both agents get the same, and they alone can.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn export<T>(session: &rustls::ConnectionCommon<T>) -> Result<Self, Error> {
        let suite = match session.negotiated_cipher_suite() {
            Some(SupportedCipherSuite::Tls13(suite)) => suite,
            other => return Err(Error::CipherSuite(other.map(|suite| suite.suite()))),
        };
        let name = suite.common.suite;
        let octets = Keys::octets(name).ok_or(Error::CipherSuite(Some(name)))?;
        let hash = match name {
            CipherSuite::TLS13_AES_256_GCM_SHA384 => hmac::HMAC_SHA384,
            _ => hmac::HMAC_SHA256,
        };
        let mut buffer = Zeroizing::new([0; MAX_HASH]);
        let secret = buffer.get_mut(..hash.tag_len()).ok_or(Error::CipherSuite(Some(name)))?;
        session.export_keying_material(&mut *secret, LABEL, None).map_err(Error::Export)?;
        Ok(Self { suite: name, octets, key: hmac::Key::new(hash, secret) })
    }

    /// One that everybody knows.
    #[cfg(fuzzing)]
    pub(super) fn known() -> Self {
        let suite = CipherSuite::TLS13_AES_128_GCM_SHA256;
        Self {
            suite,
            octets: Keys::octets(suite).unwrap_or_default(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]),
        }
    }

    /// The keys of an offered connection.
    ///
    /// # Errors
    ///
    /// [`Error::CipherSuite`], if its hash cannot be used, which none is known for.
    pub fn keys(&self, offer: &Offer) -> Result<Keys, Error> {
        let unusable = || Error::CipherSuite(Some(self.suite));
        let mut buffer = Zeroizing::new([0; LONGEST_KEYS]);
        let okm = &mut buffer[..self.octets];
        self.expand(&context(offer), okm).map_err(|_unusable| unusable())?;
        Keys::new(self.suite, okm).ok_or_else(unusable)
    }

    /// HKDF-Expand (RFC 5869 2.3): each block is the HMAC of the one before it, the context, and its own number.
    fn expand(&self, context: &[u8], okm: &mut [u8]) -> Result<(), Unspecified> {
        let mut message = Zeroizing::new([0; MAX_HASH + CONTEXT + 1]);
        let mut block = Zeroizing::new([0; MAX_HASH]);
        let mut before = 0;
        for (number, part) in (1..).zip(okm.chunks_mut(self.key.algorithm().tag_len())) {
            let end = before + context.len();
            message[..before].copy_from_slice(&block[..before]);
            message[before..end].copy_from_slice(context);
            message[end] = number;
            before = hmac::sign_to_buffer(&self.key, &message[..=end], &mut *block)?.len();
            part.copy_from_slice(&block[..part.len()]);
        }
        Ok(())
    }
}

fn context(offer: &Offer) -> Vec<u8> {
    let mut context = Vec::with_capacity(CONTEXT);
    context.push(offer.by.code());
    context.extend(offer.number.to_be_bytes());
    put_endpoint(&mut context, offer.connection.source);
    put_endpoint(&mut context, offer.connection.destination);
    context
}

#[cfg(test)]
pub(super) mod tests;
