//! `enforcer`: mutual TLS with workload identities for every TCP connection of a node's enrolled workloads.
//!
//! Layers point one way: `cli` -> `agent` -> {`connection`, `identity`, `control`, `observe`} -> `kernel` -> the
//! types that are shared with the eBPF programs. Identity and policy types depend on nothing; `ca` is used where a
//! certificate is issued, and nowhere else.

pub mod agent;
pub mod ca;
pub mod cli;
pub mod connection;
pub mod control;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod identity;
pub mod kernel;
pub mod observe;
pub mod protocol;
pub mod wire;
