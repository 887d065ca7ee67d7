//! Who may be at the other end.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use crate::identity::name::Identity;

/// Who may be at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// This one.
    One(Identity),
    /// Any of these.
    AnyOf(Arc<HashSet<Identity>>),
    /// Any whose SPIFFE ID begins with this.
    Below(Arc<str>),
    /// Any of this trust domain.
    In(Arc<str>),
    /// Any workload at all.
    Anyone,
}

impl Expected {
    pub(super) fn holds(&self, found: &Identity) -> bool {
        match self {
            Self::One(identity) => found == identity,
            Self::AnyOf(identities) => identities.contains(found),
            Self::Below(prefix) => found.as_str().starts_with(&**prefix),
            Self::In(trust_domain) => found.trust_domain() == &**trust_domain,
            Self::Anyone => true,
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(identity) => identity.fmt(f),
            Self::AnyOf(identities) => write!(f, "one of {} registered peers", identities.len()),
            Self::Below(prefix) => write!(f, "an identity below {prefix}"),
            Self::In(trust_domain) => write!(f, "a workload of {trust_domain}"),
            Self::Anyone => f.write_str("a workload"),
        }
    }
}
