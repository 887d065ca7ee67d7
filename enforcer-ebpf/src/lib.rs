//! The types that the eBPF programs and the agent share, and the numbered reasons.
//!
//! Everything here is `no_std` plain data: `repr(C)`, no implicit padding (checked below), no Rust enums in map
//! values. The agent reads integers out of the maps and turns them into types with `TryFrom`.

#![no_std]

mod missed;
mod reason;
mod terms;
mod wire;

pub use missed::{Missed, MissedKey};
pub use reason::{Reason, UnknownReason};
pub use terms::*;
pub use wire::*;
