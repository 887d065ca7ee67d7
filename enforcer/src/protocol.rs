//! What agents, operators and control say to each other, and agents and workloads: made from `proto/` by `build.rs`.

#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated"
)]
mod generated {
    tonic::include_proto!("enforcer.control.v1");
}

mod entered;

pub(crate) use entered::Entered;
pub use generated::*;

/// Octets of one message, either way: a bundle and its revocation lists are the longest. A list with 20,000 entries has
/// less than 1 MiB.
pub const LONGEST_MESSAGE: usize = 4 * 1024 * 1024;

/// The SPIFFE Workload API, from the protocol file of its standard.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated"
)]
pub mod workload {
    // The file has no package, so its module has no name.
    tonic::include_proto!("_");

    /// What it includes.
    pub mod google {
        /// As the including code finds it.
        pub mod protobuf {
            tonic::include_proto!("google.protobuf");
        }
    }
}
