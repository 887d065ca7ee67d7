//! Names of workloads: SPIFFE IDs, parsed once and valid ever after (SPIFFE-ID standard, sections 2 and 2.1 to 2.4).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

const SCHEME: &str = "spiffe://";
/// Bytes of a whole ID.
const MAX_LENGTH: usize = 2048;
/// Bytes of a trust domain.
const MAX_TRUST_DOMAIN: usize = 255;

/// The identity of one workload: `spiffe://TRUST-DOMAIN/PATH`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    text: Arc<str>,
    /// Where the path begins, at its slash.
    path: usize,
}

impl Identity {
    /// The trust domain, as in the ID.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..self.path]
    }

    /// The path, with its leading slash.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.text[self.path..]
    }

    /// The whole ID.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Why a text is no SPIFFE ID of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a SPIFFE ID at all.
    #[error("an identity begins with spiffe://")]
    Scheme,
    /// Over 2048 bytes.
    #[error("an identity has at most {MAX_LENGTH} bytes")]
    TooLong,
    /// Empty, too long, or with a character that has no place there.
    #[error("a trust domain has 1 to {MAX_TRUST_DOMAIN} of a-z, 0-9, '.', '-' and '_'")]
    TrustDomain,
    /// The ID of a trust domain is not that of a workload.
    #[error("an identity has a path after its trust domain, such as /ns/default/sa/web")]
    NoPath,
    /// An empty, `.` or `..` segment, or a slash at the end.
    #[error("the path of an identity has no empty, '.' or '..' segment and no slash at its end")]
    Segment,
    /// A character that has no place in a path.
    #[error("the path of an identity has only letters, digits, '.', '-' and '_'")]
    PathCharacter,
}

/// Checks a trust domain's name.
///
/// # Errors
///
/// [`NameError::TrustDomain`].
pub fn check_trust_domain(name: &str) -> Result<(), NameError> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    let valid = !name.is_empty() && name.len() <= MAX_TRUST_DOMAIN && name.bytes().all(allowed);
    if valid { Ok(()) } else { Err(NameError::TrustDomain) }
}

impl FromStr for Identity {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let rest = text.strip_prefix(SCHEME).ok_or(NameError::Scheme)?;
        if text.len() > MAX_LENGTH {
            return Err(NameError::TooLong);
        }
        let slash = rest.find('/');
        check_trust_domain(&rest[..slash.unwrap_or(rest.len())])?;
        let slash = slash.ok_or(NameError::NoPath)?;
        for segment in rest[slash + 1..].split('/') {
            if matches!(segment, "" | "." | "..") {
                return Err(NameError::Segment);
            }
            if !segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)) {
                return Err(NameError::PathCharacter);
            }
        }
        Ok(Self { text: text.into(), path: SCHEME.len() + slash })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Identity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_valid_identity() {
        let identity: Identity = "spiffe://example.org/ns/default/sa/web".parse().unwrap();
        assert_eq!((identity.trust_domain(), identity.path()), ("example.org", "/ns/default/sa/web"));
        assert_eq!(identity.to_string(), "spiffe://example.org/ns/default/sa/web");
    }

    #[test]
    fn the_standard_is_kept() {
        let long_domain = format!("spiffe://{}/a", "d".repeat(MAX_TRUST_DOMAIN));
        let too_long_domain = format!("spiffe://{}/a", "d".repeat(MAX_TRUST_DOMAIN + 1));
        let long = format!("spiffe://a/{}", "p".repeat(MAX_LENGTH - 11));
        let too_long = format!("spiffe://a/{}", "p".repeat(MAX_LENGTH - 10));
        let cases: [(&str, Result<(), NameError>); 36] = [
            ("spiffe://example.org/a", Ok(())),
            ("spiffe://1.2.3.4/a", Ok(())),
            ("spiffe://a_b-c.d/A/b.c/d-e_f", Ok(())),
            ("spiffe://td/...", Ok(())),
            (&long_domain, Ok(())),
            (&long, Ok(())),
            (&too_long_domain, Err(NameError::TrustDomain)),
            (&too_long, Err(NameError::TooLong)),
            ("", Err(NameError::Scheme)),
            ("spiffe:/td/a", Err(NameError::Scheme)),
            ("SPIFFE://td/a", Err(NameError::Scheme)),
            ("http://td/a", Err(NameError::Scheme)),
            (" spiffe://td/a", Err(NameError::Scheme)),
            ("spiffe://", Err(NameError::TrustDomain)),
            ("spiffe:///a", Err(NameError::TrustDomain)),
            ("spiffe://TD/a", Err(NameError::TrustDomain)),
            ("spiffe://td:80/a", Err(NameError::TrustDomain)),
            ("spiffe://user@td/a", Err(NameError::TrustDomain)),
            ("spiffe://t d/a", Err(NameError::TrustDomain)),
            ("spiffe://td%61/a", Err(NameError::TrustDomain)),
            ("spiffe://tdä/a", Err(NameError::TrustDomain)),
            ("spiffe://td?q", Err(NameError::TrustDomain)),
            ("spiffe://td", Err(NameError::NoPath)),
            ("spiffe://td/", Err(NameError::Segment)),
            ("spiffe://td//a", Err(NameError::Segment)),
            ("spiffe://td/a/", Err(NameError::Segment)),
            ("spiffe://td/a//b", Err(NameError::Segment)),
            ("spiffe://td/./a", Err(NameError::Segment)),
            ("spiffe://td/a/..", Err(NameError::Segment)),
            ("spiffe://td/a b", Err(NameError::PathCharacter)),
            ("spiffe://td/a%20b", Err(NameError::PathCharacter)),
            ("spiffe://td/a?q", Err(NameError::PathCharacter)),
            ("spiffe://td/a#f", Err(NameError::PathCharacter)),
            ("spiffe://td/ä", Err(NameError::PathCharacter)),
            ("spiffe://td/a\0", Err(NameError::PathCharacter)),
            ("spiffe://td/*", Err(NameError::PathCharacter)),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Identity>().map(drop), expected, "{text}");
        }
    }
}
