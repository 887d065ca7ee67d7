//! What was issued and what was revoked: one entry for each certificate, from before it is handed out until it expires.
//!
//! ```text
//! journal/SERIAL    an Issuance
//! revoked/SERIAL    a Revocation: the short list that revocation lists are made of
//! ban/node/NAME, ban/identity/ID    is issued nothing
//! ```
//!
//! Serial numbers are hexadecimal, as the certificate has them. An entry that has expired is forgotten, a revoked one
//! too: RFC 5280 3.3 lets a list drop it once a list has named it after its end, and nobody accepts it any more.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use time::OffsetDateTime;

use super::Error;

/// A certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuance {
    /// Hexadecimal.
    #[serde(skip)]
    pub serial: String,
    /// SPIFFE ID.
    pub name: String,
    /// To whom; empty for control's own.
    pub node: String,
    /// Seconds since 1970.
    pub not_before: i64,
    /// Seconds since 1970.
    pub not_after: i64,
    /// Id of the slot that issued it.
    pub slot: String,
}

/// A certificate that was revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Hexadecimal.
    #[serde(skip)]
    pub serial: String,
    /// Why.
    pub reason: Reason,
    /// Seconds since 1970.
    pub at: i64,
    /// When the certificate ends; seconds since 1970.
    pub not_after: i64,
    /// Id of the slot that issued it.
    pub slot: String,
}

/// Why a certificate is revoked (RFC 5280 5.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// Nobody says.
    Unspecified,
    /// Somebody else may have the key.
    KeyCompromise,
    /// Whoever it names belongs elsewhere now.
    AffiliationChanged,
    /// There is another in its place.
    Superseded,
    /// Whoever it names is no more.
    CessationOfOperation,
    /// Whoever it names may do less now.
    PrivilegeWithdrawn,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::AffiliationChanged,
        Self::Superseded,
        Self::CessationOfOperation,
        Self::PrivilegeWithdrawn,
    ];

    /// As RFC 5280 spells it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "keyCompromise",
            Self::AffiliationChanged => "affiliationChanged",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessationOfOperation",
            Self::PrivilegeWithdrawn => "privilegeWithdrawn",
        }
    }

    /// As a revocation list has it.
    pub(super) fn code(self) -> rcgen::RevocationReason {
        match self {
            Self::Unspecified => rcgen::RevocationReason::Unspecified,
            Self::KeyCompromise => rcgen::RevocationReason::KeyCompromise,
            Self::AffiliationChanged => rcgen::RevocationReason::AffiliationChanged,
            Self::Superseded => rcgen::RevocationReason::Superseded,
            Self::CessationOfOperation => rcgen::RevocationReason::CessationOfOperation,
            Self::PrivilegeWithdrawn => rcgen::RevocationReason::PrivilegeWithdrawn,
        }
    }
}

impl std::str::FromStr for Reason {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::label).join(", ");
        let found = Self::ALL.into_iter().find(|reason| reason.label().eq_ignore_ascii_case(text));
        found.ok_or_else(|| format!("unknown reason {text:?}; use one of: {}", known()))
    }
}

/// What to revoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One certificate, by its serial number, hexadecimal.
    Serial(String),
    /// All of an identity, and it is issued no more.
    Identity(String),
    /// All that a node has, its own too, and it is issued no more.
    Node(String),
}

impl Target {
    /// Whether a certificate is meant.
    pub(super) fn means(&self, issuance: &Issuance) -> bool {
        match self {
            Self::Serial(serial) => issuance.serial == *serial,
            Self::Identity(identity) => issuance.name == *identity,
            Self::Node(node) => issuance.node == *node,
        }
    }

    /// The key under which its ban is kept.
    pub(super) fn ban(&self) -> Option<String> {
        match self {
            Self::Serial(_) => None,
            Self::Identity(identity) => Some(ban_of_identity(identity)),
            Self::Node(node) => Some(ban_of_node(node)),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Serial(serial) => write!(f, "serial number {serial}"),
            Self::Identity(identity) => write!(f, "identity {identity}"),
            Self::Node(node) => write!(f, "node {node}"),
        }
    }
}

pub(super) const JOURNAL: &str = "journal/";
pub(super) const REVOKED: &str = "revoked/";

pub(super) fn journal(serial: &str) -> String {
    format!("{JOURNAL}{serial}")
}

pub(super) fn revoked(serial: &str) -> String {
    format!("{REVOKED}{serial}")
}

pub(super) fn ban_of_node(node: &str) -> String {
    format!("ban/node/{node}")
}

/// A SPIFFE ID may be longer than a key, and its hash is as good.
pub(super) fn ban_of_identity(identity: &str) -> String {
    format!("ban/identity/{}", super::hash(identity.as_bytes()))
}

impl Issuance {
    /// Whether it has ended.
    #[must_use]
    pub fn is_over(&self, now: OffsetDateTime) -> bool {
        self.not_after <= now.unix_timestamp()
    }

    /// Whether it has come in the place of one of the authority that is to go.
    pub(super) fn supersedes(&self, earlier: &Self, former: &str) -> bool {
        self.slot != former && self.name == earlier.name && self.node == earlier.node
    }

    pub(super) fn read(key: &str, value: &[u8]) -> Result<Self, Error> {
        let issuance: Self = read(key, value)?;
        Ok(Self { serial: key.trim_start_matches(JOURNAL).to_owned(), ..issuance })
    }
}

impl Revocation {
    pub(super) fn read(key: &str, value: &[u8]) -> Result<Self, Error> {
        let revocation: Self = read(key, value)?;
        Ok(Self { serial: key.trim_start_matches(REVOKED).to_owned(), ..revocation })
    }
}

/// An entry as the store has it.
pub(super) fn write(entry: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(entry).expect("entries are texts and numbers")
}

pub(super) fn read<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(value).map_err(|cause| Error::Entry { key: key.to_owned(), cause })
}
