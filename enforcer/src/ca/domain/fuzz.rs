//! Any octets as what is in the store, and as a token.

use rcgen::{CertificateParams, Issuer, KeyPair};
use time::{Duration, OffsetDateTime};

use super::authority::{certificate, roots};
use super::journal::{self, Issuance, JOURNAL, REVOKED, Revocation};
use super::slots::Slots;
use super::tokens::{Entry, Token};
use super::trust::list;
use crate::fuzzing::{Input, key};

/// Entries of the journal, each a key and a value; what was revoked goes into a list.
pub(crate) fn journal(data: &[u8]) {
    let mut input = Input(data);
    let mut dead = Vec::new();
    while let (Some(kind), Some(name), Some(value)) = (input.octet(), input.part(), input.part()) {
        let name = String::from_utf8_lossy(name);
        match kind % 3 {
            0 => drop(Issuance::read(&format!("{JOURNAL}{name}"), value).map(|entry| entry.is_over(now()))),
            1 => dead.extend(Revocation::read(&format!("{REVOKED}{name}"), value)),
            _ => drop(journal::read::<Entry>("token/0", value).map(|entry| entry.expires)),
        }
    }
    let Ok(params) = list(&dead, (1, now()), Duration::DAY) else { return };
    let signer = KeyPair::try_from(&key()).expect("a known key is one");
    // An authority may refuse to sign what it is given.
    drop(params.signed_by(&Issuer::new(CertificateParams::default(), signer)));
}

/// The authorities of a trust domain, and each step from there.
pub(crate) fn slots(data: &[u8]) {
    let Ok(slots) = journal::read::<Slots>("slots", data) else { return };
    drop(roots(&slots));
    for intermediate in slots.slots.iter().flat_map(|slot| &slot.intermediates) {
        drop(certificate(&intermediate.certificate));
    }
    assert_eq!(journal::read::<Slots>("slots", &journal::write(&slots)).ok().as_ref(), Some(&slots));
    drop((slots.active(), slots.may_prepare(), slots.activated(), slots.retired()));
}

/// A token that is one is read as it is written.
pub(crate) fn token(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok(token) = Token::read(text) else { return };
    let again = Token::read(&token.text()).expect("what is written is read");
    assert!(*again.secret == *token.secret && again.roots == token.roots);
}

/// The same in every run.
fn now() -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::days(365 * 57)
}
