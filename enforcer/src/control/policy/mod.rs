//! Who may talk with whom: one pure function, the same for both directions, both paths, and `enforcer explain`.
//!
//! ```text
//! rule     what a rule matches
//! outside  what may leave that is not mutual TLS
//! terms    the same, as programs look it up
//! read     policies as they stand in a file
//! assign   which policies hold for which workload, and what is wrong among them
//! ```
//!
//! The rules of all policies that select a workload count together, in this order:
//!
//! 1. A `deny` rule matches: refused.
//! 2. There are `allow` rules, and none matches: refused. One matches: allowed.
//! 3. There is no `allow` rule: allowed.
//!
//! What is allowed here must still be mutual TLS, or what the mode lets pass: no rule makes a mode weaker. Rules of a
//! policy with `audit: true` refuse nothing. They are judged as if they were in force, together with those that are, and
//! what only they would refuse is recorded with their name.

pub(super) mod assign;
mod candidates;
mod outside;
pub(super) mod read;
mod rule;
mod terms;

use std::net::IpAddr;
use std::sync::Arc;

pub use outside::{Beyond, Departure, Outcome, Plaintext, Protocol};
pub use rule::{Identities, Ports, Rule};
pub use terms::Compiled;

use super::snapshot::{Mode, WantedPath};
use crate::identity::Identity;
use crate::observe::events::Direction;

/// All that policies say of one workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// What happens to connections that cannot be mutual TLS.
    pub mode: Mode,
    /// Which path its connections are to take.
    pub path: WantedPath,
    /// Rules for connections that others open to it.
    pub inbound: Rules,
    /// Rules for connections that it opens.
    pub outbound: Rules,
    /// Ports of its own with another mode, in the order of the file; the first that has a port counts.
    pub ports: Vec<PortMode>,
    /// What may leave that is not mutual TLS.
    pub plaintext: Vec<Arc<Plaintext>>,
    /// The same as programs look it up. Where there is nothing, nothing passes.
    pub terms: Compiled,
}

/// A mode for connections that others open to some ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMode {
    /// Which.
    pub ports: Vec<Ports>,
    /// What happens there to connections that cannot be mutual TLS.
    pub mode: Mode,
}

/// Rules for one direction, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// What is refused.
    pub deny: Vec<Arc<Rule>>,
    /// What is allowed; where there are any, nothing else is.
    pub allow: Vec<Arc<Rule>>,
}

/// A connection that somebody wants to have, as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// Who opens it, seen from the workload.
    pub direction: Direction,
    /// What the other end must prove to be; `None`: it proves nothing.
    pub identity: Option<&'a Identity>,
    /// The other end's address.
    pub address: IpAddr,
    /// The port that it is opened to.
    pub port: u16,
}

/// What rules say of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What happens.
    pub verdict: Verdict,
    /// The rule that decided: `POLICY/DIRECTION.LIST/RULE`, without the last part where no rule of the list matched.
    /// `None`: there is no rule for it.
    pub rule: Option<Arc<str>>,
}

impl Decision {
    /// Whether rules under audit would refuse it.
    #[must_use]
    pub fn is_audited(&self) -> bool {
        matches!(self.verdict, Verdict::Audited(_))
    }
}

/// What happens to a connection, as far as rules go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be.
    Allowed,
    /// It may be, and would not if the rules under audit were in force.
    Audited(Refusal),
    /// It may not be.
    Refused(Refusal),
}

/// Why a connection may not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A rule denies it.
    Denied,
    /// No rule allows it.
    NotAllowed,
}

/// Which rules count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counting {
    InForce,
    AlsoAudited,
}

impl Policy {
    /// What happens to connections that cannot be mutual TLS, which are opened to this port.
    #[must_use]
    pub fn mode_at(&self, direction: Direction, port: u16) -> Mode {
        let overrides = self.ports.iter().filter(|_| direction == Direction::Inbound);
        let found = overrides.into_iter().find(|these| these.ports.iter().any(|ports| ports.hold(port)));
        found.map_or(self.mode, |these| these.mode)
    }

    /// Decides about a connection.
    #[must_use]
    pub fn decide(&self, attempt: &Attempt<'_>) -> Decision {
        let rules = match attempt.direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        };
        let in_force = match rules.judge(attempt, Counting::InForce) {
            Ok(rule) => rule,
            Err((refusal, rule)) => return Decision { verdict: Verdict::Refused(refusal), rule: Some(rule) },
        };
        match rules.judge(attempt, Counting::AlsoAudited) {
            Ok(audited) => Decision { verdict: Verdict::Allowed, rule: in_force.or(audited) },
            Err((refusal, rule)) => Decision { verdict: Verdict::Audited(refusal), rule: Some(rule) },
        }
    }
}

impl Rules {
    /// The rule that allows it, if there are any; or why it may not be.
    fn judge(&self, attempt: &Attempt<'_>, counting: Counting) -> Result<Option<Arc<str>>, (Refusal, Arc<str>)> {
        let counts = |rule: &&Arc<Rule>| !rule.audit || counting == Counting::AlsoAudited;
        if let Some(rule) = self.deny.iter().filter(counts).find(|rule| rule.matches(attempt)) {
            return Err((Refusal::Denied, Arc::clone(&rule.name)));
        }
        let mut allow = self.allow.iter().filter(counts).peekable();
        let Some(first) = allow.peek().map(|rule| Arc::clone(&rule.list)) else { return Ok(None) };
        match allow.find(|rule| rule.matches(attempt)) {
            Some(rule) => Ok(Some(Arc::clone(&rule.name))),
            None => Err((Refusal::NotAllowed, first)),
        }
    }
}

#[cfg(test)]
mod tests;
