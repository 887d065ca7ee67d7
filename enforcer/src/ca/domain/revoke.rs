//! Certificates die: bans first, so that nothing new comes up behind, then what was issued, then everybody is told.

use std::collections::HashSet;

use time::OffsetDateTime;

use super::journal::{self, Issuance, JOURNAL, REVOKED, Reason, Revocation, Target, ban_of_identity};
use super::trust::VERSION;
use super::{ATTEMPTS, Asker, Domain, Error, Event, seconds};
use crate::ca::store::{Condition, MOST_CHANGES, Outcome, Transaction};

/// Certificates in one transaction: each is one change, and the version is another.
const BATCH: usize = MOST_CHANGES - 2;

impl Domain {
    /// Revokes certificates. An identity or a node is issued no more, even when there is nothing to revoke.
    ///
    /// # Errors
    ///
    /// [`Error::NothingToRevoke`], for a serial number that is not in the journal; others when it cannot be written: part
    /// of it may be done then, and doing it again does the rest.
    pub async fn revoke(&self, target: &Target, reason: Reason, who: &Asker) -> Result<Vec<Issuance>, Error> {
        if let Some(ban) = target.ban() {
            self.note(Event::Banned, who, (&target.to_string(), reason.label()))?;
            let _done = self.commit(Transaction::new().put(ban, reason.label())).await?;
        }
        let now = OffsetDateTime::now_utc();
        // A certificate that is being issued meanwhile is in the journal by now, or meets the ban.
        let alive = self.alive(now).await?;
        let dying: Vec<Issuance> = alive.into_iter().filter(|issuance| target.means(issuance)).collect();
        if dying.is_empty() && target.ban().is_none() {
            return Err(Error::NothingToRevoke { what: target.to_string() });
        }
        for batch in dying.chunks(BATCH) {
            for issuance in batch {
                let about = format!("{} {}", issuance.serial, reason.label());
                self.note(Event::Revoked, who, (&issuance.name, &about))?;
            }
            self.bury(batch, reason, now).await?;
        }
        Ok(dying)
    }

    async fn bury(&self, dying: &[Issuance], reason: Reason, now: OffsetDateTime) -> Result<(), Error> {
        self.tell(|transaction| {
            dying.iter().fold(transaction, |transaction, issuance| {
                let entry = Revocation {
                    serial: issuance.serial.clone(),
                    reason,
                    at: seconds(now),
                    not_after: issuance.not_after,
                    slot: issuance.slot.clone(),
                };
                transaction.put(journal::revoked(&issuance.serial), journal::write(&entry))
            })
        })
        .await
    }

    /// Commits what changes the trust of everybody, with its next version.
    pub(super) async fn tell(&self, with: impl Fn(Transaction) -> Transaction) -> Result<(), Error> {
        for _ in 0..ATTEMPTS {
            let (before, version) = self.held::<u64>(VERSION).await?;
            let next = journal::write(&(version.unwrap_or_default() + 1));
            let next = Transaction::new().replace(VERSION, before, Some(next));
            if self.commit(with(next)).await? == Outcome::Committed {
                return Ok(());
            }
        }
        Err(Error::Busy)
    }

    /// Lets an identity be issued again. False: it was not banned.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn admit(&self, identity: &str, who: &Asker) -> Result<bool, Error> {
        let ban = ban_of_identity(identity);
        let Some(banned) = self.parts.store.get(&ban).await? else { return Ok(false) };
        self.note(Event::Admitted, who, (identity, ""))?;
        let outcome = self.commit(Transaction::new().replace(ban, Some(banned), None)).await?;
        Ok(outcome == Outcome::Committed)
    }

    /// Everything in the journal, expired ones too, by serial number.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn issued(&self) -> Result<Vec<Issuance>, Error> {
        let entries = self.parts.store.list(JOURNAL).await?;
        entries.iter().map(|(key, value)| Issuance::read(key, value)).collect()
    }

    /// Everything that is revoked and not forgotten, by serial number.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn revoked(&self) -> Result<Vec<Revocation>, Error> {
        let entries = self.parts.store.list(REVOKED).await?;
        entries.iter().map(|(key, value)| Revocation::read(key, value)).collect()
    }

    /// What was issued, is not over and not revoked. What is in the journal when this is asked is there.
    pub(super) async fn alive(&self, now: OffsetDateTime) -> Result<Vec<Issuance>, Error> {
        let issued = self.issued().await?;
        let revoked: HashSet<String> = self.revoked().await?.into_iter().map(|revoked| revoked.serial).collect();
        let is_alive = |issuance: &Issuance| !issuance.is_over(now) && !revoked.contains(&issuance.serial);
        Ok(issued.into_iter().filter(is_alive).collect())
    }

    /// Refuses a node whose certificate is revoked.
    ///
    /// # Errors
    ///
    /// [`Error::Revoked`].
    pub async fn check_node(&self, node: &str, serial: &str) -> Result<(), Error> {
        match self.parts.store.get(&journal::revoked(serial)).await? {
            Some(_) => Err(Error::Revoked { node: node.to_owned(), serial: serial.to_owned() }),
            None => Ok(()),
        }
    }

    /// Forgets what has expired, and renews what issues.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn tidy(&self) -> Result<(), Error> {
        let now = OffsetDateTime::now_utc();
        self.renew_intermediates(now).await?;
        let over = self.issued().await?.into_iter().filter(|issuance| issuance.is_over(now));
        let over = over.map(|issuance| journal::journal(&issuance.serial));
        let revoked = self.revoked().await?.into_iter().filter(|revoked| revoked.not_after <= seconds(now));
        let keys: Vec<String> = over.chain(revoked.map(|revoked| journal::revoked(&revoked.serial))).collect();
        for batch in keys.chunks(MOST_CHANGES) {
            let forget = batch.iter().fold(Transaction::new(), Transaction::remove);
            let _done = self.commit(forget).await?;
        }
        self.forget_tokens(now).await
    }

    async fn forget_tokens(&self, now: OffsetDateTime) -> Result<(), Error> {
        for (key, value) in self.parts.store.list("token/").await? {
            let entry: super::tokens::Entry = journal::read(&key, &value)?;
            if entry.expires <= seconds(now) {
                let mut forget = Transaction::new().remove(&key);
                forget.conditions.push((key, Condition::Is(value)));
                let _done = self.commit(forget).await?;
            }
        }
        Ok(())
    }
}
