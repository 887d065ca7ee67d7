//! Keys in a token (PKCS#11, OASIS): an HSM, a TPM, a key service, or SoftHSM.
//!
//! A key is made in the token and never leaves it; this process knows a handle of it, and the PIN. `token` is the way to
//! the token: one session, one user at a time, opened again when it is lost. `module` is the vendor's library, which is
//! loaded and initialized once for the process; `object` finds, makes and removes keys, `sign` signs with them.
//!
//! A PIN that was refused is never tried again by the same [`Pkcs11`]: a few wrong ones in a row lock a token.
//!
//! A vendor's library runs in this process and can do whatever it likes. One that does not answer is waited for by who
//! called it; everybody else is told after half a minute.

mod error;
mod module;
mod object;
mod sign;
mod token;
mod turn;

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{PublicKeyData, SignatureAlgorithm, SigningKey};

pub use error::Error;

use super::{Algorithm, Error as KeysError, Key, Keys, Passphrase, Pending, check_label, on_thread};
use object::Public;
use token::Token;

/// Which token.
#[derive(Debug)]
pub struct Config {
    /// The library of its vendor.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// The PIN of its user.
    pub pin: Passphrase,
}

/// The keys in a token. The session that it has with the token ends with it and with the last of its [`Key`]s.
pub struct Pkcs11 {
    token: Arc<Token>,
}

impl Pkcs11 {
    /// Loads the module, finds the token and logs in. Several may be opened in one process, for the same token too; the
    /// PIN of the second is not tried then, because a process logs in as a whole.
    ///
    /// # Errors
    ///
    /// [`Error`], in [`KeysError::Token`].
    pub async fn open(config: Config) -> Result<Self, KeysError> {
        on_thread(format!("token {}", config.token), move || {
            let token = Token::open(config)?;
            Ok(Self { token: Arc::new(token) })
        })
        .await
    }

    async fn on_token<T: Send + 'static>(
        &self,
        label: String,
        work: impl FnOnce(&Arc<Token>, &str) -> Result<T, KeysError> + Send + 'static,
    ) -> Result<T, KeysError> {
        check_label(&label)?;
        let token = Arc::clone(&self.token);
        on_thread(format!("key {label}"), move || work(&token, &label)).await
    }
}

impl Keys for Pkcs11 {
    fn generate(&self, label: &str, algorithm: Algorithm) -> Pending<'_, Key> {
        Box::pin(self.on_token(label.to_owned(), move |token, label| {
            token.with(|open| object::generate(open, label, algorithm)).and_then(|public| key(token, label, public))
        }))
    }

    fn open(&self, label: &str) -> Pending<'_, Key> {
        Box::pin(self.on_token(label.to_owned(), |token, label| {
            token.with(|open| object::find(open, label)).and_then(|public| key(token, label, public))
        }))
    }

    fn destroy(&self, label: &str) -> Pending<'_, ()> {
        Box::pin(self.on_token(label.to_owned(), |token, label| token.with(|open| object::destroy(open, label))))
    }
}

/// A key whose private half signs what its public half verifies.
fn key(token: &Arc<Token>, label: &str, public: Public) -> Result<Key, KeysError> {
    let key = TokenKey { token: Arc::clone(token), label: label.to_owned(), public };
    let message = b"enforcer: do these two belong together?";
    let signature = token.with(|open| sign::sign(open, label, &key.public, message))?;
    if !sign::verifies(&key.public, message, &signature) {
        return Err(
            Error::unsupported(token.label(), label, "its signature does not verify with its public key").into()
        );
    }
    Ok(Key::new(key))
}

/// A key in a token.
struct TokenKey {
    token: Arc<Token>,
    label: String,
    public: Public,
}

impl PublicKeyData for TokenKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.public.algorithm.signature()
    }
}

impl SigningKey for TokenKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.token.with(|open| sign::sign(open, &self.label, &self.public, message)).map_err(|error| {
            // rcgen's error has no room for it.
            tracing::error!(key = self.label, error = &error as &dyn std::error::Error, "token does not sign");
            rcgen::Error::RemoteKeyError
        })
    }
}
