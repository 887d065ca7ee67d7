//! What is made under certificates is bound to them, and ends when one of them is revoked.
//!
//! Everybody who makes something under two certificates, a connection on its way or a relay or a pair session, has a
//! [`Bond`] and ties it as soon as the certificates are known. [`Bonds::revoke`] breaks the bonds of those that are revoked;
//! whoever has one selects on [`Bond::broken`], and ends. Open direct connections have no task that could: their table
//! knows their certificates ([`super::direct`]).
//!
//! Nothing slips through. What is revoked is kept here, under the same lock as the bonds. Who ties before a revocation is
//! found by it; who ties after it is judged by it, however long ago the handshake looked at a certificate.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use enforcer_ebpf::Reason;
use tokio_util::sync::CancellationToken;

use crate::identity::Serial;

/// Says of a certificate whether it is revoked. Called for many while others wait: it must be quick.
pub type Revoked = Arc<dyn Fn(&Serial) -> bool + Send + Sync>;

/// The bonds. Clones are the same ones.
#[derive(Clone, Default)]
pub struct Bonds(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    /// What was revoked last; whatever else was before is in it, or is not any more.
    revoked: Option<Revoked>,
    tied: BTreeMap<u64, Tied>,
    next: u64,
}

struct Tied {
    /// Under which certificates.
    serials: Vec<Serial>,
    broken: CancellationToken,
}

impl Bonds {
    /// A bond of something that may be made. It costs nothing until it is tied.
    #[must_use]
    pub fn bond(&self) -> Bond {
        let mut table = self.locked();
        let number = table.next;
        table.next += 1;
        Bond { bonds: self.clone(), number, broken: CancellationToken::new() }
    }

    /// From now on these certificates are revoked and no others. Breaks all bonds of them, and says how many.
    pub fn revoke(&self, revoked: Revoked) -> usize {
        let mut table = self.locked();
        let is_broken = |tied: &&Tied| tied.serials.iter().any(|serial| revoked(serial));
        let broken: Vec<_> = table.tied.values().filter(is_broken).map(|tied| tied.broken.clone()).collect();
        table.revoked = Some(revoked);
        drop(table);
        broken.iter().for_each(CancellationToken::cancel);
        broken.len()
    }

    /// Whether one of these certificates is revoked.
    #[must_use]
    pub fn are_revoked(&self, serials: &[Serial]) -> bool {
        self.locked().are_revoked(serials)
    }

    /// What it protects stays whole when a holder panics: every change is one insert, removal or assignment.
    fn locked(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn are_revoked(&self, serials: &[Serial]) -> bool {
        self.revoked.as_ref().is_some_and(|revoked| serials.iter().any(|serial| revoked(serial)))
    }
}

/// Binds one thing to certificates, until it is dropped.
pub struct Bond {
    bonds: Bonds,
    number: u64,
    broken: CancellationToken,
}

impl Bond {
    /// The thing is being made under these certificates, and under those that it was tied to before.
    ///
    /// # Errors
    ///
    /// [`Reason::CertificateRevoked`], when one of these is. It is not tied to them then.
    pub fn tie(&self, serials: &[Serial]) -> Result<(), Reason> {
        let mut table = self.bonds.locked();
        if table.are_revoked(serials) {
            return Err(Reason::CertificateRevoked);
        }
        let fresh = || Tied { serials: Vec::new(), broken: self.broken.clone() };
        let tied = table.tied.entry(self.number).or_insert_with(fresh);
        let new: Vec<_> = serials.iter().filter(|serial| !tied.serials.contains(serial)).collect();
        tied.serials.extend(new);
        Ok(())
    }

    /// Whether it holds, also at the moment when a revocation is under way.
    ///
    /// # Errors
    ///
    /// [`Reason::CertificateRevoked`].
    pub fn check(&self) -> Result<(), Reason> {
        let table = self.bonds.locked();
        let is_broken = table.tied.get(&self.number).is_some_and(|tied| table.are_revoked(&tied.serials));
        if is_broken || self.broken.is_cancelled() { Err(Reason::CertificateRevoked) } else { Ok(()) }
    }

    /// Returns when a certificate that it is tied to is revoked.
    pub async fn broken(&self) {
        self.broken.cancelled().await;
    }
}

impl Drop for Bond {
    fn drop(&mut self) {
        self.bonds.locked().tied.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn serials<const N: usize>(numbers: [u8; N]) -> [Serial; N] {
        numbers.map(|number| Serial::from_der(&[number]).unwrap())
    }

    fn only(number: u8) -> Revoked {
        let [revoked] = serials([number]);
        Arc::new(move |serial| *serial == revoked)
    }

    async fn is_told(bond: &Bond) -> bool {
        timeout(Duration::ZERO, bond.broken()).await.is_ok()
    }

    #[tokio::test]
    async fn a_bond_breaks_with_either_certificate_and_no_other() {
        let bonds = Bonds::default();
        let [first, second, other, untied] = [(); 4].map(|()| bonds.bond());
        first.tie(&serials([1, 2])).unwrap();
        second.tie(&serials([3, 1])).unwrap();
        other.tie(&serials([3, 4])).unwrap();
        assert_eq!(bonds.revoke(only(1)), 2);
        assert!(is_told(&first).await && is_told(&second).await);
        assert!(!is_told(&other).await && !is_told(&untied).await);
        let checked = [first, second, other, untied].map(|bond| bond.check().is_err());
        assert_eq!(checked, [true, true, false, false]);
        assert!(bonds.locked().tied.is_empty());
    }

    #[test]
    fn who_is_late_is_judged_by_what_was_revoked_before() {
        let bonds = Bonds::default();
        let late = bonds.bond();
        assert_eq!(bonds.revoke(only(1)), 0);
        assert_eq!(late.tie(&serials([2, 1])), Err(Reason::CertificateRevoked));
        assert_eq!(late.check(), Ok(()), "it is made under other certificates now");
        assert_eq!(late.tie(&serials([2, 3])), Ok(()));
        assert!(bonds.are_revoked(&serials([1])) && !bonds.are_revoked(&serials([2, 3])));
        assert_eq!(bonds.revoke(only(3)), 1);
        assert_eq!(late.check(), Err(Reason::CertificateRevoked));
        assert!(!bonds.are_revoked(&serials([1])), "the last word counts");
    }

    #[test]
    fn a_bond_counts_all_that_it_was_tied_to() {
        let bonds = Bonds::default();
        let bond = bonds.bond();
        for _ in 0..3 {
            bond.tie(&serials([1, 2])).unwrap();
            bond.tie(&serials([3, 2])).unwrap();
        }
        assert_eq!(bonds.locked().tied[&bond.number].serials, serials([1, 2, 3]));
        assert_eq!(bonds.revoke(only(1)), 1);
    }
}
