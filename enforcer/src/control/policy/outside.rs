//! What a workload may send that is not mutual TLS: `outbound.plaintext`. One pure function, [`Policy::beyond`]; what
//! programs look up is compiled from it (`terms`), so that both decide alike.
//!
//! 1. A `deny` rule matches: refused.
//! 2. A `plaintext` rule matches: it passes.
//! 3. The mode is permissive: it passes, unless there are `allow` rules and none matches; the reason is recorded.
//! 4. A policy under audit has `plaintext` rules: it passes, and is recorded if none of them matches.
//! 5. Otherwise it is refused.
//!
//! TCP to a peer never comes here: that is mutual TLS, or what the mode lets pass. UDP to an enrolled peer passes only by a
//! rule that says `toPeers`, because one that was meant for the world would be plaintext inside the mesh.

use std::net::IpAddr;
use std::sync::Arc;

use enforcer_ebpf::{
    EGRESS_AUDIT, EGRESS_DENY, EGRESS_NOT_ALLOWED, EGRESS_PASS, EGRESS_PERMISSIVE, EGRESS_REFUSE, Reason,
};
use ipnet::IpNet;

use super::rule::{Ports, Rule};
use super::{Counting, Policy};
use crate::control::snapshot::Mode;

/// A rule that lets pass what is not mutual TLS. An empty list holds for everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plaintext {
    /// `POLICY/outbound.plaintext/RULE`.
    pub name: Arc<str>,
    /// The same without the last part.
    pub list: Arc<str>,
    /// It belongs to a policy that only tells what it would refuse.
    pub audit: bool,
    /// Where to.
    pub addresses: Vec<IpNet>,
    /// To which ports.
    pub ports: Vec<Ports>,
    /// In which protocols.
    pub protocols: Vec<Protocol>,
    /// Datagrams to enrolled peers too.
    pub to_peers: bool,
}

/// What is carried in IP, as far as rules tell it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP, to destinations that no peer has.
    Tcp,
    /// UDP.
    Udp,
    /// All others: raw sockets, ICMP, SCTP, MPTCP.
    Other,
}

/// What wants to leave a workload without mutual TLS.
#[derive(Clone, Copy, Debug)]
pub struct Departure {
    /// How; [`Protocol::Other`] is judged when the socket is made, by [`Policy::others`].
    pub protocol: Protocol,
    /// Where to.
    pub address: IpAddr,
    /// The port there.
    pub port: u16,
    /// An enrolled peer has the address.
    pub to_peer: bool,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passes by a rule.
    Passes,
    /// It passes, and would not if the rules under audit were in force.
    Audited,
    /// It passes because the mode is permissive.
    Permissive,
    /// No rule lets it pass.
    Refused,
    /// A rule denies it.
    Denied,
    /// There are rules that allow, and none allows it.
    NotAllowed,
}

impl Outcome {
    /// Its number for the programs.
    #[must_use]
    pub fn action(self) -> u8 {
        match self {
            Self::Passes => EGRESS_PASS,
            Self::Audited => EGRESS_AUDIT,
            Self::Permissive => EGRESS_PERMISSIVE,
            Self::Refused => EGRESS_REFUSE,
            Self::Denied => EGRESS_DENY,
            Self::NotAllowed => EGRESS_NOT_ALLOWED,
        }
    }

    /// Whether it leaves.
    #[must_use]
    pub fn passes(self) -> bool {
        matches!(self, Self::Passes | Self::Audited | Self::Permissive)
    }

    /// The reason that it is counted with.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::Passes => Reason::PlaintextAllowed,
            Self::Audited => Reason::EgressAudited,
            Self::Permissive => Reason::PermissiveUnknownDestination,
            Self::Refused => Reason::EgressRefused,
            Self::Denied => Reason::PolicyDenied,
            Self::NotAllowed => Reason::PolicyNotAllowed,
        }
    }
}

/// With the rule that decided, if there is one.
pub type Beyond = (Outcome, Option<Arc<str>>);

impl Policy {
    /// Decides about what wants to leave without mutual TLS.
    #[must_use]
    pub fn beyond(&self, departure: &Departure) -> Beyond {
        let Departure { protocol, address, port, to_peer } = *departure;
        if protocol == Protocol::Other {
            return self.others();
        }
        self.beyond_within(protocol, &IpNet::from(address.to_canonical()), port, to_peer)
    }

    /// The same for every address of a prefix that no rule tells apart.
    pub(super) fn beyond_within(&self, protocol: Protocol, prefix: &IpNet, port: u16, to_peer: bool) -> Beyond {
        let proves_nothing = |rule: &&Arc<Rule>| rule.matches_within(None, prefix, port);
        let counts = |counting| move |rule: &&Arc<Rule>| !rule.audit || counting == Counting::AlsoAudited;
        let denied = |counting| self.outbound.deny.iter().filter(counts(counting)).find(proves_nothing);
        if let Some(rule) = denied(Counting::InForce) {
            return (Outcome::Denied, Some(Arc::clone(&rule.name)));
        }
        let not_allowed = |counting| {
            let mut allow = self.outbound.allow.iter().filter(counts(counting)).peekable();
            let list = allow.peek().map(|rule| Arc::clone(&rule.list))?;
            allow.find(proves_nothing).is_none().then_some(list)
        };
        let passing = self.passing(|rule| rule.speaks_of(protocol, prefix, port, to_peer));
        let (outcome, rule) = match passing {
            Some(rule) if !rule.audit => (Outcome::Passes, Some(Arc::clone(&rule.name))),
            _ if self.mode == Mode::Permissive => match not_allowed(Counting::InForce) {
                Some(list) => return (Outcome::NotAllowed, Some(list)),
                None => (Outcome::Permissive, None),
            },
            passing => self.unless_audited(passing),
        };
        let would_refuse = || denied(Counting::AlsoAudited).map(|rule| Arc::clone(&rule.name));
        let would_not_allow = || not_allowed(Counting::AlsoAudited).filter(|_| outcome == Outcome::Permissive);
        match would_refuse().or_else(would_not_allow) {
            Some(rule) if outcome.passes() => (Outcome::Audited, Some(rule)),
            _ => (outcome, rule),
        }
    }

    /// Decides about sockets of other protocols, whose destinations nobody can ask for.
    #[must_use]
    pub fn others(&self) -> Beyond {
        match self.passing(|rule| rule.protocols.contains(&Protocol::Other)) {
            Some(rule) if !rule.audit => (Outcome::Passes, Some(Arc::clone(&rule.name))),
            _ if self.mode == Mode::Permissive => (Outcome::Permissive, None),
            passing => self.unless_audited(passing),
        }
    }

    /// The first rule that matches, one in force before those under audit.
    fn passing(&self, matches: impl Fn(&Plaintext) -> bool) -> Option<&Arc<Plaintext>> {
        let find = |audit| self.plaintext.iter().find(|rule| rule.audit == audit && matches(rule));
        find(false).or_else(|| find(true))
    }

    /// What strict makes of it, where no rule in force lets it pass: `audited` is one under audit that would.
    fn unless_audited(&self, audited: Option<&Arc<Plaintext>>) -> Beyond {
        let tried = self.plaintext.iter().find(|rule| rule.audit);
        match (audited, tried) {
            (Some(rule), _) => (Outcome::Passes, Some(Arc::clone(&rule.name))),
            (None, Some(tried)) => (Outcome::Audited, Some(Arc::clone(&tried.list))),
            (None, None) => (Outcome::Refused, None),
        }
    }
}

impl Plaintext {
    fn speaks_of(&self, protocol: Protocol, prefix: &IpNet, port: u16, to_peer: bool) -> bool {
        self.protocols.contains(&protocol)
            && (!to_peer || self.to_peers)
            && (self.addresses.is_empty() || self.addresses.iter().any(|held| held.contains(prefix)))
            && (self.ports.is_empty() || self.ports.iter().any(|ports| ports.hold(port)))
    }
}
