//! Certificates for these tests: as they should be, changed where rcgen lets them be changed, and patched where it does
//! not.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
    SigningKey,
};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

use crate::identity::fixture::uri;

pub(super) const NOW: OffsetDateTime = datetime!(2026-01-15 12:00 UTC);
pub(super) const DOMAIN: &str = "spiffe://example.org";
pub(super) const WEB: &str = "spiffe://example.org/ns/default/sa/web";

pub(super) type Der = CertificateDer<'static>;

/// Whoever signs: its certificate, and what is needed to sign as the one that it names.
pub(super) struct Signer {
    pub(super) params: CertificateParams,
    pub(super) key: KeyPair,
    pub(super) der: Der,
}

pub(super) fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

/// A root as it should be, after a change.
pub(super) fn root(change: impl FnOnce(&mut CertificateParams)) -> Signer {
    root_with(key(), change)
}

pub(super) fn root_with(key: KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Signer {
    let mut params = authority("root", 3650);
    change(&mut params);
    let der = params.self_signed(&key).unwrap().der().clone();
    Signer { params, key, der }
}

/// What an authority's certificate says.
fn authority(name: &str, days: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = (NOW - Duration::days(days), NOW + Duration::days(days));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![uri(DOMAIN)];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(random_serial());
    params.use_authority_key_identifier_extension = true;
    params
}

/// What a workload's certificate says.
pub(super) fn workload() -> CertificateParams {
    let mut params = authority("", 10);
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(WEB)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn random_serial() -> SerialNumber {
    let mut octets: [u8; 16] = rand::random();
    octets[0] = 0x40;
    SerialNumber::from_slice(&octets)
}

impl Signer {
    pub(super) fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Der {
        params.signed_by(key, &Issuer::from_params(&self.params, &self.key)).unwrap().der().clone()
    }

    /// A workload's certificate, after a change.
    pub(super) fn workload(&self, change: impl FnOnce(&mut CertificateParams)) -> Der {
        let mut params = workload();
        change(&mut params);
        self.sign(&params, &key())
    }

    /// An issuer below this one, after a change.
    pub(super) fn issuer(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Signer {
        self.issuer_with(key(), name, change)
    }

    pub(super) fn issuer_with(&self, key: KeyPair, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Signer {
        let mut params = authority(name, 100);
        change(&mut params);
        let der = self.sign(&params, &key);
        Signer { params, key, der }
    }

    /// The certificate, patched and signed anew by this one.
    pub(super) fn patched(&self, der: &Der, patch: impl FnOnce(&mut Fields)) -> Der {
        patched(der, &self.key, patch)
    }

    /// A list of what this one has revoked, after a change.
    pub(super) fn list(
        &self,
        revoked: &[&Der],
        change: impl FnOnce(&mut CertificateRevocationListParams),
    ) -> CertificateRevocationListDer<'static> {
        let mut params = CertificateRevocationListParams {
            this_update: NOW - Duration::HOUR,
            next_update: NOW + Duration::HOUR,
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(|der| revocation(der)).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        change(&mut params);
        // Whatever its certificate says: rcgen would see to it that it may sign lists.
        let mut issuer = self.params.clone();
        issuer.key_usages = vec![KeyUsagePurpose::CrlSign];
        params.signed_by(&Issuer::from_params(&issuer, &self.key)).unwrap().der().clone()
    }
}

fn revocation(der: &Der) -> RevokedCertParams {
    RevokedCertParams {
        serial_number: SerialNumber::from_slice(super::certificate::read(der).unwrap().raw_serial()),
        revocation_time: NOW - Duration::HOUR,
        reason_code: None,
        invalidity_date: None,
    }
}

/// An extension of the arc 2.5.29.
pub(super) fn extension(last: u64, critical: bool, content: &[u8]) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, last], content.to_vec());
    extension.set_criticality(critical);
    extension
}

/// The fields of a certificate (RFC 5280 4.1), each with tag and length.
pub(super) struct Fields {
    /// Version, serial number, algorithm, issuer, validity, subject, key, extensions.
    pub(super) signed: Vec<Vec<u8>>,
    /// The algorithm that is named outside.
    pub(super) algorithm: Vec<u8>,
}

/// Changes a certificate and signs it anew.
pub(super) fn patched(der: &Der, key: &KeyPair, patch: impl FnOnce(&mut Fields)) -> Der {
    let mut outer = split(&split(der)[0][header(der)..]);
    let signed = outer.swap_remove(0);
    let signed = split(&signed[header(&signed)..]);
    let mut fields = Fields { algorithm: signed[2].clone(), signed };
    patch(&mut fields);
    let signed = tlv(0x30, &fields.signed.concat());
    let signature = [vec![0], key.sign(&signed).unwrap()].concat();
    tlv(0x30, &[signed, fields.algorithm, tlv(0x03, &signature)].concat()).into()
}

/// One value in DER.
pub(super) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut der = vec![tag];
    match length {
        0..=0x7f => der.push(u8::try_from(length).unwrap()),
        0x80..=0xff => der.extend([0x81, u8::try_from(length).unwrap()]),
        _ => {
            der.push(0x82);
            der.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
    }
    der.extend(content);
    der
}

/// Octets of tag and length.
fn header(der: &[u8]) -> usize {
    if der[1] < 0x80 { 2 } else { 2 + usize::from(der[1] & 0x7f) }
}

/// The values that stand in a row.
fn split(mut der: &[u8]) -> Vec<Vec<u8>> {
    let mut values = Vec::new();
    while !der.is_empty() {
        let header = header(der);
        let length = if header == 2 {
            usize::from(der[1])
        } else {
            der[2..header].iter().fold(0, |sum, octet| sum * 256 + usize::from(*octet))
        };
        let (value, rest) = der.split_at(header + length);
        values.push(value.to_vec());
        der = rest;
    }
    values
}

/// An RSA key of so many bits; nobody has its private half (RFC 8017 A.1.1).
pub(super) fn rsa(bits: usize, exponent: &[u8]) -> Vec<u8> {
    let algorithm = [&[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1][..], &[0x05, 0]].concat();
    let modulus = [vec![0], vec![0xff; bits / 8]].concat();
    let numbers = [tlv(0x02, &modulus), tlv(0x02, exponent)].concat();
    public_key(&algorithm, &tlv(0x30, &numbers))
}

/// A key on a curve by its object identifier, or with parameters of its own (RFC 5480 2).
pub(super) fn elliptic(parameters: &[u8], point: usize) -> Vec<u8> {
    let algorithm = [&[0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1][..], parameters].concat();
    public_key(&algorithm, &[vec![4], vec![7; point - 1]].concat())
}

pub(super) fn public_key(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    tlv(0x30, &[tlv(0x30, algorithm), tlv(0x03, &[&[0], key].concat())].concat())
}

/// A list with an extension that says that it is a delta. Its signature is of no use.
pub(super) fn delta(list: &CertificateRevocationListDer<'_>) -> CertificateRevocationListDer<'static> {
    let mut outer = split(&list[header(list)..]);
    let mut signed = split(&outer[0][header(&outer[0])..]);
    let indicator = tlv(0x30, &[&[0x06, 3, 0x55, 0x1d, 27, 1, 1, 0xff][..], &tlv(0x04, &[2, 1, 1])].concat());
    *signed.last_mut().unwrap() = tlv(0xa0, &tlv(0x30, &indicator));
    outer[0] = tlv(0x30, &signed.concat());
    tlv(0x30, &outer.concat()).into()
}
