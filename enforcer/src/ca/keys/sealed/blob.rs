//! What a sealed key looks like, and how it is encrypted.
//!
//! Version 1. Numbers are unsigned and big endian.
//!
//! | octets | what |
//! |---|---|
//! | 7 | `enf-key` |
//! | 1 | version: 1 means argon2id, version 1.3 (RFC 9106), and AES-256-GCM (NIST SP 800-38D) |
//! | 1 | what the key signs with: 1 ECDSA P-256, 2 ECDSA P-384, 3 Ed25519 |
//! | 4 | m: memory of argon2id, in KiB |
//! | 4 | t: its passes |
//! | 4 | p: its lanes |
//! | 16 | its salt |
//! | 12 | nonce of AES-GCM |
//! | rest but 16 | the key, PKCS#8 (RFC 5958), encrypted |
//! | 16 | tag of AES-GCM |
//!
//! The key of AES is argon2id's 32 octets for passphrase and salt; both are fresh for each blob, so no nonce is used
//! twice with it. Associated data are all octets before the encrypted ones, then the label: a blob under another label
//! does not open.
//!
//! A blob is not believed before its tag has been verified, and m, t and p are needed to verify it: so they are bounded.

use argon2::{Argon2, Block, Params};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::{Algorithm, Error, Passphrase};

const MAGIC: &[u8; 7] = b"enf-key";
const VERSION: u8 = 1;
const SALT_LEN: usize = 16;
const TAG_LEN: usize = 16;
const HEADER_LEN: usize = MAGIC.len() + 1 + 1 + 3 * 4 + SALT_LEN + NONCE_LEN;
/// The longest PKCS#8 of a key of ours has 185 octets.
const LONGEST_PLAIN: usize = 1024;
/// Argon2id's memory at most: 256 MiB.
const MOST_MEMORY: u32 = 256 * 1024;
/// Its passes at most, and its lanes. With the most memory it takes ten times the time of [`Cost::DEFAULT`].
const MOST_PASSES: u32 = 8;
const MOST_LANES: u32 = 4;

/// What it costs to try a passphrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cost {
    /// KiB.
    pub(super) memory: u32,
    pub(super) passes: u32,
    pub(super) lanes: u32,
}

impl Cost {
    /// Above what OWASP's Password Storage Cheat Sheet asks for (46 MiB and one pass, or 19 MiB and two), and the second
    /// choice of RFC 9106, section 4, but for the lanes, which are calculated one after the other here.
    pub(super) const DEFAULT: Self = Self { memory: 64 * 1024, passes: 3, lanes: 1 };
}

/// Encrypts a key. The memory of `plain` is used for it.
pub(super) fn seal(
    label: &str,
    algorithm: Algorithm,
    mut plain: Zeroizing<Vec<u8>>,
    passphrase: &Passphrase,
    cost: Cost,
) -> Result<Vec<u8>, Error> {
    let crypto = |operation| Error::Crypto { operation, label: label.to_owned() };
    let (mut salt, mut nonce) = ([0; SALT_LEN], [0; NONCE_LEN]);
    aws_lc_rs::rand::fill(&mut salt).map_err(|_unspecified| crypto("draw a salt"))?;
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_unspecified| crypto("draw a nonce"))?;
    let header = Header { algorithm, cost, salt, nonce };
    let key = derive(&header, passphrase).ok_or_else(|| crypto("derive a key"))?;
    let mut blob = header.octets();
    let aad = Aad::from([&blob[..], label.as_bytes()].concat());
    let tag = key
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, &mut plain)
        .map_err(|_unspecified| crypto("encrypt"))?;
    blob.extend_from_slice(&plain);
    blob.extend_from_slice(tag.as_ref());
    Ok(blob)
}

/// Decrypts a key: what it signs with, and its PKCS#8.
pub(super) fn open(
    label: &str,
    blob: Vec<u8>,
    passphrase: &Passphrase,
) -> Result<(Algorithm, Zeroizing<Vec<u8>>), Error> {
    let damaged = |why| Error::Damaged { label: label.to_owned(), why };
    // What is decrypted is wiped, whatever becomes of it.
    let mut blob = Zeroizing::new(blob);
    let header = Header::read(&blob).map_err(damaged)?;
    if !(HEADER_LEN + TAG_LEN + 1..=HEADER_LEN + TAG_LEN + LONGEST_PLAIN).contains(&blob.len()) {
        return Err(damaged("it has not the length of a key"));
    }
    let key = derive(&header, passphrase)
        .ok_or_else(|| Error::Crypto { operation: "derive a key", label: label.to_owned() })?;
    let (head, sealed) = blob.split_at_mut(HEADER_LEN);
    let aad = Aad::from([head, label.as_bytes()].concat());
    let plain = key
        .open_in_place(Nonce::assume_unique_for_key(header.nonce), aad, sealed)
        .map_err(|_unspecified| Error::Passphrase { label: label.to_owned() })?;
    Ok((header.algorithm, Zeroizing::new(plain.to_vec())))
}

/// What it would cost to open.
#[cfg(fuzzing)]
pub(super) fn cost(blob: &[u8]) -> Result<Cost, &'static str> {
    Header::read(blob).map(|header| header.cost)
}

/// What is not encrypted.
struct Header {
    algorithm: Algorithm,
    cost: Cost,
    salt: [u8; SALT_LEN],
    nonce: [u8; NONCE_LEN],
}

impl Header {
    fn octets(&self) -> Vec<u8> {
        let algorithm = match self.algorithm {
            Algorithm::EcdsaP256 => 1,
            Algorithm::EcdsaP384 => 2,
            Algorithm::Ed25519 => 3,
        };
        let mut octets = MAGIC.to_vec();
        octets.extend([VERSION, algorithm]);
        for number in [self.cost.memory, self.cost.passes, self.cost.lanes] {
            octets.extend(number.to_be_bytes());
        }
        octets.extend(self.salt);
        octets.extend(self.nonce);
        octets
    }

    /// Reads it, whatever follows; says what is wrong.
    fn read(blob: &[u8]) -> Result<Self, &'static str> {
        const SHORT: &str = "it ends early";
        let rest = blob.strip_prefix(MAGIC).ok_or("it does not begin as a sealed key")?;
        let (&[version, algorithm], rest) = rest.split_first_chunk().ok_or(SHORT)?;
        if version != VERSION {
            return Err("its version is unknown: it may be from a newer release");
        }
        let algorithm = match algorithm {
            1 => Algorithm::EcdsaP256,
            2 => Algorithm::EcdsaP384,
            3 => Algorithm::Ed25519,
            _ => return Err("what it signs with is unknown"),
        };
        let (memory, rest) = rest.split_first_chunk().ok_or(SHORT)?;
        let (passes, rest) = rest.split_first_chunk().ok_or(SHORT)?;
        let (lanes, rest) = rest.split_first_chunk().ok_or(SHORT)?;
        let [memory, passes, lanes] = [memory, passes, lanes].map(|number| u32::from_be_bytes(*number));
        if memory > MOST_MEMORY || !(1..=MOST_PASSES).contains(&passes) || !(1..=MOST_LANES).contains(&lanes) {
            return Err("its parameters of argon2id are out of bounds");
        }
        let (salt, rest) = rest.split_first_chunk().ok_or(SHORT)?;
        let (nonce, _sealed) = rest.split_first_chunk().ok_or(SHORT)?;
        Ok(Self { algorithm, cost: Cost { memory, passes, lanes }, salt: *salt, nonce: *nonce })
    }
}

/// The key of AES. `None`: parameters that argon2id does not know, or no memory.
fn derive(header: &Header, passphrase: &Passphrase) -> Option<LessSafeKey> {
    let Cost { memory, passes, lanes } = header.cost;
    let params = Params::new(memory, passes, lanes, Some(32)).ok()?;
    let mut blocks = Vec::new();
    blocks.try_reserve_exact(params.block_count()).ok()?;
    blocks.resize(params.block_count(), Block::default());
    let mut blocks = Zeroizing::new(blocks);
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
        .hash_password_into_with_memory(passphrase.octets(), &header.salt, &mut *key, blocks.as_mut_slice())
        .ok()?;
    UnboundKey::new(&AES_256_GCM, &*key).ok().map(LessSafeKey::new)
}
