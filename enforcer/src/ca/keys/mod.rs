//! Where the keys of authorities are, and how they sign.
//!
//! [`Keys`] is all that the rest of the authority knows of it: a key is made under a label, found again by it, and signs.
//! A private key is never given out, written in the clear or logged.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use rcgen::{PublicKeyData, SignatureAlgorithm, SigningKey};

use super::store;

/// An answer that a key store is asked for.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// Makes and finds keys.
pub trait Keys: Send + Sync {
    /// Makes a key under a label that is not in use.
    fn generate(&self, label: &str, algorithm: Algorithm) -> Pending<'_, Key>;

    /// The key with this label.
    fn open(&self, label: &str) -> Pending<'_, Key>;

    /// Removes the key with this label; one that is not there is no error.
    fn destroy(&self, label: &str) -> Pending<'_, ()>;
}

/// What a key signs with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    #[default]
    EcdsaP256,
    /// ECDSA on P-384 with SHA-384.
    EcdsaP384,
    /// Ed25519.
    Ed25519,
}

/// A private key, wherever it is. Signing blocks.
#[derive(Clone)]
pub struct Key(Arc<dyn SigningKey + Send + Sync>);

impl Key {
    /// A key that signs like `key`.
    pub fn new(key: impl SigningKey + Send + Sync + 'static) -> Self {
        Self(Arc::new(key))
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// A key cannot be made, found or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none with this label.
    #[error("no key with the label {label} in {place}")]
    Missing {
        /// Which.
        label: String,
        /// Where it was looked for.
        place: String,
    },
    /// There is one with this label.
    #[error("a key with the label {label} exists in {place}; it is never overwritten")]
    Exists {
        /// Which.
        label: String,
        /// Where.
        place: String,
    },
    /// The table that keeps sealed keys.
    #[error(transparent)]
    Store(#[from] store::Error),
}
