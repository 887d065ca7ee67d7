//! Roots and intermediates: made under labels of their own, found again by them, opened once.

use std::sync::{Arc, PoisonError};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::{Duration, OffsetDateTime};

use super::slots::{Intermediate, Slot, Slots, State};
use super::trust::VERSION;
use super::{ATTEMPTS, Asker, Domain, Error, Event, NAME, SLOTS, journal, seconds};
use crate::ca::issuer::{self, Issuer};
use crate::ca::keys::Key;
use crate::ca::store::{Outcome, Transaction};
use crate::ca::{Error as CaError, template};
use crate::identity::name::check_trust_domain;
use crate::identity::request::blocking;

/// An intermediate with less than this ahead of it is followed by another.
const RENEW: Duration = Duration::days(30);

impl Domain {
    /// The slots as they are now.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn slots(&self) -> Result<Slots, Error> {
        Ok(self.held_slots().await?.1)
    }

    /// The slots, and their entry for the condition of a transaction.
    pub(super) async fn held_slots(&self) -> Result<(Option<Vec<u8>>, Slots), Error> {
        let (entry, slots) = self.held(SLOTS).await?;
        let missing = || Error::Entry { key: SLOTS.to_owned(), cause: serde::de::Error::custom("it is missing") };
        Ok((entry, slots.ok_or_else(missing)?))
    }

    /// Makes the first authority where there is none. Of several replicas that start at once, one makes it.
    pub(super) async fn ensure_first(&self) -> Result<(), Error> {
        let expected = &self.parts.trust_domain;
        check_trust_domain(expected).map_err(|cause| Error::TrustDomain { name: expected.clone(), cause })?;
        if self.parts.store.get(NAME).await?.is_none() {
            let slots = Slots::first(self.make_slot().await?);
            let made = Transaction::new()
                .create(NAME, journal::write(expected))
                .create(SLOTS, journal::write(&slots))
                .create(VERSION, journal::write(&slots.since));
            match self.commit(made).await? {
                Outcome::Committed => self.note(Event::Made, &Asker::Control, (&slots.slots[0].id, expected))?,
                Outcome::Conflict => self.forget(&slots.slots[0]).await,
            }
        }
        let found: String = self.read(NAME).await?.unwrap_or_default();
        if found != *expected {
            return Err(Error::OtherTrustDomain { found, expected: expected.clone() });
        }
        let slots = self.slots().await?;
        for slot in &slots.slots {
            self.issuer(slot).await?;
        }
        Ok(())
    }

    /// Makes a root and an intermediate. Nothing knows of them yet.
    pub(super) async fn make_slot(&self) -> Result<Slot, Error> {
        let id = format!("{:08x}", rand::random::<u32>());
        let label = root_label(&id);
        let key = self.parts.keys.generate(&label, self.parts.terms.algorithm).await?;
        let params = template::root(&self.parts.trust_domain, &format!("root {id}"), OffsetDateTime::now_utc())?;
        let root = blocking(move || params.self_signed(&key)).await.map_err(CaError::Sign)?;
        let slot = Slot { id, state: State::Prepared, root: root.pem(), is_upstream: false, intermediates: Vec::new() };
        let intermediate = self.make_intermediate(&slot).await?;
        Ok(Slot { intermediates: vec![intermediate], ..slot })
    }

    async fn make_intermediate(&self, slot: &Slot) -> Result<Intermediate, Error> {
        let label = format!("intermediate-{}-{:08x}", slot.id, rand::random::<u32>());
        let name = label.replacen('-', " ", 1);
        let root = certificate(&slot.root)?;
        let ends = issuer::end(&root).ok_or_else(unreadable)?;
        let root_key = self.parts.keys.open(&root_label(&slot.id)).await?;
        let key = self.parts.keys.generate(&label, self.parts.terms.algorithm).await?;
        let params = template::intermediate(&self.parts.trust_domain, &name, OffsetDateTime::now_utc(), ends)?;
        let signer = rcgen::Issuer::from_ca_cert_der(&root, root_key).map_err(CaError::Sign)?;
        let signed = blocking(move || params.signed_by(&key, &signer)).await.map_err(CaError::Sign)?;
        Ok(Intermediate { key: label, certificate: signed.pem(), above: Vec::new() })
    }

    /// Destroys the keys of a slot that nobody needs. What cannot be destroyed stays, and does no harm: nobody trusts
    /// its root.
    pub(super) async fn forget(&self, slot: &Slot) {
        let labels = slot.intermediates.iter().map(|intermediate| intermediate.key.clone());
        let root = (!slot.is_upstream).then(|| root_label(&slot.id));
        for label in labels.chain(root) {
            if let Err(error) = self.parts.keys.destroy(&label).await {
                tracing::warn!(label, %error, "key not destroyed");
            }
        }
    }

    /// What issues in this slot.
    pub(super) async fn issuer(&self, slot: &Slot) -> Result<Arc<Issuer>, Error> {
        let newest = slot.intermediates.first().ok_or_else(unreadable)?;
        self.opened(newest).await
    }

    /// An intermediate, ready to sign.
    pub(super) async fn opened(&self, intermediate: &Intermediate) -> Result<Arc<Issuer>, Error> {
        let cached = self.opened.lock().unwrap_or_else(PoisonError::into_inner).get(&intermediate.key).cloned();
        if let Some(issuer) = cached {
            return Ok(issuer);
        }
        let key: Key = self.parts.keys.open(&intermediate.key).await?;
        let certificate = certificate(&intermediate.certificate)?;
        let mut issuer = Issuer::new(certificate, key).ok_or_else(unreadable)?;
        issuer.above = intermediate.above.iter().map(|pem| self::certificate(pem)).collect::<Result<_, _>>()?;
        let issuer = Arc::new(issuer);
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(opened.entry(intermediate.key.clone()).or_insert(issuer)))
    }

    /// Makes a new intermediate where the one that issues ends soon, and forgets those that have ended.
    pub(super) async fn renew_intermediates(&self, now: OffsetDateTime) -> Result<(), Error> {
        for _ in 0..ATTEMPTS {
            let (before, slots) = self.held_slots().await?;
            let mut after = slots.clone();
            for slot in &mut after.slots {
                let ends = self.issuer(slot).await?.ends;
                if slot.is_upstream && ends - now < RENEW {
                    let (id, how) = (&slot.id, "ask for another one with `enforcer ca csr` and `enforcer ca import`");
                    tracing::warn!(authority = %id, until = %ends, "the upstream intermediate ends soon: {how}");
                } else if ends - now < RENEW {
                    slot.intermediates.insert(0, self.make_intermediate(slot).await?);
                }
                slot.intermediates.retain(|held| {
                    let end = certificate(&held.certificate).ok().and_then(|held| issuer::end(&held));
                    end.is_some_and(|end| end > now)
                });
            }
            if after == slots {
                return Ok(());
            }
            let changed = Transaction::new().replace(SLOTS, before, Some(journal::write(&after)));
            if self.commit(changed).await? == Outcome::Committed {
                return self.note(Event::Renewed, &Asker::Control, (&self.parts.trust_domain, "intermediate"));
            }
        }
        Err(Error::Busy)
    }
}

/// The roots of all slots.
pub(super) fn roots(slots: &Slots) -> Result<Vec<CertificateDer<'static>>, Error> {
    slots.slots.iter().map(|slot| certificate(&slot.root)).collect()
}

fn root_label(id: &str) -> String {
    format!("root-{id}")
}

pub(super) fn certificate(pem: &str) -> Result<CertificateDer<'static>, Error> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_malformed| unreadable())
}

fn unreadable() -> Error {
    Error::Entry { key: SLOTS.to_owned(), cause: serde::de::Error::custom("it has no certificate of an authority") }
}

/// When a certificate that lives so long ends at the latest.
pub(super) fn end_of(now: OffsetDateTime, lifetime: Duration) -> i64 {
    seconds(now + lifetime)
}
