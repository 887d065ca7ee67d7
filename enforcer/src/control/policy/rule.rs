//! What a rule matches: everything that it names must hold, and of each list one item.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Attempt;
use crate::identity::Identity;
use crate::identity::name::{NameError, check_trust_domain};

/// A rule. An empty list is one that was not written, and holds for everything; a rule has at least one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// `POLICY/DIRECTION.LIST/RULE`: its own name, or its number in the list, from 1.
    pub name: Arc<str>,
    /// The same without the last part.
    pub list: Arc<str>,
    /// It only tells what it would refuse.
    pub audit: bool,
    /// What the other end must prove to be.
    pub identities: Vec<Identities>,
    /// The namespace in its identity: `/ns/NAMESPACE/...`.
    pub namespaces: Vec<String>,
    /// The trust domain of its identity.
    pub trust_domains: Vec<String>,
    /// The other end's address.
    pub addresses: Vec<IpNet>,
    /// The port that the connection is opened to.
    pub ports: Vec<Ports>,
}

impl Rule {
    /// Whether it speaks of this connection.
    #[must_use]
    pub fn matches(&self, attempt: &Attempt<'_>) -> bool {
        self.matches_within(attempt.identity, &IpNet::from(attempt.address.to_canonical()), attempt.port)
    }

    /// The same for every address of a prefix that the rule does not tell apart.
    pub(super) fn matches_within(&self, identity: Option<&Identity>, prefix: &IpNet, port: u16) -> bool {
        let proves = |holds: &dyn Fn(&Identity) -> bool| identity.is_some_and(holds);
        (self.identities.is_empty() || proves(&|one| self.identities.iter().any(|these| these.hold(one))))
            && (self.namespaces.is_empty()
                || proves(&|one| namespace(one).is_some_and(|name| holds(&self.namespaces, name))))
            && (self.trust_domains.is_empty() || proves(&|one| holds(&self.trust_domains, one.trust_domain())))
            && (self.addresses.is_empty() || self.addresses.iter().any(|held| held.contains(prefix)))
            && (self.ports.is_empty() || self.ports.iter().any(|ports| ports.hold(port)))
    }
}

fn holds(names: &[String], name: &str) -> bool {
    names.iter().any(|held| held == name)
}

/// The namespace that an identity names, if it is made as ours are.
pub(super) fn namespace(identity: &Identity) -> Option<&str> {
    identity.path().strip_prefix("/ns/")?.split('/').next()
}

/// One identity, or all below a path: `spiffe://example.org/ns/shop/*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identities {
    /// This one.
    One(Identity),
    /// All that begin with this, which ends with a slash.
    Below(Arc<str>),
}

impl Identities {
    /// Whether this identity is among them.
    #[must_use]
    pub fn hold(&self, identity: &Identity) -> bool {
        match self {
            Self::One(one) => one == identity,
            Self::Below(beginning) => identity.as_str().starts_with(&**beginning),
        }
    }

    /// The trust domain of all of them.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        match self {
            Self::One(one) => one.trust_domain(),
            Self::Below(beginning) => beginning[SCHEME.len()..].split('/').next().unwrap_or_default(),
        }
    }

    /// Whether one of them may be in this namespace.
    pub(super) fn may_be_in(&self, namespace: &str) -> bool {
        match self {
            Self::One(one) => self::namespace(one) == Some(namespace),
            Self::Below(beginning) => {
                let path = beginning[SCHEME.len() + self.trust_domain().len()..].strip_prefix("/ns/");
                // Above or at `/ns/`, every namespace is below it.
                path.map_or("/ns/".starts_with(&beginning[SCHEME.len() + self.trust_domain().len()..]), |path| {
                    path.is_empty() || path.split('/').next() == Some(namespace)
                })
            }
        }
    }
}

const SCHEME: &str = "spiffe://";

impl FromStr for Identities {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let Some(above) = text.strip_suffix("/*") else { return text.parse().map(Self::One) };
        match above.strip_prefix(SCHEME).ok_or(NameError::Scheme)? {
            domain if !domain.contains('/') => check_trust_domain(domain)?,
            _ => drop(above.parse::<Identity>()?),
        }
        Ok(Self::Below(format!("{above}/").into()))
    }
}

impl fmt::Display for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(one) => one.fmt(f),
            Self::Below(beginning) => write!(f, "{beginning}*"),
        }
    }
}

/// Ports from one to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl Ports {
    /// Whether this port is among them.
    #[must_use]
    pub fn hold(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}
