//! The vendor's library, once for the process.
//!
//! C_Initialize is for the whole process, so a module is loaded once, whoever asks for it and by which path, and never
//! finalized: that would end everybody's sessions. It stays loaded until the process ends.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11 as Context};
use cryptoki::error::{Error as Cause, RvError};

use super::Error;

static LOADED: Mutex<Vec<(PathBuf, Context)>> = Mutex::new(Vec::new());

/// The module in a file, initialized.
pub(super) fn load(module: &Path) -> Result<Context, Error> {
    let path = module.canonicalize().map_err(|cause| Error::NoModule { module: module.to_owned(), cause })?;
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, context)) = loaded.iter().find(|(known, _)| *known == path) {
        return Ok(context.clone());
    }
    let context = Context::new(&path).map_err(|cause| Error::Module { module: module.to_owned(), cause })?;
    initialize(&context, module)?;
    loaded.push((path, context.clone()));
    Ok(context)
}

/// Initializes it, if it is not: somebody else in this process may have finalized it.
pub(super) fn initialize(context: &Context, module: &Path) -> Result<(), Error> {
    match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Cause::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
        Err(cause) => Err(Error::Initialize { module: module.to_owned(), cause }),
    }
}
