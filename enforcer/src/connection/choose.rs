//! Which path a connection takes: a pure function of what is known before a byte is read.

use std::net::SocketAddr;

use enforcer_ebpf::Reason;

use crate::control::policy::{Refusal, Verdict};
use crate::control::snapshot::{Mode, Peer, Speaks, WantedPath};
use crate::identity::Identity;
use crate::identity::tls::Alpn;
use crate::kernel::netns::Namespace;
use crate::kernel::probe::Abilities;
use crate::observe::events::{Direction, Path};

/// What is done with a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Mutual TLS with a peer that must prove this identity, through the relay for this reason.
    Relay(Expected, Reason),
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
    /// Whether it speaks through an agent of ours.
    pub alpn: Alpn,
    /// Where that agent takes pair sessions, if it does.
    pub agent: Option<SocketAddr>,
}

impl Choice {
    /// The same, as far as rules let it be: they can only refuse.
    #[must_use]
    pub fn ruled(self, verdict: Verdict) -> Self {
        match (self, verdict) {
            (Self::Relay(..) | Self::Plain(_), Verdict::Refused(refusal)) => Self::Refuse(refused(refusal)),
            (choice, _) => choice,
        }
    }

    /// Whether a connection that was let be by this choice may go on where the same one would now have that choice: to
    /// whom it is encrypted is who is expected now, and in the clear is what may be. One that was refused ends by itself.
    #[must_use]
    pub fn goes_on_by(&self, now: &Self) -> bool {
        match (self, now) {
            (Self::Refuse(_), _) | (Self::Plain(_), Self::Plain(_)) => true,
            (Self::Relay(was, _), Self::Relay(is, _)) => was.identity == is.identity,
            _ => false,
        }
    }

    /// The path, as the record has it.
    #[must_use]
    pub fn path(&self) -> Path {
        match self {
            Self::Relay(..) => Path::Relay,
            Self::Plain(_) => Path::Plain,
            Self::Refuse(_) => Path::Refused,
        }
    }

    /// Why this path.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Relay(_, reason) | Self::Plain(reason) | Self::Refuse(reason) => *reason,
        }
    }
}

/// The reason that a refusal by rules is recorded with.
#[must_use]
pub fn refused(refusal: Refusal) -> Reason {
    match refusal {
        Refusal::Denied => Reason::PolicyDenied,
        Refusal::NotAllowed => Reason::PolicyNotAllowed,
    }
}

/// Which path a workload's connections can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// Direct, where the peer has an agent.
    Direct,
    /// The relay alone, for this reason.
    Relay(Reason),
}

/// Where a workload's sockets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// In a network namespace that is not the host's.
    OwnNamespace,
    /// In the host's. A gate would need a sysctl there that every other program would feel.
    HostNamespace,
}

impl Site {
    /// Of a workload in this namespace.
    #[must_use]
    pub fn of(namespace: &Namespace) -> Self {
        if namespace.is_own() { Self::HostNamespace } else { Self::OwnNamespace }
    }
}

/// What this kernel makes of direct connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// It can, and loses nothing.
    Able,
    /// It can, and may lose the end of what a program writes without blocking and then closes at once.
    LosesTheEnd,
    /// It cannot.
    Unable,
}

impl Kernel {
    /// From what was probed.
    #[must_use]
    pub fn of(abilities: &Abilities) -> Self {
        match (abilities.direct(), abilities.direct_loses_nothing()) {
            (Err(_), _) => Self::Unable,
            (Ok(()), Err(_)) => Self::LosesTheEnd,
            (Ok(()), Ok(())) => Self::Able,
        }
    }
}

/// What is known of a workload's programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Programs {
    /// Nothing.
    Unknown,
    /// One has closed a direct connection after MSG_MORE, and kernel TLS has dropped what it wrote last.
    LoseTheEnd,
}

/// Decides for each workload, and again when one of its programs has lost data. Without being told, no program is put on
/// a path that could lose its data.
#[must_use]
pub fn means(wanted: WantedPath, (kernel, programs): (Kernel, Programs), site: Site) -> Means {
    match (wanted, kernel, site) {
        (WantedPath::Relay, _, _) => Means::Relay(Reason::RelayWanted),
        (_, Kernel::Unable, _) => Means::Relay(Reason::KernelUnable),
        (_, _, Site::HostNamespace) => Means::Relay(Reason::HostNamespace),
        (WantedPath::Auto, Kernel::LosesTheEnd, _) => Means::Relay(Reason::KernelLosesTheEnd),
        (WantedPath::Auto, Kernel::Able, _) if programs == Programs::LoseTheEnd => {
            Means::Relay(Reason::ProgramLosesTheEnd)
        }
        (WantedPath::Auto, Kernel::Able, _) | (WantedPath::Direct, _, _) => Means::Direct,
    }
}

/// Decides about a connection that has come to the agent, because it is not direct. `peer` is what the registry knows
/// of the other end's address, if anything.
#[must_use]
pub fn choose(direction: Direction, workload: Wants, peer: Option<&Peer>) -> Choice {
    let choice = match (peer.map(|peer| &peer.speaks), direction, workload.mode) {
        (Some(Speaks::Enforcer(identity)), _, _) => {
            let why = match workload.means {
                Means::Relay(reason) => reason,
                Means::Direct => Reason::PeerWithoutAgent,
            };
            let agent = peer.and_then(|peer| peer.agent);
            Choice::Relay(Expected { identity: identity.clone(), alpn: Alpn::Enforcer, agent }, why)
        }
        (Some(Speaks::Mtls(identity)), _, _) => {
            Choice::Relay(Expected { identity: identity.clone(), alpn: Alpn::None, agent: None }, Reason::PeerForeign)
        }
        (Some(Speaks::Plaintext), _, Mode::Strict | Mode::Off) => Choice::Refuse(Reason::StrictPlaintextPeer),
        (Some(Speaks::Plaintext), _, Mode::Permissive) => Choice::Plain(Reason::PermissivePlaintextPeer),
        // The program sends only registered destinations here.
        (None, Direction::Outbound, _) => Choice::Refuse(Reason::DestinationUnknown),
        (None, Direction::Inbound, Mode::Strict | Mode::Off) => Choice::Refuse(Reason::StrictUnknownSource),
        (None, Direction::Inbound, Mode::Permissive) => Choice::Plain(Reason::PermissiveUnknownSource),
    };
    match (choice, workload.path) {
        (Choice::Relay(..), WantedPath::Direct) => Choice::Refuse(Reason::DirectImpossible),
        (choice, _) => choice,
    }
}

/// What a workload wants and can have.
#[derive(Clone, Copy, Debug)]
pub struct Wants {
    /// What happens to connections that cannot be mutual TLS.
    pub mode: Mode,
    /// Which path its connections are to take.
    pub path: WantedPath,
    /// Which path they can take.
    pub means: Means,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(speaks: Speaks) -> Peer {
        Peer { name: "peer".into(), addresses: Vec::new(), speaks, agent: None }
    }

    fn relay(identity: &Identity, alpn: Alpn, why: Reason) -> Choice {
        Choice::Relay(Expected { identity: identity.clone(), alpn, agent: None }, why)
    }

    #[test]
    fn every_combination_has_its_choice() {
        use Direction::{Inbound, Outbound};
        use Mode::{Permissive, Strict};
        let wants = |mode| Wants { mode, path: WantedPath::Auto, means: Means::Relay(Reason::KernelUnable) };
        let identity: Identity = "spiffe://example.org/ns/default/sa/db".parse().unwrap();
        let ours = peer(Speaks::Enforcer(identity.clone()));
        let foreign = peer(Speaks::Mtls(identity.clone()));
        for direction in [Inbound, Outbound] {
            for mode in [Strict, Permissive] {
                let expected = relay(&identity, Alpn::Enforcer, Reason::KernelUnable);
                assert_eq!(choose(direction, wants(mode), Some(&ours)), expected);
                let expected = relay(&identity, Alpn::None, Reason::PeerForeign);
                assert_eq!(choose(direction, wants(mode), Some(&foreign)), expected);
            }
            let plain = |mode| choose(direction, wants(mode), Some(&peer(Speaks::Plaintext)));
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
            assert_eq!(choose(direction, wants(mode), None), expected, "{direction:?} {mode:?}");
        }
    }

    #[test]
    fn rules_refuse_and_never_let_pass() {
        let denied = Verdict::Refused(Refusal::Denied);
        let plain = Choice::Plain(Reason::PermissiveUnknownSource);
        assert_eq!(plain.clone().ruled(denied), Choice::Refuse(Reason::PolicyDenied));
        let not_allowed = Verdict::Refused(Refusal::NotAllowed);
        assert_eq!(plain.clone().ruled(not_allowed), Choice::Refuse(Reason::PolicyNotAllowed));
        assert_eq!(plain.clone().ruled(Verdict::Audited(Refusal::Denied)), plain);
        for verdict in [Verdict::Allowed, denied] {
            let refused = Choice::Refuse(Reason::StrictUnknownSource);
            assert_eq!(refused.clone().ruled(verdict), refused, "the mode has spoken");
        }
    }

    #[test]
    fn what_is_open_goes_on_with_whom_it_was_opened_to() {
        let [db, other] = ["db", "other"].map(|name| format!("spiffe://example.org/{name}").parse().unwrap());
        let to_db = relay(&db, Alpn::Enforcer, Reason::KernelUnable);
        let with_agent = Choice::Relay(
            Expected { identity: db.clone(), alpn: Alpn::Enforcer, agent: "192.0.2.7:1".parse().ok() },
            Reason::PeerWithoutAgent,
        );
        let plain = Choice::Plain(Reason::PermissivePlaintextPeer);
        let refused = Choice::Refuse(Reason::StrictPlaintextPeer);
        assert!(to_db.goes_on_by(&with_agent) && to_db.goes_on_by(&relay(&db, Alpn::None, Reason::PeerForeign)));
        for other in [relay(&other, Alpn::Enforcer, Reason::KernelUnable), plain.clone(), refused.clone()] {
            assert!(!to_db.goes_on_by(&other), "{other:?}");
        }
        assert!(plain.goes_on_by(&Choice::Plain(Reason::PermissiveUnknownSource)));
        assert!(!plain.goes_on_by(&to_db) && !plain.goes_on_by(&refused));
        assert!(refused.goes_on_by(&to_db) && refused.goes_on_by(&refused));
    }

    #[test]
    fn a_workload_that_wants_direct_connections_gets_no_other() {
        let identity: Identity = "spiffe://example.org/ns/default/sa/db".parse().unwrap();
        let wants = Wants { mode: Mode::Permissive, path: WantedPath::Direct, means: Means::Direct };
        for speaks in [Speaks::Enforcer(identity.clone()), Speaks::Mtls(identity)] {
            let choice = choose(Direction::Outbound, wants, Some(&peer(speaks)));
            assert_eq!(choice, Choice::Refuse(Reason::DirectImpossible));
        }
    }

    #[test]
    fn direct_needs_a_willing_policy_an_able_kernel_and_a_namespace() {
        let refused = |reason| Means::Relay(reason);
        let cases = [
            (WantedPath::Auto, Kernel::Able, Site::OwnNamespace, Means::Direct),
            (WantedPath::Auto, Kernel::LosesTheEnd, Site::OwnNamespace, refused(Reason::KernelLosesTheEnd)),
            (WantedPath::Direct, Kernel::LosesTheEnd, Site::OwnNamespace, Means::Direct),
            (WantedPath::Relay, Kernel::Able, Site::OwnNamespace, refused(Reason::RelayWanted)),
            (WantedPath::Auto, Kernel::Unable, Site::OwnNamespace, refused(Reason::KernelUnable)),
            (WantedPath::Auto, Kernel::Able, Site::HostNamespace, refused(Reason::HostNamespace)),
            (WantedPath::Direct, Kernel::Unable, Site::HostNamespace, refused(Reason::KernelUnable)),
        ];
        for (wanted, kernel, site, expected) in cases {
            let found = means(wanted, (kernel, Programs::Unknown), site);
            assert_eq!(found, expected, "{wanted:?} {kernel:?} {site:?}");
        }
        let lossy = (Kernel::Able, Programs::LoseTheEnd);
        assert_eq!(means(WantedPath::Auto, lossy, Site::OwnNamespace), refused(Reason::ProgramLosesTheEnd));
        assert_eq!(means(WantedPath::Direct, lossy, Site::OwnNamespace), Means::Direct, "it was asked for");
    }
}
