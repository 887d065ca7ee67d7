//! A certificate that issues others, with its key: the one place where a workload's certificate is signed.

use rcgen::{CertificateSigningRequestParams, SigningKey};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::keys::Key;
use super::{Error, Issued, LONGEST_REQUEST, template};
use crate::identity::Identity;

/// An intermediate, ready to sign. Signing blocks.
#[derive(Debug)]
pub(super) struct Issuer {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) ends: OffsetDateTime,
    /// The certificates between it and the root.
    pub(super) above: Vec<CertificateDer<'static>>,
    signer: rcgen::Issuer<'static, Key>,
}

impl Issuer {
    /// `None`: the certificate is not one that issues, or not that of the key.
    pub(super) fn new(certificate: CertificateDer<'static>, key: Key) -> Option<Self> {
        let ends = end(&certificate).filter(|_| belong_together(&key, &certificate))?;
        let signer = rcgen::Issuer::from_ca_cert_der(&certificate, key).ok()?;
        Some(Self { certificate, ends, above: Vec::new(), signer })
    }

    /// Certifies the key of a request for `identity`. Of the request nothing else is used, after its signature was
    /// checked. The certificate never outlives its issuer.
    ///
    /// # Errors
    ///
    /// [`Error::Request`], [`Error::IssuerExpired`], [`Error::Sign`].
    pub(super) fn certify(
        &self,
        csr: &CertificateSigningRequestDer<'_>,
        (identity, lifetime): (&Identity, Duration),
        now: OffsetDateTime,
    ) -> Result<Issued, Error> {
        if self.ends <= now {
            return Err(Error::IssuerExpired { not_after: self.ends });
        }
        if csr.len() > LONGEST_REQUEST {
            return Err(Error::LongRequest);
        }
        let csr = CertificateSigningRequestParams::from_der(csr).map_err(Error::Request)?;
        let params = template::workload(identity, lifetime, now, self.ends)?;
        let (not_before, not_after) = (params.not_before, params.not_after);
        let certificate = params.signed_by(&csr.public_key, &self.signer).map_err(Error::Sign)?;
        let serial = params.serial_number.map(|serial| serial.to_bytes()).unwrap_or_default();
        let serial = serial.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut chain = vec![certificate.der().clone(), self.certificate.clone()];
        chain.extend_from_slice(&self.above);
        Ok(Issued { chain, serial, not_before, not_after, issuer: String::new() })
    }

    /// What signs for it.
    pub(super) fn signer(&self) -> &rcgen::Issuer<'static, Key> {
        &self.signer
    }
}

/// Whether the certificate is that of the key.
pub(super) fn belong_together(key: &impl SigningKey, certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, certificate)| certificate.public_key().subject_public_key.data == key.der_bytes())
}

/// When a certificate ends.
pub(super) fn end(certificate: &CertificateDer<'_>) -> Option<OffsetDateTime> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.validity().not_after.to_datetime())
}
