//! Everything that talks to the kernel: all system calls and all `unsafe` of the agent.
//!
//! `netns` and `cgroup` say what a workload is to the kernel; `socket` makes sockets inside its namespace; `bpf` loads
//! the programs, pins them and keeps their maps. For the direct path `process` reaches an application's own socket,
//! `ktls` puts the record layer under it, and `restart` makes threads that wait in it notice; for the relay `ktls` moves
//! a session's record layer into the kernel. `destroy` ends connections from outside; `probe` finds out what this
//! kernel can do; `harden` keeps others from looking into a process that holds keys, `limits` and `memory` are this
//! process's own; `changes` tells when a file may be another one, `addresses` which ones a namespace has, `connected` which
//! connections (`sock_diag` is what all questions about sockets have in common). For `enforcer verify`, `inside` starts a
//! program as one of a workload, and `packets` captures what a connection puts on the wire. Nothing here knows about policy
//! or certificates.

#![expect(unsafe_code, reason = "system calls that no library wraps; each block has its reason")]

pub mod addresses;
pub mod bpf;
pub mod caller;
pub mod cgroup;
pub mod changes;
pub mod connected;
pub mod destroy;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
pub mod harden;
pub mod inside;
pub mod ktls;
pub mod limits;
pub mod memory;
pub mod netns;
pub mod packets;
pub mod probe;
pub mod process;
pub mod restart;
mod sock_diag;
pub mod socket;
