//! What is wanted: from files to an immutable [`Snapshot`](snapshot::Snapshot).
//!
//! ```text
//! file.rs      `load`: reads the bytes, takes these steps, prints what they found
//!   yaml.rs    -> trees with positions     no alias, no tag, no duplicate key, bounded
//!   object.rs  -> objects, one by one      fields taken by field.rs, values checked by scalar.rs, none left over
//!     public.rs  -> its part about clients   who may come without a certificate, and under which names
//!   host.rs    what only this host knows   cgroup2 directories, namespaces
//!   index.rs   -> snapshot.rs              what holds among objects: names, prefixes, ports, cgroups, policies
//! ```
//!
//! `difference.rs` compares two snapshots, for whoever puts a change in force.
//! `issuing.rs` reads the file of `enforcer control` in the same way.
//!
//! Each step adds to one list of [`Problem`](problem::Problem)s instead of stopping at the first, so that whoever edits
//! the file sees all mistakes at once, each with its position. A file with a problem gives no snapshot at all:
//! nothing is ignored, nothing is guessed, the last good snapshot stays in force.
//!
//! Nothing in here talks to the network or to the kernel's programs; the agent applies a snapshot.

pub mod snapshot;

pub mod difference;

pub mod policy;

pub mod file;
pub mod issuing;
pub mod problem;

mod yaml;

mod field;
mod scalar;

mod object;
mod public;

mod host;
mod index;

#[cfg(fuzzing)]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
