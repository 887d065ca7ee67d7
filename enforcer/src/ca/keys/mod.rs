//! Where the keys of authorities are, and how they sign.
//!
//! [`Keys`] is all that the rest of the authority knows of it: a key is made under a label, found again by it, and signs.
//! `sealed` keeps keys in the authority's store, encrypted under a `passphrase`; `pkcs11` leaves them in a token, which
//! signs. A private key is never given out, written in the clear or logged.

mod passphrase;
pub mod pkcs11;
pub mod sealed;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use rcgen::{PublicKeyData, SignatureAlgorithm, SigningKey};

pub use passphrase::{Passphrase, PassphraseError};
pub use pkcs11::Pkcs11;
pub use sealed::Sealed;

use super::store;

/// The longest label, in octets.
pub const LONGEST_LABEL: usize = 128;

/// An answer that a key store is asked for.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// Makes and finds keys. A label is 1 to [`LONGEST_LABEL`] printable ASCII characters without spaces.
pub trait Keys: Send + Sync {
    /// Makes a key under a label that is not in use.
    ///
    /// After an error the key may have been made all the same, where what failed is the way to it: ask for it with
    /// [`Keys::open`], or remove it with [`Keys::destroy`].
    fn generate(&self, label: &str, algorithm: Algorithm) -> Pending<'_, Key>;

    /// The key with this label.
    fn open(&self, label: &str) -> Pending<'_, Key>;

    /// Removes the key with this label; one that is not there is no error. A [`Key`] that was given out may still sign.
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

impl Algorithm {
    /// What rcgen calls it.
    fn signature(self) -> &'static SignatureAlgorithm {
        match self {
            Self::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::EcdsaP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Self::Ed25519 => &rcgen::PKCS_ED25519,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EcdsaP256 => "ECDSA P-256",
            Self::EcdsaP384 => "ECDSA P-384",
            Self::Ed25519 => "Ed25519",
        })
    }
}

/// A private key, wherever it is. Signing blocks: a token may be far away.
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
    /// The label is none.
    #[error("label {label:?}: a key's label is 1 to {LONGEST_LABEL} printable ASCII characters without spaces")]
    Label {
        /// What was given.
        label: String,
    },
    /// The table that keeps sealed keys.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A sealed key cannot be made or opened.
    #[error(transparent)]
    Sealed(#[from] sealed::Error),
    /// A token cannot be used.
    #[error(transparent)]
    Token(#[from] pkcs11::Error),
    /// The thread that did the work ended early: a mistake of ours.
    #[error("work on {what} was broken off")]
    BrokenOff {
        /// On what.
        what: String,
        /// Why.
        #[source]
        cause: tokio::task::JoinError,
    },
}

fn check_label(label: &str) -> Result<(), Error> {
    let fits = (1..=LONGEST_LABEL).contains(&label.len()) && label.bytes().all(|octet| octet.is_ascii_graphic());
    if fits { Ok(()) } else { Err(Error::Label { label: label.chars().take(LONGEST_LABEL).collect() }) }
}

/// Does work that blocks, or takes the processor for long, where nobody else waits for the thread.
async fn on_thread<T: Send + 'static>(
    what: String,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let result = tokio::task::spawn_blocking(work).await;
    result.map_err(|cause| Error::BrokenOff { what, cause })?
}
