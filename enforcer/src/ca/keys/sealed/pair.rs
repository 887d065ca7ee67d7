//! A key in this process's memory.
//!
//! It is aws-lc's own, which wipes what it frees. rcgen's key pair would do the same, but keeps a copy of the PKCS#8
//! beside it that it does not wipe.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair,
};
use rcgen::{PublicKeyData, SignatureAlgorithm, SigningKey};
use zeroize::Zeroizing;

use super::{Algorithm, Error};

/// A private key with its public one.
pub(super) enum Pair {
    Ecdsa(Algorithm, EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Pair {
    /// A new key, and its PKCS#8.
    pub(super) fn generate(label: &str, algorithm: Algorithm) -> Result<(Self, Zeroizing<Vec<u8>>), Error> {
        let random = SystemRandom::new();
        let document = match curve(algorithm) {
            Some(curve) => EcdsaKeyPair::generate_pkcs8(curve, &random),
            None => Ed25519KeyPair::generate_pkcs8(&random),
        };
        let document =
            document.map_err(|_unspecified| Error::Crypto { operation: "make a pair", label: label.to_owned() })?;
        let plain = Zeroizing::new(document.as_ref().to_vec());
        Ok((Self::read(label, algorithm, &plain)?, plain))
    }

    /// The key in a PKCS#8.
    pub(super) fn read(label: &str, algorithm: Algorithm, plain: &[u8]) -> Result<Self, Error> {
        let pair = match curve(algorithm) {
            Some(curve) => EcdsaKeyPair::from_pkcs8(curve, plain).map(|pair| Self::Ecdsa(algorithm, pair)),
            None => Ed25519KeyPair::from_pkcs8(plain).map(Self::Ed25519),
        };
        pair.map_err(|_rejected| Error::Damaged {
            label: label.to_owned(),
            why: "what is sealed in it is no key of its kind",
        })
    }
}

/// `None`: not ECDSA.
fn curve(algorithm: Algorithm) -> Option<&'static EcdsaSigningAlgorithm> {
    match algorithm {
        Algorithm::EcdsaP256 => Some(&ECDSA_P256_SHA256_ASN1_SIGNING),
        Algorithm::EcdsaP384 => Some(&ECDSA_P384_SHA384_ASN1_SIGNING),
        Algorithm::Ed25519 => None,
    }
}

impl PublicKeyData for Pair {
    fn der_bytes(&self) -> &[u8] {
        match self {
            Self::Ecdsa(_, pair) => pair.public_key().as_ref(),
            Self::Ed25519(pair) => pair.public_key().as_ref(),
        }
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self {
            Self::Ecdsa(algorithm, _) => algorithm.signature(),
            Self::Ed25519(_) => Algorithm::Ed25519.signature(),
        }
    }
}

impl SigningKey for Pair {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = match self {
            Self::Ecdsa(_, pair) => pair.sign(&SystemRandom::new(), message),
            Self::Ed25519(pair) => pair.try_sign(message),
        };
        signature.map(|signature| signature.as_ref().to_vec()).map_err(|_unspecified| rcgen::Error::RingUnspecified)
    }
}
