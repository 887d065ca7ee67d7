//! What agents, operators and control say to each other: made from `proto/` by `build.rs`.

#[expect(
    missing_docs,
    unused_qualifications,
    clippy::too_many_lines,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
mod generated {
    tonic::include_proto!("enforcer.control.v1");
}

pub use generated::*;

/// Octets of one message, either way: a bundle and its revocation lists are the longest. A list with 20,000 entries has
/// less than 1 MiB.
pub const LONGEST_MESSAGE: usize = 4 * 1024 * 1024;
