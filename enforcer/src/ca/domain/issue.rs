//! Joining and issuing: who may have which certificate, and the one transaction that gives it.

use rustls::pki_types::{CertificateSigningRequestDer, UnixTime};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use super::authority::{end_of, roots};
use super::journal::{self, Issuance, ban_of_identity, ban_of_node};
use super::tokens::{self, Entry, SECRET, Token};
use super::{Asker, Domain, Error, Event, RESERVED, control_identity, node_identity, seconds};
use crate::ca::Issued;
use crate::ca::store::{Condition, Outcome, Transaction};
use crate::identity::name::NameError;
use crate::identity::request::blocking;
use crate::identity::verify::{Anchors, fingerprint};
use crate::identity::{Identity, verify_at};

/// What a certificate is asked for.
struct Wanted<'a> {
    /// Whom it names.
    identity: &'a Identity,
    /// To whom it is given; empty for control.
    node: &'a str,
    lifetime: Duration,
    /// What else is in the transaction that issues it.
    with: Transaction,
}

impl Domain {
    /// A workload's certificate.
    ///
    /// # Errors
    ///
    /// [`Error`]; the refusal is in the audit log.
    pub async fn issue(
        &self,
        (node, identity): (&str, &Identity),
        request: &CertificateSigningRequestDer<'static>,
        who: &Asker,
    ) -> Result<Issued, Error> {
        let issued = self.issue_unless(node, identity, request).await;
        self.noted(issued, who, identity.as_str())
    }

    async fn issue_unless(
        &self,
        node: &str,
        identity: &Identity,
        request: &CertificateSigningRequestDer<'static>,
    ) -> Result<Issued, Error> {
        let placed = self.placed(node)?;
        if identity.path().starts_with(RESERVED) || !placed.contains(identity) {
            return Err(Error::NotPlaced { node: node.to_owned(), identity: identity.clone() });
        }
        let with = Transaction::new();
        self.certify(request, Wanted { identity, node, lifetime: self.parts.terms.workload, with }).await
    }

    /// A node's first certificate, for a token.
    ///
    /// # Errors
    ///
    /// [`Error`]; the refusal is in the audit log.
    pub async fn join(
        &self,
        secret: &[u8],
        request: &CertificateSigningRequestDer<'static>,
        who: &Asker,
    ) -> Result<Issued, Error> {
        let (subject, issued) = match self.redeem(secret, request).await {
            Ok((node, issued)) => (node, Ok(issued)),
            Err(error) => ("join".to_owned(), Err(error)),
        };
        self.noted(issued, who, &subject)
    }

    async fn redeem(
        &self,
        secret: &[u8],
        request: &CertificateSigningRequestDer<'static>,
    ) -> Result<(String, Issued), Error> {
        let key = tokens::token(secret);
        let held = self.parts.store.get(&key).await?.filter(|_| secret.len() == SECRET).ok_or(Error::Token)?;
        let entry: Entry = journal::read(&key, &held)?;
        if entry.expires <= seconds(OffsetDateTime::now_utc()) {
            return Err(Error::Token);
        }
        self.placed(&entry.node)?;
        let identity = self.named(node_identity(&self.parts.trust_domain, &entry.node))?;
        // Used in the transaction that issues: of two who have the same token, one joins.
        let with = Transaction::new().replace(&key, Some(held), None);
        let wanted = Wanted { identity: &identity, node: &entry.node, lifetime: self.parts.terms.node, with };
        let issued = self.certify(request, wanted).await;
        Ok((entry.node.clone(), issued?))
    }

    /// A node's next certificate.
    ///
    /// # Errors
    ///
    /// [`Error`]; the refusal is in the audit log.
    pub async fn renew(
        &self,
        node: &str,
        request: &CertificateSigningRequestDer<'static>,
        who: &Asker,
    ) -> Result<Issued, Error> {
        let identity = self.named(node_identity(&self.parts.trust_domain, node))?;
        let placed = self.placed(node).map(drop);
        let wanted = Wanted { identity: &identity, node, lifetime: self.parts.terms.node, with: Transaction::new() };
        let issued = match placed {
            Ok(()) => self.certify(request, wanted).await,
            Err(error) => Err(error),
        };
        self.noted(issued, who, identity.as_str())
    }

    /// Control's own certificate.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn issue_own(&self, request: &CertificateSigningRequestDer<'static>) -> Result<Issued, Error> {
        let identity = self.named(control_identity(&self.parts.trust_domain))?;
        let wanted =
            Wanted { identity: &identity, node: "", lifetime: self.parts.terms.workload, with: Transaction::new() };
        let issued = self.certify(request, wanted).await;
        self.noted(issued, &Asker::Control, identity.as_str())
    }

    /// Makes a token with which a machine becomes this node, once. A node that was revoked is admitted again.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownNode`]; others when it cannot be written.
    pub async fn create_token(
        &self,
        node: &str,
        life: Duration,
        who: &Asker,
    ) -> Result<(Zeroizing<String>, i64), Error> {
        self.placed(node)?;
        let expires = end_of(OffsetDateTime::now_utc(), life);
        let roots = roots(&self.slots().await?)?.iter().map(|root| fingerprint(root)).collect();
        let token = Token { secret: Zeroizing::new(rand::random()), roots };
        let entry = journal::write(&Entry { node: node.to_owned(), expires });
        self.note(Event::Token, who, (node, &format!("until {expires}")))?;
        let made = Transaction::new().create(tokens::token(&*token.secret), entry).remove(ban_of_node(node));
        match self.commit(made).await? {
            Outcome::Committed => Ok((token.text(), expires)),
            Outcome::Conflict => Err(Error::Busy),
        }
    }

    /// Refuses a node that the configuration does not name, or no more.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownNode`].
    pub fn check_known(&self, node: &str) -> Result<(), Error> {
        self.placed(node).map(drop)
    }

    fn placed(&self, node: &str) -> Result<&std::collections::BTreeSet<Identity>, Error> {
        self.parts.placements.get(node).ok_or_else(|| Error::UnknownNode { node: node.to_owned() })
    }

    fn named(&self, identity: Result<Identity, NameError>) -> Result<Identity, Error> {
        identity.map_err(|cause| Error::TrustDomain { name: self.parts.trust_domain.clone(), cause })
    }

    /// Signs, checks what came out, and writes it down under the condition that nobody has banned it meanwhile.
    async fn certify(
        &self,
        request: &CertificateSigningRequestDer<'static>,
        wanted: Wanted<'_>,
    ) -> Result<Issued, Error> {
        let slots = self.slots().await?;
        let slot = slots.active().ok_or(Error::Busy)?;
        let issuer = self.issuer(slot).await?;
        let now = OffsetDateTime::now_utc();
        let (request, identity, lifetime) = (request.clone(), wanted.identity.clone(), wanted.lifetime);
        let anchors = Anchors::new(&roots(&slots)?).map_err(|cause| Error::Unusable {
            identity: identity.clone(),
            cause: rustls::Error::General(cause.to_string()),
        })?;
        let issued = blocking(move || {
            let issued = issuer.certify(&request, (&identity, lifetime), now)?;
            let unix = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds(now).unsigned_abs()));
            verify_at(&issued.chain, &anchors, &identity, unix).map_err(|cause| Error::Unusable { identity, cause })?;
            Ok::<_, Error>(issued)
        })
        .await?;
        let entry = Issuance {
            serial: issued.serial.clone(),
            name: wanted.identity.to_string(),
            node: wanted.node.to_owned(),
            not_before: seconds(issued.not_before),
            not_after: seconds(issued.not_after),
            slot: slot.id.clone(),
        };
        self.enter(&entry, wanted).await?;
        Ok(Issued { issuer: entry.slot, ..issued })
    }

    async fn enter(&self, entry: &Issuance, wanted: Wanted<'_>) -> Result<(), Error> {
        let bans = [
            (ban_of_node(wanted.node), format!("node {}", wanted.node), "make a new token for it"),
            (
                ban_of_identity(wanted.identity.as_str()),
                format!("identity {}", wanted.identity),
                "admit it again with `enforcer ca admit`",
            ),
        ];
        let mut transaction = wanted.with.create(journal::journal(&entry.serial), journal::write(entry));
        transaction.conditions.extend(bans.iter().map(|(key, ..)| (key.clone(), Condition::Absent)));
        if self.commit(transaction).await? == Outcome::Committed {
            return Ok(());
        }
        for (key, what, remedy) in bans {
            if self.parts.store.get(&key).await?.is_some() {
                return Err(Error::Banned { what, remedy });
            }
        }
        // A serial number of 126 random bits is not there twice, so a token was used by somebody else.
        Err(Error::Token)
    }

    /// Writes down what became of it, before it is told.
    fn noted(&self, issued: Result<Issued, Error>, who: &Asker, subject: &str) -> Result<Issued, Error> {
        match issued {
            Ok(issued) => {
                self.note(Event::Issued, who, (subject, &issued.serial))?;
                Ok(issued)
            }
            Err(error) => {
                self.note(Event::Refused, who, (subject, &explained(&error)))?;
                Err(error)
            }
        }
    }
}

/// An error with what is behind it.
pub(in crate::ca) fn explained(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(behind) = cause {
        text = format!("{text}: {behind}");
        cause = behind.source();
    }
    text
}
