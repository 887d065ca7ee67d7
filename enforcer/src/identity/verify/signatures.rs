//! Signatures of certificates and of revocation lists that were found good are not verified again.
//!
//! The same workloads connect all the time, with the same chains, and each time four signatures were verified that had been
//! good before: more than a fifth of what a handshake costs. Whether a signature is one is a function of key, message, signature
//! and algorithm alone, so nothing can make a good one bad; what can change (times, revocation, roots, the identity that is
//! expected) is judged in every handshake, and the proof that the peer has its key is no business of this.
//!
//! What is remembered is a digest of all four. Only what is below a trusted root gets here (webpki verifies from the root
//! down, and stops at the first that is bad), and it takes 128 KiB at most.

use std::collections::HashSet;
use std::mem;
use std::sync::{LazyLock, Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use rustls::pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};

use crate::identity::tls::crypto_provider;

/// Signatures that are remembered at least, once there were as many; at most it is twice as many.
const REMEMBERED: usize = 1024;

type Digest = [u8; 32];

static ALGORITHMS: LazyLock<Vec<Remembering>> = LazyLock::new(|| {
    let algorithms = crypto_provider().signature_verification_algorithms.all;
    (0..).zip(algorithms).map(|(number, &algorithm)| Remembering { number, algorithm, memory: &MEMORY }).collect()
});
static MEMORY: LazyLock<Memory> = LazyLock::new(Memory::default);

/// All algorithms, each of which asks the one that it stands for only what it does not know.
pub(super) fn algorithms() -> &'static [&'static dyn SignatureVerificationAlgorithm] {
    static ALL: LazyLock<Vec<&'static dyn SignatureVerificationAlgorithm>> =
        LazyLock::new(|| ALGORITHMS.iter().map(|algorithm| algorithm as _).collect());
    &ALL
}

#[derive(Debug)]
struct Remembering {
    /// Tells the algorithms apart.
    number: u8,
    algorithm: &'static dyn SignatureVerificationAlgorithm,
    memory: &'static Memory,
}

impl SignatureVerificationAlgorithm for Remembering {
    fn verify_signature(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let digest = digest(self.number, [public_key, message, signature]);
        if self.memory.holds(&digest) {
            return Ok(());
        }
        self.algorithm.verify_signature(public_key, message, signature)?;
        self.memory.keep(digest);
        Ok(())
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.signature_alg_id()
    }

    fn fips(&self) -> bool {
        self.algorithm.fips()
    }
}

/// Of the parts and of their lengths: no octet can be taken for one of another part.
fn digest(algorithm: u8, parts: [&[u8]; 3]) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(&[algorithm]);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut digest = Digest::default();
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// What was found good. What nobody has asked for since the newer half began is forgotten when that is full.
#[derive(Debug, Default)]
struct Memory(Mutex<Halves>);

#[derive(Debug, Default)]
struct Halves {
    newer: HashSet<Digest>,
    older: HashSet<Digest>,
}

impl Memory {
    fn holds(&self, digest: &Digest) -> bool {
        let mut halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if halves.newer.contains(digest) {
            return true;
        }
        let is_older = halves.older.remove(digest);
        if is_older {
            halves.keep(*digest);
        }
        is_older
    }

    fn keep(&self, digest: Digest) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keep(digest);
    }
}

impl Halves {
    fn keep(&mut self, digest: Digest) {
        if self.newer.len() >= REMEMBERED {
            self.older = mem::take(&mut self.newer);
        }
        self.newer.insert(digest);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Takes signatures that begin as the message does, and counts how often it was asked.
    #[derive(Debug, Default)]
    struct Asked(AtomicUsize);

    impl SignatureVerificationAlgorithm for Asked {
        fn verify_signature(&self, _key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
            self.0.fetch_add(1, Ordering::Relaxed);
            if signature.starts_with(message) { Ok(()) } else { Err(InvalidSignature) }
        }

        fn public_key_alg_id(&self) -> AlgorithmIdentifier {
            AlgorithmIdentifier::from_slice(&[])
        }

        fn signature_alg_id(&self) -> AlgorithmIdentifier {
            AlgorithmIdentifier::from_slice(&[])
        }
    }

    fn remembering() -> (&'static Asked, [Remembering; 2]) {
        let (asked, memory): (&Asked, &Memory) = (Box::leak(Box::default()), Box::leak(Box::default()));
        (asked, [0, 1].map(|number| Remembering { number, algorithm: asked, memory }))
    }

    #[test]
    fn a_good_signature_is_verified_once_and_a_bad_one_each_time() {
        let (asked, [algorithm, _]) = remembering();
        for (signature, is_good, times) in
            [("sign", true, 1), ("sign", true, 1), ("bad", false, 2), ("bad", false, 3), ("sign", true, 3)]
        {
            assert_eq!(algorithm.verify_signature(b"key", b"si", signature.as_bytes()).is_ok(), is_good);
            assert_eq!(asked.0.load(Ordering::Relaxed), times, "{signature}");
        }
    }

    #[test]
    fn whatever_differs_is_verified() {
        let (asked, [algorithm, other]) = remembering();
        algorithm.verify_signature(b"key", b"me", b"message").unwrap();
        for (algorithm, key, message, signature) in [
            (&other, "key", "me", "message"),
            (&algorithm, "kez", "me", "message"),
            (&algorithm, "key", "mes", "message"),
            (&algorithm, "key", "me", "messages"),
            // The same octets, cut elsewhere.
            (&algorithm, "ke", "yme", "message"),
            (&algorithm, "keym", "e", "message"),
            (&algorithm, "key", "mem", "essage"),
        ] {
            let before = asked.0.load(Ordering::Relaxed);
            let _either = algorithm.verify_signature(key.as_bytes(), message.as_bytes(), signature.as_bytes());
            assert_eq!(asked.0.load(Ordering::Relaxed), before + 1, "{key} {message} {signature}");
        }
    }

    #[test]
    fn what_is_asked_for_stays_and_the_memory_does_not_grow() {
        let memory = Memory::default();
        memory.keep([0xff; 32]);
        for number in 0..10 * REMEMBERED {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&number.to_be_bytes());
            memory.keep(digest);
            assert!(memory.holds(&[0xff; 32]), "forgotten after {number}");
        }
        let halves = memory.0.into_inner().unwrap();
        assert!(halves.newer.len() <= REMEMBERED && halves.older.len() <= REMEMBERED);
    }
}
