//! The authority of a trust domain: what control knows and does, whoever asks it.
//!
//! ```text
//! slots      which roots there are, and how one follows another
//! authority  roots and intermediates are made and found again, with their keys
//! issue      a node joins with a token; a node asks for a certificate, and may or may not have it
//! journal    what was issued and revoked, who is banned
//! revoke     certificates die
//! trust      what everybody is told: roots and revocation lists, with a version
//! rotate     the steps of a root rotation, and whether the world is ready for them
//! upstream   an authority above ours
//! audit      who asked for what
//! ```
//!
//! All of it is in a [`Store`], so that several replicas may do this at once, and in the transaction that decides: what
//! was answered is written, and what was written counts everywhere. Nothing here knows of connections or protocols.

mod audit;
mod authority;
mod issue;
mod journal;
mod revoke;
mod rotate;
mod slots;
mod tokens;
mod trust;
mod upstream;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

pub use audit::{Asker, Audit, Event, Unwritten};
pub(super) use issue::explained;
pub use journal::{Issuance, Reason, Revocation, Target};
pub use rotate::{Node, Step};
pub use slots::{OutOfStep, Slot, Slots, State};
pub use tokens::{NoToken, SECRET, Token};
pub use trust::Trust;

use super::issuer::Issuer;
use super::keys::{self, Algorithm, Keys};
use super::store::{self, Outcome, Store, Transaction};
use crate::identity::Identity;
use crate::identity::name::NameError;

/// What an authority is made of.
pub struct Parts {
    /// The trust domain that it answers for.
    pub trust_domain: String,
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// Where keys are.
    pub keys: Arc<dyn Keys>,
    /// Who asked for what.
    pub audit: Audit,
    /// How long things live.
    pub terms: Terms,
    /// Which node may ask for which identities.
    pub placements: Placements,
}

/// Which identities each node may ask for, by the node's name.
pub type Placements = BTreeMap<String, BTreeSet<Identity>>;

/// How long things live, and what signs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// A workload's certificate.
    pub workload: Duration,
    /// A node's certificate.
    pub node: Duration,
    /// A revocation list; a new one is made at half of it.
    pub list: Duration,
    /// The keys of roots and intermediates.
    pub algorithm: Algorithm,
}

/// The authority of a trust domain.
pub struct Domain {
    parts: Parts,
    /// Issuers whose keys were opened, by the label of the key.
    opened: Mutex<HashMap<String, Arc<Issuer>>>,
}

/// Something was asked of the authority and not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node may not have this identity.
    #[error(
        "identity {identity} is not placed on node {node}; add it to the node's Placement in control's configuration"
    )]
    NotPlaced {
        /// Who asks.
        node: String,
        /// For what.
        identity: Identity,
    },
    /// Nobody knows this node.
    #[error("there is no node {node}; add a Placement for it to control's configuration")]
    UnknownNode {
        /// Which.
        node: String,
    },
    /// It was revoked with all that it may have.
    #[error("{what} is revoked: {remedy}")]
    Banned {
        /// An identity or a node.
        what: String,
        /// How it is admitted again.
        remedy: &'static str,
    },
    /// The certificate that the call was made with.
    #[error("the certificate of node {node} with serial number {serial} is revoked; join again with a new token")]
    Revoked {
        /// Whose.
        node: String,
        /// Which.
        serial: String,
    },
    /// Nobody has made this token, or it was used, or nobody used it in time.
    #[error(
        "the token is not valid: it was never made, has been used, or has expired; \
         make another with `enforcer control token create`"
    )]
    Token,
    /// Nothing to revoke.
    #[error("no certificate that is valid and not revoked has {what}; `enforcer ca list` shows all that there are")]
    NothingToRevoke {
        /// What was asked for.
        what: String,
    },
    /// A step of a rotation is not the next one.
    #[error(transparent)]
    OutOfStep(#[from] OutOfStep),
    /// A step of a rotation would refuse connections.
    #[error("{step} would refuse connections: {why}")]
    TooEarly {
        /// Which step.
        step: &'static str,
        /// What stands against it.
        why: String,
    },
    /// The configuration is of another trust domain.
    #[error("the store holds the authority of trust domain {found}, and {expected} is configured; nothing was changed")]
    OtherTrustDomain {
        /// In the store.
        found: String,
        /// In the configuration.
        expected: String,
    },
    /// The trust domain is no name.
    #[error("trust domain {name}")]
    TrustDomain {
        /// What was given.
        name: String,
        /// Why not.
        #[source]
        cause: NameError,
    },
    /// What was issued would be refused by everybody.
    #[error("the certificate that was made for {identity} does not verify; it was not handed out")]
    Unusable {
        /// For whom.
        identity: Identity,
        /// Why.
        #[source]
        cause: rustls::Error,
    },
    /// What comes from an upstream authority cannot be used.
    #[error("upstream authority: {why}")]
    Upstream {
        /// Why not.
        why: String,
    },
    /// Many others were writing.
    #[error("others were writing at the same time, {ATTEMPTS} times in a row; try again")]
    Busy,
    /// An entry of the store is not what it should be.
    #[error("entry {key} of the store cannot be read")]
    Entry {
        /// Which.
        key: String,
        /// Why.
        #[source]
        cause: serde_json::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] keys::Error),
    /// Signing.
    #[error(transparent)]
    Authority(#[from] super::Error),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] Unwritten),
}

/// How often a transaction is tried when others write at the same time.
const ATTEMPTS: u32 = 64;
/// Holds the name of the trust domain.
const NAME: &str = "trust-domain";
/// Holds the slots.
const SLOTS: &str = "slots";

impl Domain {
    /// Opens the authority in a store, or makes it where there is none.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn open(parts: Parts) -> Result<Arc<Self>, Error> {
        let domain = Self { parts, opened: Mutex::default() };
        domain.ensure_first().await?;
        Ok(Arc::new(domain))
    }

    /// The trust domain that it answers for.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.parts.trust_domain
    }

    /// Which node may ask for which identities.
    #[must_use]
    pub fn placements(&self) -> &Placements {
        &self.parts.placements
    }

    /// How long things live.
    #[must_use]
    pub fn terms(&self) -> &Terms {
        &self.parts.terms
    }

    /// Where everything is kept.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.parts.store
    }

    /// The roots that are trusted.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn roots(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        authority::roots(&self.slots().await?)
    }

    /// Writes down who asked for what.
    ///
    /// # Errors
    ///
    /// [`Error::Audit`].
    pub fn note(&self, event: Event, who: &Asker, about: (&str, &str)) -> Result<(), Error> {
        Ok(self.parts.audit.note(event, who, about)?)
    }

    async fn read<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        Ok(self.held(key).await?.1)
    }

    /// An entry as the store holds it, for the condition of a transaction, and what it says.
    async fn held<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<(Option<Vec<u8>>, Option<T>), Error> {
        let value = self.parts.store.get(key).await?;
        let read = value.as_deref().map(|value| journal::read(key, value)).transpose()?;
        Ok((value, read))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, Error> {
        Ok(self.parts.store.commit(transaction).await?)
    }
}

/// The identity of control itself.
///
/// # Errors
///
/// [`NameError`], when the trust domain is no name.
pub fn control_identity(trust_domain: &str) -> Result<Identity, NameError> {
    format!("spiffe://{trust_domain}{RESERVED}control").parse()
}

/// The identity of a node.
///
/// # Errors
///
/// [`NameError`], when the trust domain or the node's name is none.
pub fn node_identity(trust_domain: &str, node: &str) -> Result<Identity, NameError> {
    format!("{}{node}", nodes_of(trust_domain)).parse()
}

/// What the identities of all nodes begin with.
#[must_use]
pub fn nodes_of(trust_domain: &str) -> String {
    format!("spiffe://{trust_domain}{RESERVED}node/")
}

/// The name of the node with this identity.
#[must_use]
pub fn node_of(identity: &Identity) -> Option<&str> {
    identity.path().strip_prefix(RESERVED)?.strip_prefix("node/")
}

/// Identities below this path are those of control and of nodes; no workload has one.
pub const RESERVED: &str = "/enforcer/";

/// SHA-256, hexadecimal.
fn hash(octets: &[u8]) -> String {
    digest(&SHA256, octets).as_ref().iter().fold(String::new(), |mut text, octet| {
        write!(text, "{octet:02x}").expect("a text takes everything");
        text
    })
}

fn seconds(at: OffsetDateTime) -> i64 {
    at.unix_timestamp()
}

#[cfg(fuzzing)]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
