//! What can be wrong with a token.

use std::io;
use std::path::PathBuf;

use super::Algorithm;
use super::turn::PATIENCE;

/// A token cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such file.
    #[error("find PKCS#11 module {module}: install the library of the token's vendor, or correct the path")]
    NoModule {
        /// Which.
        module: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The file is no library, or no PKCS#11 module.
    #[error("load PKCS#11 module {module}: it must be a shared library with C_GetFunctionList, for this processor")]
    Module {
        /// Which.
        module: PathBuf,
        /// Why.
        #[source]
        cause: cryptoki::error::Error,
    },
    /// The module does not begin its work; often its own configuration is wrong.
    #[error("initialize PKCS#11 module {module}: look at the module's own configuration")]
    Initialize {
        /// Which.
        module: PathBuf,
        /// Why.
        #[source]
        cause: cryptoki::error::Error,
    },
    /// No token has the label.
    #[error("no token {token} in PKCS#11 module {module}, there is {present}: attach it, or correct the label")]
    NoToken {
        /// Which.
        token: String,
        /// Where.
        module: PathBuf,
        /// What there is instead.
        present: String,
    },
    /// Several tokens have the label.
    #[error("{count} tokens of PKCS#11 module {module} have the label {token}: detach all but one, or relabel them")]
    SeveralTokens {
        /// Which.
        token: String,
        /// Where.
        module: PathBuf,
        /// How many.
        count: usize,
    },
    /// The PIN was refused, now or before.
    #[error(
        "token {token} refuses the PIN, which is not tried again, because few wrong tries lock a token: correct the \
             PIN, then start again"
    )]
    WrongPin {
        /// Of which token.
        token: String,
    },
    /// Only one try is left; it is not ours.
    #[error(
        "token {token} locks its PIN after one more wrong try, so it is not tried here: log in once with the vendor's \
             tool, then start again"
    )]
    LastTry {
        /// Of which token.
        token: String,
    },
    /// Too many wrong PINs.
    #[error("the PIN of token {token} is locked: its security officer must set it anew")]
    PinLocked {
        /// Of which token.
        token: String,
    },
    /// The token has no user yet.
    #[error("token {token} has no PIN yet: its security officer must set one")]
    NoPin {
        /// Which.
        token: String,
    },
    /// Several keys have the label.
    #[error("{count} keys in token {token} have the label {label}: remove or relabel all but one")]
    SeveralKeys {
        /// In which token.
        token: String,
        /// Which keys.
        label: String,
        /// How many.
        count: usize,
    },
    /// The key is none that signs certificates here.
    #[error("key {label} in token {token} cannot be used: {why}")]
    Unsupported {
        /// In which token.
        token: String,
        /// Which key.
        label: String,
        /// What is wrong.
        why: String,
    },
    /// The token does not have the mechanism.
    #[error("token {token} cannot make keys for {algorithm}: it lacks {mechanism}; choose another algorithm")]
    Algorithm {
        /// Which token.
        token: String,
        /// What was asked for.
        algorithm: Algorithm,
        /// What it lacks.
        mechanism: &'static str,
    },
    /// The token made a key that could leave it. The key is removed.
    #[error("token {token} made key {label} in a way that it may leave the token ({attribute}); it was removed")]
    Exposed {
        /// Which token.
        token: String,
        /// Which key.
        label: String,
        /// What is not as it was asked for.
        attribute: &'static str,
    },
    /// Somebody else waits for the token.
    #[error("token {token} has not answered for {} s; calls to it wait until it does", PATIENCE.as_secs())]
    Busy {
        /// Which.
        token: String,
    },
    /// The token is there no more, or its session is.
    #[error("{operation} in token {token}: the token is lost; it is used again when it is back")]
    Lost {
        /// What was tried.
        operation: &'static str,
        /// Which token.
        token: String,
        /// Why.
        #[source]
        cause: cryptoki::error::Error,
    },
    /// Anything else that the module says.
    #[error("{operation} in token {token}")]
    Call {
        /// What was tried.
        operation: &'static str,
        /// Which token.
        token: String,
        /// Why.
        #[source]
        cause: cryptoki::error::Error,
    },
}

impl Error {
    pub(super) fn unsupported(token: &str, label: &str, why: impl Into<String>) -> Self {
        Self::Unsupported { token: token.to_owned(), label: label.to_owned(), why: why.into() }
    }
}
