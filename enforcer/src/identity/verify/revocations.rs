//! Certificate revocation lists (RFC 5280 5): read once, asked about each certificate of a path.
//!
//! webpki asks the first list that covers a certificate. So the newest comes first, and one from the future is left out.
//! Authorities that share a name and have different keys cannot each have a list: whatever the other one certified is
//! then refused.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateRevocationListDer, UnixTime};
use webpki::{
    CertRevocationList, ExpirationPolicy, OwnedCertRevocationList, RevocationCheckDepth, RevocationOptions,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::rejection::{ListFlaw, Rejection};
use crate::identity::Serial;

/// What becomes of a certificate that no list covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uncovered {
    /// It is accepted.
    Accept,
    /// It is refused.
    Refuse,
}

/// Revocation lists, newest first.
#[derive(Debug)]
pub struct Revocations {
    lists: Arc<[List]>,
    uncovered: Uncovered,
    grace: Duration,
}

#[derive(Debug)]
struct List {
    /// Seconds since 1970.
    begins: i64,
    /// Seconds since 1970; a list without a next update ends never.
    ends: Option<i64>,
    serials: HashSet<Serial>,
    content: CertRevocationList<'static>,
}

/// A revocation list cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is none.
    #[error("cannot be read")]
    Unreadable,
    /// It is one of a kind that is not understood.
    #[error("{}", ListFlaw::Unsupported)]
    Unsupported,
}

impl Revocations {
    /// Reads lists (RFC 5280 5.1, version 2, complete).
    ///
    /// # Errors
    ///
    /// The first list that cannot be used, by its place, and why.
    pub fn new(lists: &[CertificateRevocationListDer<'_>], uncovered: Uncovered) -> Result<Self, (usize, Unusable)> {
        let read = |(place, der)| read(der).map_err(|unusable| (place, unusable));
        let mut lists: Vec<List> = lists.iter().enumerate().map(read).collect::<Result<_, _>>()?;
        lists.sort_by_key(|list| std::cmp::Reverse(list.begins));
        Ok(Self { lists: lists.into(), uncovered, grace: Duration::ZERO })
    }

    /// The same, in force for so long after their end.
    #[must_use]
    pub fn with_grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }

    /// The same, in force for ever.
    #[must_use]
    pub fn without_end(&self) -> Self {
        Self { lists: Arc::clone(&self.lists), uncovered: self.uncovered, grace: Duration::MAX }
    }

    /// When the first of them is in force no more, its grace included, in seconds since 1970.
    #[must_use]
    pub fn in_force_until(&self) -> Option<i64> {
        self.lists.iter().filter_map(|list| self.end_of(list)).min()
    }

    /// Whether one of them is in force no more at this moment, its grace included; in seconds since 1970.
    #[must_use]
    pub fn are_over(&self, now: i64) -> bool {
        self.in_force_until().is_some_and(|end| end <= now)
    }

    fn end_of(&self, list: &List) -> Option<i64> {
        let grace = i64::try_from(self.grace.as_secs()).unwrap_or(i64::MAX);
        list.ends.map(|ends| ends.saturating_add(grace))
    }

    /// Whether a certificate is on one of the lists.
    #[must_use]
    pub fn name(&self, serial: &Serial) -> bool {
        self.lists.iter().any(|list| list.serials.contains(serial))
    }

    /// Whether one of them was issued by the authority of this name.
    pub(super) fn come_from(&self, subject: &[u8]) -> bool {
        self.lists.iter().any(|list| list.content.issuer() == subject)
    }

    /// The lists that are in force, and whether there are others.
    pub(super) fn in_force(&self, now: UnixTime) -> (Vec<&CertRevocationList<'static>>, bool) {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let lists: Vec<_> = self.lists.iter().filter(|list| list.begins <= now).map(|list| &list.content).collect();
        let all = lists.len() == self.lists.len();
        (lists, !all)
    }

    /// webpki knows no grace: it is told to look at the end of lists, or not to.
    fn expiration(&self, now: UnixTime) -> ExpirationPolicy {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if self.grace.is_zero() || self.are_over(now) { ExpirationPolicy::Enforce } else { ExpirationPolicy::Ignore }
    }

    /// How webpki is to ask these lists: about every certificate of the path, and none that has expired.
    ///
    /// # Errors
    ///
    /// [`Rejection::RevocationUnknown`], when there is no list and one is needed.
    pub(super) fn options<'a>(
        &self,
        lists: &'a [&'a CertRevocationList<'a>],
        now: UnixTime,
    ) -> Result<Option<RevocationOptions<'a>>, Rejection> {
        let policy = match self.uncovered {
            Uncovered::Accept => UnknownStatusPolicy::Allow,
            Uncovered::Refuse => UnknownStatusPolicy::Deny,
        };
        match (RevocationOptionsBuilder::new(lists), self.uncovered) {
            (Ok(builder), _) => Ok(Some(
                builder
                    .with_depth(RevocationCheckDepth::Chain)
                    .with_status_policy(policy)
                    .with_expiration_policy(self.expiration(now))
                    .build(),
            )),
            (Err(_none), Uncovered::Accept) => Ok(None),
            (Err(_none), Uncovered::Refuse) => Err(Rejection::RevocationUnknown),
        }
    }
}

fn read(der: &CertificateRevocationListDer<'_>) -> Result<List, Unusable> {
    let parsed = match CertificateRevocationList::from_der(der) {
        Ok(([], parsed)) => parsed,
        _ => return Err(Unusable::Unreadable),
    };
    let content = OwnedCertRevocationList::from_der(der).map_err(|_unsupported| Unusable::Unsupported)?;
    let ends = parsed.next_update().map(|ends| ends.timestamp());
    let serials = parsed.iter_revoked_certificates().filter_map(|entry| Serial::from_der(entry.raw_serial())).collect();
    Ok(List { begins: parsed.last_update().timestamp(), ends, serials, content: content.into() })
}
