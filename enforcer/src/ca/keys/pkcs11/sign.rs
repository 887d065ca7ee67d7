//! Signatures from a token, in the form that certificates have them.
//!
//! For ECDSA the token gets a hash that is calculated here, so that no more than it goes to the token, and gives the two
//! numbers one after the other; RFC 3279 2.2.3 wants a SEQUENCE of them. For Ed25519 it gets the message.

use aws_lc_rs::digest::{SHA256, SHA384, digest};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm,
};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};

use super::object::{self, Public};
use super::token::{Failure, Open, calling};
use super::{Algorithm, Error};

/// Octets of an Ed25519 signature (RFC 8032 5.1.6).
const ED25519_LEN: usize = 64;

/// Signs a message.
pub(super) fn sign(open: &mut Open, label: &str, public: &Public, message: &[u8]) -> Result<Vec<u8>, Failure> {
    let key = object::private(open, label, &public.id)?;
    let ask = |mechanism, data: &[u8]| open.session.sign(&mechanism, key, data).map_err(calling("sign"));
    let signature = match public.algorithm {
        Algorithm::EcdsaP256 => der(&ask(Mechanism::Ecdsa, digest(&SHA256, message).as_ref())?, 32),
        Algorithm::EcdsaP384 => der(&ask(Mechanism::Ecdsa, digest(&SHA384, message).as_ref())?, 48),
        Algorithm::Ed25519 => {
            let signature = ask(Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519)), message)?;
            (signature.len() == ED25519_LEN).then_some(signature)
        }
    };
    signature.ok_or_else(|| Error::unsupported(&open.token, label, "its signature has a wrong length").into())
}

/// Whether the key has signed the message.
pub(super) fn verifies(public: &Public, message: &[u8], signature: &[u8]) -> bool {
    let algorithm: &'static dyn VerificationAlgorithm = match public.algorithm {
        Algorithm::EcdsaP256 => &ECDSA_P256_SHA256_ASN1,
        Algorithm::EcdsaP384 => &ECDSA_P384_SHA384_ASN1,
        Algorithm::Ed25519 => &ED25519,
    };
    UnparsedPublicKey::new(algorithm, &public.point).verify(message, signature).is_ok()
}

/// Two numbers of the same length, at most `longest` octets, as a SEQUENCE of two INTEGER. Short enough that each length
/// is one octet.
fn der(raw: &[u8], longest: usize) -> Option<Vec<u8>> {
    if raw.is_empty() || !raw.len().is_multiple_of(2) || raw.len() > 2 * longest {
        return None;
    }
    let (r, s) = raw.split_at(raw.len() / 2);
    let content = [integer(r)?, integer(s)?].concat();
    Some([&[0x30, u8::try_from(content.len()).ok()?], &content[..]].concat())
}

/// A number above zero as an INTEGER (X.690 8.3): no superfluous octet, and a zero before what would be a sign.
fn integer(number: &[u8]) -> Option<Vec<u8>> {
    let digits = &number[number.iter().position(|octet| *octet != 0)?..];
    let sign: &[u8] = if digits[0] & 0x80 == 0 { &[] } else { &[0] };
    let length = u8::try_from(sign.len() + digits.len()).ok()?;
    Some([&[0x02, length], sign, digits].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_encoded_as_short_as_they_can_be() {
        let encoded = |r: &[u8], s: &[u8]| der(&[r, s].concat(), 4);
        assert_eq!(encoded(&[1], &[2]).unwrap(), [0x30, 6, 2, 1, 1, 2, 1, 2]);
        assert_eq!(encoded(&[0, 0, 0, 1], &[0, 0x80, 0, 0]).unwrap(), [0x30, 9, 2, 1, 1, 2, 4, 0, 0x80, 0, 0]);
        assert_eq!(encoded(&[0xff; 4], &[0x7f; 4]).unwrap()[..5], [0x30, 13, 2, 5, 0]);
        assert_eq!(encoded(&[0; 4], &[1; 4]), None, "zero is no part of a signature");
        assert_eq!(encoded(&[1; 5], &[1; 5]), None);
        assert_eq!(der(&[1; 3], 4), None);
        assert_eq!(der(&[], 4), None);
        assert_eq!(der(&[0xff; 96], 48).unwrap().len(), 2 + 2 * (2 + 49));
    }
}
