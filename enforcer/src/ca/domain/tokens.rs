//! Join tokens: a secret that makes a machine a node, once.
//!
//! ```text
//! token = "enforcer1." || hex(secret) || "." || hex(SHA-256(root))      secret: 32 octets
//! token/hex(SHA-256(secret))    a Token
//! ```
//!
//! The store does not know the secret. The root's hash lets the machine know control before it gives the secret away;
//! there may be several, with dots between them, while a rotation is under way.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::identity::verify::Fingerprint;

/// What a token begins with.
const MARK: &str = "enforcer1";
/// Octets of the secret.
pub const SECRET: usize = 32;
/// Roots in one token.
const MOST_ROOTS: usize = 4;

/// What the store knows of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The node that it is for.
    pub(super) node: String,
    /// Seconds since 1970.
    pub(super) expires: i64,
}

/// A token as a machine holds it.
pub struct Token {
    /// What control asks for.
    pub secret: Zeroizing<[u8; SECRET]>,
    /// One of these must be control's root: SHA-256 of its certificate.
    pub roots: Vec<Fingerprint>,
}

/// A text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no join token: `enforcer control token create` prints one, which begins with {MARK}.")]
pub struct NoToken;

impl Token {
    /// As it is handed over. Whoever has it can join.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        let roots: Vec<String> = self.roots.iter().map(|root| hexadecimal(root)).collect();
        Zeroizing::new(format!("{MARK}.{}.{}", hexadecimal(&*self.secret), roots.join(".")))
    }

    /// Reads a token.
    ///
    /// # Errors
    ///
    /// [`NoToken`].
    pub fn read(text: &str) -> Result<Self, NoToken> {
        let mut parts = text.trim().split('.');
        if parts.next() != Some(MARK) {
            return Err(NoToken);
        }
        let secret = Zeroizing::new(octets(parts.next().ok_or(NoToken)?)?);
        let roots: Vec<_> = parts.take(MOST_ROOTS + 1).map(octets).collect::<Result<_, _>>()?;
        if roots.is_empty() || roots.len() > MOST_ROOTS { Err(NoToken) } else { Ok(Self { secret, roots }) }
    }
}

/// Under which a token is kept.
pub(super) fn token(secret: &[u8]) -> String {
    format!("token/{}", super::hash(secret))
}

fn hexadecimal(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn octets<const N: usize>(text: &str) -> Result<[u8; N], NoToken> {
    let mut octets = [0; N];
    if text.len() != 2 * N || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(NoToken);
    }
    for (octet, pair) in octets.iter_mut().zip(text.as_bytes().chunks(2)) {
        let pair = str::from_utf8(pair).map_err(|_not_text| NoToken)?;
        *octet = u8::from_str_radix(pair, 16).map_err(|_no_digits| NoToken)?;
    }
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_written() {
        let token = Token { secret: Zeroizing::new([7; SECRET]), roots: vec![[1; SECRET], [2; SECRET]] };
        let read = Token::read(&format!("  {}\n", *token.text())).unwrap();
        assert_eq!((*read.secret, read.roots), (*token.secret, token.roots));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let good = Token { secret: Zeroizing::new([7; SECRET]), roots: vec![[1; SECRET]] };
        let good = good.text();
        let (mark_and_secret, _) = good.rsplit_once('.').unwrap();
        let many = format!("{mark_and_secret}{}", format!(".{}", "0".repeat(2 * SECRET)).repeat(MOST_ROOTS + 1));
        let cases = ["", "enforcer1", "enforcer1.", mark_and_secret, &good[1..], &good[..good.len() - 1], &many];
        for text in cases.into_iter().map(str::to_owned).chain([good.replace('7', "+"), format!("{}é", *good)]) {
            assert!(Token::read(&text).is_err(), "{text}");
        }
    }
}
