//! Which path a connection takes: a pure function of what is known before a byte is read.

use enforcer_ebpf::Reason;

use crate::control::snapshot::{Mode, Speaks};
use crate::identity::Identity;
use crate::identity::tls::Alpn;
use crate::observe::events::{Direction, Path};

/// What is done with a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Mutual TLS with a peer that must prove this identity.
    Relay(Expected),
    /// Carried in the clear, for this reason.
    Plain(Reason),
    /// Reset, for this reason.
    Refuse(Reason),
}

/// Who the other end must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The one SPIFFE ID in its certificate.
    pub identity: Identity,
    /// Whether it has an agent of ours.
    pub alpn: Alpn,
}

impl Choice {
    /// The path, as the record has it.
    #[must_use]
    pub fn path(&self) -> Path {
        match self {
            Self::Relay(_) => Path::Relay,
            Self::Plain(_) => Path::Plain,
            Self::Refuse(_) => Path::Refused,
        }
    }

    /// Why this path.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Relay(_) => Reason::PeerEnrolled,
            Self::Plain(reason) | Self::Refuse(reason) => *reason,
        }
    }
}

/// Decides. `peer` is what the registry knows of the other end's address, if anything.
#[must_use]
pub fn choose(direction: Direction, mode: Mode, peer: Option<&Speaks>) -> Choice {
    match (peer, direction, mode) {
        (Some(Speaks::Enforcer(identity)), _, _) => relay(identity, Alpn::Enforcer),
        (Some(Speaks::Mtls(identity)), _, _) => relay(identity, Alpn::None),
        (Some(Speaks::Plaintext), _, Mode::Strict) => Choice::Refuse(Reason::StrictPlaintextPeer),
        (Some(Speaks::Plaintext), _, Mode::Permissive) => Choice::Plain(Reason::PermissivePlaintextPeer),
        // The program sends only registered destinations here.
        (None, Direction::Outbound, _) => Choice::Refuse(Reason::DestinationUnknown),
        (None, Direction::Inbound, Mode::Strict) => Choice::Refuse(Reason::StrictUnknownSource),
        (None, Direction::Inbound, Mode::Permissive) => Choice::Plain(Reason::PermissiveUnknownSource),
    }
}

fn relay(identity: &Identity, alpn: Alpn) -> Choice {
    Choice::Relay(Expected { identity: identity.clone(), alpn })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_has_its_choice() {
        use Direction::{Inbound, Outbound};
        use Mode::{Permissive, Strict};
        let identity: Identity = "spiffe://example.org/ns/default/sa/db".parse().unwrap();
        let ours = Speaks::Enforcer(identity.clone());
        let foreign = Speaks::Mtls(identity.clone());
        for direction in [Inbound, Outbound] {
            for mode in [Strict, Permissive] {
                assert_eq!(choose(direction, mode, Some(&ours)), relay(&identity, Alpn::Enforcer));
                assert_eq!(choose(direction, mode, Some(&foreign)), relay(&identity, Alpn::None));
            }
            let plain = |mode| choose(direction, mode, Some(&Speaks::Plaintext));
            assert_eq!(plain(Strict), Choice::Refuse(Reason::StrictPlaintextPeer));
            assert_eq!(plain(Permissive), Choice::Plain(Reason::PermissivePlaintextPeer));
        }
        let unknown = [
            (Inbound, Strict, Choice::Refuse(Reason::StrictUnknownSource)),
            (Inbound, Permissive, Choice::Plain(Reason::PermissiveUnknownSource)),
            (Outbound, Strict, Choice::Refuse(Reason::DestinationUnknown)),
            (Outbound, Permissive, Choice::Refuse(Reason::DestinationUnknown)),
        ];
        for (direction, mode, expected) in unknown {
            assert_eq!(choose(direction, mode, None), expected, "{direction:?} {mode:?}");
        }
    }
}
