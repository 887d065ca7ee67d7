//! THE PATH OF AN IDENTITY.
//!
//! `name` is what an identity is; `serial` what a certificate is known by. `request` makes a key that never leaves this process and asks the authority for a
//! certificate; the answer is checked before anybody sees it. `store` holds the current credentials of every workload
//! of this node, `roster` says who they are, and `rotate` renews them at half life. `tls` turns credentials into handshakes, whose other end `verify`
//! pins to whom it expects; `pair` is about those between two agents; `reason` says why a handshake failed. `workload_api`
//! gives workloads that ask for it a certificate of their own; `workload_source` has the agent's own from somebody else's.
//! `acme` is about clients that have no identity: certificates for public names, from an authority that they trust.

pub mod acme;
pub mod client;
pub mod federation;
#[cfg(test)]
pub(crate) mod fixture;
pub mod name;
pub mod pair;
pub(crate) mod plain;
mod reason;
pub(crate) mod request;
pub mod roster;
mod rotate;
mod serial;
pub mod source;
pub mod store;
pub mod tls;
pub mod trust;
pub mod verify;
pub mod workload_api;
pub mod workload_source;

pub use name::Identity;
pub use reason::{reason_of, reason_of_io};
pub use request::Error;
pub use rotate::start;
pub use serial::Serial;
pub use verify::{proven, verify_at};

#[cfg(fuzzing)]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
