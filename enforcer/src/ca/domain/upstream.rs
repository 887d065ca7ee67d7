//! An authority above ours: a request goes out, a chain comes back, and becomes the next authority of a rotation.
//!
//! The key is made before the request and never leaves. What comes back is judged as everybody will judge what is issued
//! under it, before it is taken; then `activate` makes it the one that issues, and `retire` takes leave of our own root.
//! Nobody but the upstream authority can renew such an intermediate: it is asked for again with another request.

use rcgen::CertificateParams;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use time::{Duration, OffsetDateTime};

use super::slots::{Intermediate, Slot, State};
use super::trust::list;
use super::{Asker, Domain, Error, Event, journal};
use crate::ca::issuer::{Issuer, belong_together};
use crate::ca::store::Transaction;
use crate::ca::{Error as CaError, template};
use crate::identity::request::blocking;
use crate::identity::verify::{Anchors, authority_domain};
use crate::identity::{Identity, verify_at};

/// Requests whose answers have not come, by their ids.
const REQUESTS: &str = "request/";
/// Requests at once: an operator who loses one makes another.
const MOST: usize = 16;
/// Certificates above ours. A chain may have six in all, with a workload's and ours.
const MOST_ABOVE: usize = 3;

impl Domain {
    /// Makes a key and a request for it, PKCS#10 in PEM.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn request(&self, who: &Asker) -> Result<String, Error> {
        if self.parts.store.list(REQUESTS).await?.len() >= MOST {
            return Err(Error::Upstream { why: format!("{MOST} requests are out already; import an answer first") });
        }
        let id = format!("{:08x}", rand::random::<u32>());
        let label = format!("intermediate-{id}-upstream");
        let key = self.parts.keys.generate(&label, self.parts.terms.algorithm).await?;
        let params = params(&self.parts.trust_domain, &id)?;
        let request = blocking(move || params.serialize_request(&key)).await.map_err(CaError::Sign)?;
        self.note(Event::Requested, who, (&self.parts.trust_domain, &id))?;
        let _done = self.commit(Transaction::new().create(format!("{REQUESTS}{id}"), journal::write(&label))).await?;
        request.pem().map_err(|cause| CaError::Sign(cause).into())
    }

    /// Takes the answer to a request: our certificate, then those above it, then the root. It is trusted from now on.
    ///
    /// # Errors
    ///
    /// [`Error::Upstream`], when it is not one under which anybody would accept a certificate; [`Error::OutOfStep`], when
    /// a rotation is under way.
    pub async fn import(&self, pem: &str, who: &Asker) -> Result<(), Error> {
        let refuse = |why: &str| Error::Upstream { why: why.to_owned() };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).take(MOST_ABOVE + 3).collect();
        let chain = chain.map_err(|_malformed| refuse("it is no PEM"))?;
        let [ours, above @ .., root] = chain.as_slice() else {
            return Err(refuse("it has no two certificates: ours comes first, the root last"));
        };
        if above.len() > MOST_ABOVE {
            return Err(refuse("too many certificates are between ours and the root"));
        }
        let (id, label) = self.answered(ours).await?;
        let key = self.parts.keys.open(&label).await?;
        let issuer =
            Issuer::new(ours.clone(), key).ok_or_else(|| refuse("ours is no certificate that issues others"))?;
        self.judge(issuer, above, root).await?;
        let text = |certificate: &CertificateDer<'_>| pem::encode(&pem::Pem::new("CERTIFICATE", certificate.to_vec()));
        let intermediate =
            Intermediate { key: label, certificate: text(ours), above: above.iter().map(text).collect() };
        let slot = Slot {
            id: id.clone(),
            state: State::Prepared,
            root: text(root),
            is_upstream: true,
            intermediates: vec![intermediate],
        };
        self.note(Event::Rotated, who, (&self.parts.trust_domain, &format!("import {id}")))?;
        self.replace_slots(|slots| slots.prepared(slot.clone())).await?;
        let _done = self.commit(Transaction::new().remove(format!("{REQUESTS}{id}"))).await?;
        Ok(())
    }

    /// The request that a certificate is the answer to.
    async fn answered(&self, ours: &CertificateDer<'_>) -> Result<(String, String), Error> {
        for (entry, value) in self.parts.store.list(REQUESTS).await? {
            let label: String = journal::read(&entry, &value)?;
            if belong_together(&self.parts.keys.open(&label).await?, ours) {
                return Ok((entry.trim_start_matches(REQUESTS).to_owned(), label));
            }
        }
        let why = "its first certificate has the key of no request that is out: `enforcer ca csr` makes one".to_owned();
        Err(Error::Upstream { why })
    }

    /// Has a certificate issued under it and judges that as a peer would. Nobody ever sees it.
    async fn judge(
        &self,
        issuer: Issuer,
        above: &[CertificateDer<'static>],
        root: &CertificateDer<'static>,
    ) -> Result<(), Error> {
        let domain = authority_domain(&issuer.certificate);
        if domain.as_ref().is_some_and(|named| *named != self.parts.trust_domain) {
            return Err(Error::Upstream {
                why: format!("it is for another trust domain, {}", domain.unwrap_or_default()),
            });
        }
        let identity: Identity = format!("spiffe://{}/probe", self.parts.trust_domain)
            .parse()
            .map_err(|cause| Error::TrustDomain { name: self.parts.trust_domain.clone(), cause })?;
        let anchors =
            Anchors::new(std::slice::from_ref(root)).map_err(|cause| Error::Upstream { why: cause.to_string() })?;
        let above = above.to_vec();
        blocking(move || {
            let key = rcgen::KeyPair::generate().map_err(CaError::Sign)?;
            let csr = CertificateParams::default().serialize_request(&key).map_err(CaError::Sign)?;
            let now = OffsetDateTime::now_utc();
            let list = list(&[], (0, now), Duration::DAY)?.signed_by(issuer.signer());
            list.map_err(|_may_not| Error::Upstream {
                why: "ours may not sign revocation lists (cRLSign)".to_owned(),
            })?;
            let mut chain = issuer.certify(csr.der(), (&identity, Duration::MINUTE), now)?.chain;
            chain.extend(above);
            verify_at(&chain, &anchors, &identity, UnixTime::now())
                .map_err(|cause| Error::Upstream { why: format!("what is issued under it is refused: {cause}") })
        })
        .await
    }
}

/// What we ask to be: an authority of this trust domain that issues workloads and nothing else.
fn params(trust_domain: &str, id: &str) -> Result<CertificateParams, Error> {
    let authority = template::intermediate(
        trust_domain,
        &format!("intermediate {id}"),
        OffsetDateTime::now_utc(),
        OffsetDateTime::now_utc() + Duration::DAY,
    )?;
    let mut params = CertificateParams::new(Vec::new()).map_err(CaError::Sign)?;
    params.distinguished_name = authority.distinguished_name;
    params.subject_alt_names = authority.subject_alt_names;
    Ok(params)
}
