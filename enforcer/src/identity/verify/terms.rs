//! On what terms a chain is judged.

use rustls::pki_types::UnixTime;
use webpki::KeyUsage;

use super::anchors::Anchors;
use super::expected::Expected;
use super::revocations::Revocations;

/// What a chain is held against. The clock is one of its parts, so that the same question has the same answer.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The trust bundle.
    pub anchors: &'a Anchors,
    /// What has been revoked; `None` asks nobody.
    pub revocations: Option<&'a Revocations>,
    /// When.
    pub now: UnixTime,
    /// As what the workload appears.
    pub role: Role,
    /// Who it may be.
    pub expected: &'a Expected,
}

/// The end of a connection that a certificate is to be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one that opens it.
    Client,
    /// The one that accepts it.
    Server,
    /// Either.
    Both,
}

impl Role {
    /// Whether it is enough to be allowed these.
    pub(super) fn is_met(self, client: bool, server: bool) -> bool {
        match self {
            Self::Client => client,
            Self::Server => server,
            Self::Both => client && server,
        }
    }

    /// webpki can be asked for one. For both, our own look at every certificate of the path has already asked for the
    /// other, so one search is enough.
    pub(super) fn usage(self) -> KeyUsage {
        match self {
            Self::Client => KeyUsage::client_auth(),
            Self::Server | Self::Both => KeyUsage::server_auth(),
        }
    }
}
