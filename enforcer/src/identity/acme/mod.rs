//! Certificates for public names: this node asks an authority that everybody trusts, by ACME (RFC 8555).
//!
//! ```text
//! names      what is known of each name: what connections are answered with, and what an operator is shown
//! keeper     the one writer: asks for a certificate, again at two thirds of its life, later after an error
//! shelf      what is kept in the state directory
//! account    who asks
//! order      one certificate: order, proof, request, chain
//! challenge  the proof: TLS-ALPN-01 (RFC 8737), answered on the workload's own port
//! chain      what came is checked before it is used, and so is what was kept
//! http       how the authority is spoken to: bounded in size and time
//! ```
//!
//! Here keys are on a disk, which those of identities never are: public authorities limit how often one may ask, so an
//! agent that starts again must not have to. They open nothing in the mesh. A certificate has one name and a key of its own,
//! and is used until it ends, however long the authority is away.
//!
//! Nothing that the authority sends is trusted beyond its purpose: it is bounded, checked, and shown only in printable form.

mod account;
mod chain;
mod challenge;
mod error;
mod http;
mod keeper;
mod names;
mod order;
mod pace;
mod shelf;

pub use chain::Held;
pub use error::Error;
pub use keeper::Keeper;
pub use names::{Known, Names};

use std::path::Path;

use crate::control::snapshot::Acme;
use shelf::Shelf;

/// Reads what is kept for these names in the state directory. Nobody is asked for anything before [`Keeper::run`].
///
/// # Errors
///
/// [`Error::Directory`], when nothing could be kept there. A file that cannot be used is told of its name by [`Names`].
pub fn open(acme: &Acme, names: Vec<String>, state: &Path) -> Result<(Names, Keeper), Error> {
    let shelf = Shelf::open(state, &acme.directory)?;
    let (writer, known) = Names::new();
    Ok((known, Keeper::new(acme.clone(), names, shelf, writer)))
}

#[cfg(fuzzing)]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
