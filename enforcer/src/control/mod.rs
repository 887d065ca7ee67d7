//! What is wanted: from files to an immutable [`Snapshot`](snapshot::Snapshot).
//!
//! ```text
//! file.rs      bytes of the file            `load`: read, then all of the below
//!   yaml.rs    -> trees with positions      no alias, no tag, no duplicate key, bounded
//!   object.rs  -> objects, one by one       every field checked, unknown fields refused
//!   index.rs   -> Snapshot                  what only holds among objects: names, prefixes, ports, cgroups
//!   host.rs                                 what only this host knows: cgroup2 directories, namespaces
//! ```
//!
//! Every step adds to one list of [`Problem`](problem::Problem)s instead of stopping at the first, so that whoever
//! edits the file sees all mistakes at once, each with its position. A file with a problem gives no snapshot at all:
//! nothing is ignored, nothing is guessed, the last good snapshot stays in force.
//!
//! Nothing in here talks to the network or to the kernel's programs; the agent applies a snapshot.

pub mod snapshot;
