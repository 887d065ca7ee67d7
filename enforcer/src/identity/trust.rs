//! Whom this node trusts at this moment: the roots and the revocation lists. Every handshake asks anew, so what has
//! changed counts from the next one on, without anything being made again.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use time::OffsetDateTime;
use tokio::sync::watch;

use super::federation::Federation;
use super::verify::{Anchors, Revocations, Uncovered, Unreadable, Unusable};
use super::{Identity, Serial};

/// Whom to trust. Immutable: a change makes another. The default is nobody.
#[derive(Debug, Default)]
pub struct Trust {
    /// Counts up with each change, where control says it; 0 elsewhere.
    pub version: u64,
    /// The roots, judged.
    pub anchors: Anchors,
    /// What has been revoked; `None` where nobody says.
    pub revocations: Option<Revocations>,
    /// Another one asks for new certificates.
    pub issuer: String,
    /// The roots, as they came.
    pub roots: Vec<CertificateDer<'static>>,
}

/// What somebody wants to be trusted cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// A root.
    #[error(transparent)]
    Roots(#[from] Unreadable),
    /// A revocation list.
    #[error("revocation list {number} {why}")]
    List {
        /// Counted from 1.
        number: usize,
        /// What is wrong with it.
        why: Unusable,
    },
    /// There is nothing in it that could be trusted.
    #[error("there is no root in it")]
    Empty,
}

impl Trust {
    /// Trusts these roots, and nobody has revoked anything.
    ///
    /// # Errors
    ///
    /// [`Malformed`].
    pub fn of_roots(roots: Vec<CertificateDer<'static>>) -> Result<Self, Malformed> {
        if roots.is_empty() {
            return Err(Malformed::Empty);
        }
        Ok(Self { version: 0, anchors: Anchors::new(&roots)?, revocations: None, issuer: String::new(), roots })
    }

    /// The same with revocation lists, which are in force for `grace` after their end: as long as control may be away.
    ///
    /// # Errors
    ///
    /// [`Malformed::List`].
    pub fn with_lists(
        self,
        lists: &[CertificateRevocationListDer<'_>],
        grace: std::time::Duration,
    ) -> Result<Self, Malformed> {
        let revocations = Revocations::new(lists, Uncovered::Accept)
            .map_err(|(place, why)| Malformed::List { number: place + 1, why })?;
        Ok(Self { revocations: Some(revocations.with_grace(grace)), ..self })
    }

    /// Whether a certificate is on a revocation list, whoever issued it: serial numbers of different authorities are
    /// chance.
    #[must_use]
    pub fn revokes(&self, serial: &Serial) -> bool {
        self.revocations.as_ref().is_some_and(|revocations| revocations.name(serial))
    }
}

/// Whom to trust now, and later. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trusted {
    current: watch::Receiver<Arc<Trust>>,
    federation: Arc<Federation>,
}

impl Trusted {
    /// What whoever has the other end says.
    #[must_use]
    pub fn new(trust: watch::Receiver<Arc<Trust>>) -> Self {
        Self { current: trust, federation: Arc::default() }
    }

    /// Always the same.
    #[must_use]
    pub fn always(trust: Trust) -> Self {
        Self::new(watch::channel(Arc::new(trust)).1)
    }

    /// And other trust domains for what is theirs.
    #[must_use]
    pub fn with(self, federation: &Arc<Federation>) -> Self {
        Self { federation: Arc::clone(federation), ..self }
    }

    /// The other trust domains.
    pub(super) fn federation(&self) -> &Federation {
        &self.federation
    }

    /// Whom to trust now.
    #[must_use]
    pub fn current(&self) -> Arc<Trust> {
        Arc::clone(&self.current.borrow())
    }

    /// Whether it would be known if a certificate of this identity had been revoked: the lists are in force. A handshake
    /// finds out by itself; this is for what goes on under an earlier one. Nobody says what other trust domains have
    /// revoked.
    #[must_use]
    pub fn knows_revocations_of(&self, identity: &Identity, now: OffsetDateTime) -> bool {
        let trust = self.current();
        let is_ours = !self.federation.has(identity.trust_domain());
        !(is_ours && trust.revocations.as_ref().is_some_and(|lists| lists.are_over(now.unix_timestamp())))
    }

    /// Returns when it has changed since this was last called; never, if nobody can change it any more.
    pub async fn changed(&mut self) {
        if self.current.changed().await.is_err() {
            std::future::pending().await
        }
    }
}
