//! The way to a token: found by its label, one session in which the user is logged in, one call at a time.
//!
//! A session that fails is closed, and the next call opens another. Where the failure says that the session, the login
//! or the token was lost, the call itself is tried once more with a new one, so a token that was reset is not noticed.
//! The token is looked for again by its label then: it may be back in another slot.

use std::collections::HashMap;
use std::path::PathBuf;

use cryptoki::context::Pkcs11 as Context;
use cryptoki::error::{Error as Cause, RvError};
use cryptoki::object::ObjectHandle;
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::RawAuthPin;

use super::turn::{PATIENCE, Turn};
use super::{Config, Error, KeysError, Passphrase, module};

/// A token that has been found once.
pub(super) struct Token {
    context: Context,
    module: PathBuf,
    label: String,
    pin: Passphrase,
    state: Turn<State>,
}

#[derive(Default)]
struct State {
    open: Option<Open>,
    refused: Option<Refused>,
}

/// What the token has said to the PIN.
#[derive(Clone, Copy)]
enum Refused {
    Wrong,
    Locked,
}

/// A session in which the user is logged in.
pub(super) struct Open {
    /// Where keys are asked for.
    pub(super) session: Session,
    /// What the token is asked about.
    pub(super) context: Context,
    /// The token.
    pub(super) slot: Slot,
    /// Its label.
    pub(super) token: String,
    /// Private keys that have signed in this session, by CKA_ID. As many as the authority has.
    pub(super) handles: HashMap<Vec<u8>, ObjectHandle>,
}

impl Open {
    /// Who is not sees no private key, and would take each for missing.
    fn is_logged_in(&self) -> bool {
        let info = self.session.get_session_info();
        info.is_ok_and(|info| matches!(info.session_state(), SessionState::RwUser | SessionState::RoUser))
    }
}

/// Work in a session has failed.
pub(super) enum Failure {
    /// In a call of the module.
    Call(&'static str, Cause),
    /// Because of what was found.
    Found(KeysError),
}

impl From<KeysError> for Failure {
    fn from(error: KeysError) -> Self {
        Self::Found(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Found(error.into())
    }
}

/// Names the call that failed.
pub(super) fn calling(operation: &'static str) -> impl FnOnce(Cause) -> Failure {
    move |cause| Failure::Call(operation, cause)
}

impl Token {
    /// Finds the token and logs in. Blocks.
    pub(super) fn open(config: Config) -> Result<Self, KeysError> {
        let Config { module, token: label, pin } = config;
        let context = module::load(&module)?;
        let token = Self { context, module, label, pin, state: Turn::new(State::default()) };
        token.with(|_open| Ok(()))?;
        Ok(token)
    }

    /// Its label.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// Works in the session, when it is this thread's turn. Blocks. The work may be done twice: the first time is one
    /// that the token has lost.
    pub(super) fn with<T>(&self, work: impl Fn(&mut Open) -> Result<T, Failure>) -> Result<T, KeysError> {
        let result = self.state.take(PATIENCE, |state| match self.attempt(state, &work) {
            Err(Failure::Call(_, cause)) if is_lost(&cause) => self.attempt(state, &work),
            result => result,
        });
        let result = result.unwrap_or_else(|| Err(Error::Busy { token: self.label.clone() }.into()));
        result.map_err(|failure| match failure {
            Failure::Found(error) => error,
            Failure::Call(operation, cause) => self.describe(operation, cause).into(),
        })
    }

    fn attempt<T>(&self, state: &mut State, work: &impl Fn(&mut Open) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut open = match state.open.take() {
            Some(open) if open.is_logged_in() => open,
            _ => self.connect(&mut state.refused)?,
        };
        let result = work(&mut open);
        // After a failed call nobody knows what state the session is in; a panic has taken it away, too.
        if !matches!(result, Err(Failure::Call(..))) {
            state.open = Some(open);
        }
        result
    }

    fn connect(&self, refused: &mut Option<Refused>) -> Result<Open, Failure> {
        if let Some(refused) = *refused {
            return Err(self.refusal(refused).into());
        }
        module::initialize(&self.context, &self.module)?;
        let slot = self.find()?;
        let session = self.context.open_rw_session(slot).map_err(calling("open a session"))?;
        self.login(&session, slot, refused)?;
        let (context, token) = (self.context.clone(), self.label.clone());
        Ok(Open { session, context, slot, token, handles: HashMap::new() })
    }

    /// The slot with the token.
    fn find(&self) -> Result<Slot, Failure> {
        let mut labels = Vec::new();
        let mut found = Vec::new();
        for slot in self.context.get_slots_with_token().map_err(calling("list tokens"))? {
            // One that is taken away meanwhile is not there.
            let Ok(info) = self.context.get_token_info(slot) else { continue };
            if info.token_initialized() {
                labels.push(info.label().to_owned());
            }
            if info.token_initialized() && info.label() == self.label {
                found.push(slot);
            }
        }
        let (token, module) = (self.label.clone(), self.module.clone());
        match found[..] {
            [slot] => Ok(slot),
            [] => {
                let present = if labels.is_empty() { "none".to_owned() } else { labels.join(", ") };
                Err(Error::NoToken { token, module, present }.into())
            }
            _ => Err(Error::SeveralTokens { token, module, count: found.len() }.into()),
        }
    }

    fn login(&self, session: &Session, slot: Slot, refused: &mut Option<Refused>) -> Result<(), Failure> {
        let info = self.context.get_token_info(slot).map_err(calling("look at the token"))?;
        let token = || self.label.clone();
        if info.user_pin_locked() {
            return Err(Error::PinLocked { token: token() }.into());
        }
        // Who restarts a program that fails would use it up.
        if info.user_pin_final_try() {
            return Err(Error::LastTry { token: token() }.into());
        }
        let pin = RawAuthPin::new(Box::new(self.pin.octets().to_vec()));
        let Err(cause) = session.login_with_raw(UserType::User, &pin) else { return Ok(()) };
        let reason = match cause {
            Cause::Pkcs11(RvError::UserAlreadyLoggedIn, _) => return Ok(()),
            Cause::Pkcs11(RvError::UserPinNotInitialized, _) => return Err(Error::NoPin { token: token() }.into()),
            Cause::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _) => Refused::Wrong,
            Cause::Pkcs11(RvError::PinLocked, _) => Refused::Locked,
            cause => return Err(Failure::Call("log in", cause)),
        };
        *refused = Some(reason);
        Err(self.refusal(reason).into())
    }

    fn refusal(&self, refused: Refused) -> Error {
        let token = self.label.clone();
        match refused {
            Refused::Wrong => Error::WrongPin { token },
            Refused::Locked => Error::PinLocked { token },
        }
    }

    fn describe(&self, operation: &'static str, cause: Cause) -> Error {
        let token = self.label.clone();
        if is_lost(&cause) { Error::Lost { operation, token, cause } } else { Error::Call { operation, token, cause } }
    }
}

/// Whether a new session may help. A handle of a private key is lost with the login.
fn is_lost(cause: &Cause) -> bool {
    matches!(
        cause,
        Cause::Pkcs11(
            RvError::SessionHandleInvalid
                | RvError::SessionClosed
                | RvError::UserNotLoggedIn
                | RvError::KeyHandleInvalid
                | RvError::ObjectHandleInvalid
                | RvError::OperationActive
                | RvError::DeviceError
                | RvError::DeviceRemoved
                | RvError::TokenNotPresent
                | RvError::SlotIdInvalid
                | RvError::CryptokiNotInitialized,
            _
        )
    )
}
