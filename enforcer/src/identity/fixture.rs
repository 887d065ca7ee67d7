//! Certificates for tests: a root that signs whatever it is given, and a store that holds whatever is put into it.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer,
};
use rustls::sign::CertifiedKey;
use time::{Duration, OffsetDateTime};

use super::serial::Serial;
use super::store::{Credentials, Parts, Store, Writer};
use super::tls::crypto_provider;
use super::trust::{Trust, Trusted};

/// Whom the certificates of these tests name.
pub(crate) const EXPECTED: &str = "spiffe://example.org/ns/default/sa/web";

/// A root with its key.
pub(crate) struct Root {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) trusted: Trusted,
}

impl Root {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let trust = Trust::of_roots(vec![params.self_signed(&key).unwrap().der().clone()]).unwrap();
        Self { issuer: Issuer::new(params, key), trusted: Trusted::always(trust) }
    }

    pub(crate) fn sign(&self, params: &CertificateParams) -> (CertificateDer<'static>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().der().clone(), key)
    }

    /// The same for the key of a request.
    pub(crate) fn certify(
        &self,
        csr: &CertificateSigningRequestDer<'_>,
        params: &CertificateParams,
    ) -> CertificateDer<'static> {
        let csr = CertificateSigningRequestParams::from_der(csr).unwrap();
        params.signed_by(&csr.public_key, &self.issuer).unwrap().der().clone()
    }

    /// A list of the certificates with these serial numbers.
    pub(crate) fn revoke(&self, serials: &[Serial]) -> CertificateRevocationListDer<'static> {
        let now = OffsetDateTime::now_utc();
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&serial.octets()),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: now - Duration::MINUTE,
            next_update: now + Duration::HOUR,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().der().clone()
    }

    /// Credentials as the agent holds them.
    pub(crate) fn credentials(&self, params: &CertificateParams) -> Credentials {
        self.credentials_of(EXPECTED, params)
    }

    /// The credentials of another workload.
    pub(crate) fn credentials_of(&self, identity: &str, params: &CertificateParams) -> Credentials {
        let (certificate, key) = self.sign(params);
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Credentials::new(Parts {
            identity: identity.parse().unwrap(),
            serial: Serial::of(&certificate).unwrap(),
            validity: (params.not_before, params.not_after),
            issuer: String::new(),
            trusted: self.trusted.clone(),
            key: CertifiedKey::from_der(vec![certificate], key.into(), &crypto_provider()).unwrap(),
            provider: crypto_provider(),
        })
    }
}

/// A workload's certificate as it should be, after a change.
pub(crate) fn leaf(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - Duration::MINUTE, now + Duration::HOUR);
    params.is_ca = IsCa::ExplicitNoCa;
    params.subject_alt_names = vec![uri(EXPECTED)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    params
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// A certificate of this workload, as it should be.
pub(crate) fn leaf_of(identity: &str) -> CertificateParams {
    leaf(|params| params.subject_alt_names = vec![uri(identity)])
}

/// A store, and the means to put something else into it.
pub(crate) struct Shelf {
    writer: Writer,
    pub(crate) store: Arc<Store>,
}

impl Shelf {
    pub(crate) fn new() -> Self {
        let (writer, store) = Store::new();
        Self { writer, store: Arc::new(store) }
    }

    /// Puts credentials in the place of those that their identity had before.
    pub(crate) fn put(&self, credentials: Credentials) {
        self.writer.send_modify(|current| {
            Arc::make_mut(current).insert(credentials.identity.clone(), Arc::new(credentials));
        });
    }
}
