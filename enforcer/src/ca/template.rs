//! What each kind of certificate says (RFC 5280; X509-SVID standard for the names).

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};

use super::Error;
use crate::identity::Identity;

const ROOT_LIFETIME: Duration = Duration::days(3650);
const INTERMEDIATE_LIFETIME: Duration = Duration::days(90);
/// Clocks of other hosts may be this far behind.
const BACKDATE: Duration = Duration::minutes(5);

/// The root of a trust domain. Authorities that have keys of their own have names of their own: revocation lists are
/// found by name.
pub(super) fn root(trust_domain: &str, name: &str, now: OffsetDateTime) -> Result<CertificateParams, Error> {
    authority(trust_domain, name, (now, now + ROOT_LIFETIME), 1)
}

/// What issues; `issuer_ends` is the end of the root.
pub(super) fn intermediate(
    trust_domain: &str,
    name: &str,
    now: OffsetDateTime,
    issuer_ends: OffsetDateTime,
) -> Result<CertificateParams, Error> {
    authority(trust_domain, name, (now, (now + INTERMEDIATE_LIFETIME).min(issuer_ends)), 0)
}

/// A workload: exactly one name, good for both ends of a connection.
pub(super) fn workload(
    identity: &Identity,
    lifetime: Duration,
    now: OffsetDateTime,
    issuer_ends: OffsetDateTime,
) -> Result<CertificateParams, Error> {
    let mut params = common((now, (now + lifetime).min(issuer_ends)))?;
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(uri(identity.as_str())?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

/// A certificate that signs others. An authority's name is the trust domain itself.
fn authority(
    trust_domain: &str,
    name: &str,
    validity: (OffsetDateTime, OffsetDateTime),
    depth: u8,
) -> Result<CertificateParams, Error> {
    let mut params = common(validity)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, trust_domain);
    params.distinguished_name.push(DnType::CommonName, format!("enforcer {name}"));
    params.subject_alt_names = vec![SanType::URI(uri(&format!("spiffe://{trust_domain}"))?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(depth));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn common((begins, ends): (OffsetDateTime, OffsetDateTime)) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(Vec::new()).map_err(Error::Sign)?;
    params.serial_number = Some(random_serial());
    // Certificates count in whole seconds.
    params.not_before = whole_seconds(begins - BACKDATE);
    params.not_after = whole_seconds(ends);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// 127 random bits: positive, never zero in practice, below the 20 bytes of RFC 5280 4.1.2.2.
fn random_serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn whole_seconds(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_nanosecond(0).unwrap_or(at)
}

fn uri(text: &str) -> Result<Ia5String, Error> {
    Ia5String::try_from(text).map_err(Error::Sign)
}
