//! One certificate by itself: what RFC 5280 and the X509-SVID standard ask of it, whoever has signed it.
//!
//! Every function here looks at one certificate that was parsed once. Nothing here knows a path or a bundle.

use std::collections::HashSet;

use rustls::pki_types::UnixTime;
use x509_parser::extensions::{BasicConstraints, ExtendedKeyUsage, GeneralName, KeyUsage, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Version;

use super::key;
use super::rejection::Flaw;
use super::terms::Role;
use crate::identity::name::check_trust_domain;

/// Octets of a serial number (RFC 5280 4.1.2.2).
const LONGEST_SERIAL: usize = 20;
/// The last year of UTCTime (RFC 5280 4.1.2.5).
const LAST_UTC_YEAR: i32 = 2049;

/// Reads a certificate, which must be all there is.
pub(super) fn read(der: &[u8]) -> Result<X509Certificate<'_>, Flaw> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(Flaw::Malformed),
    }
}

/// What an issuer may do, as its certificate says.
#[derive(Clone, Debug)]
pub(super) struct Powers {
    /// How many issuers may be below it.
    pub(super) path_length: Option<u32>,
    pub(super) signs_lists: bool,
    /// `None`: it does not say, so for all.
    roles: Option<(bool, bool)>,
    /// The trust domain that it answers for, if it says so.
    pub(super) trust_domain: Option<String>,
}

impl Powers {
    pub(super) fn check_role(&self, role: Role) -> Result<(), Flaw> {
        if self.roles.is_none_or(|(client, server)| role.is_met(client, server)) {
            Ok(())
        } else {
            Err(Flaw::WrongRole)
        }
    }
}

/// A workload's certificate: what it is for, and nothing more (X509-SVID standard, sections 4 and 5.2).
pub(super) fn check_workload(certificate: &X509Certificate<'_>, role: Role) -> Result<(), Flaw> {
    let extensions = check(certificate)?;
    if extensions.basic.is_some_and(|(_, basic)| basic.ca) {
        return Err(Flaw::Authority);
    }
    let usage = extensions.usage.ok_or(Flaw::NoKeyUsage)?;
    if usage.key_cert_sign() || usage.crl_sign() {
        return Err(Flaw::SignsCertificates);
    }
    if !usage.digital_signature() {
        return Err(Flaw::SignsNoHandshakes);
    }
    let purposes = extensions.purposes.ok_or(Flaw::NoRole)?;
    if !role.is_met(purposes.client_auth, purposes.server_auth) {
        return Err(Flaw::WrongRole);
    }
    if extensions.constraints.is_some() {
        return Err(Flaw::ConstrainsNames);
    }
    // Nothing else names it then (RFC 5280 4.2.1.6).
    let nameless = certificate.subject().iter_rdn().next().is_none();
    if nameless && extensions.names.is_some_and(|(critical, _)| !critical) {
        return Err(Flaw::NotCritical);
    }
    check_signature_algorithm(certificate)
}

/// An intermediate's certificate.
pub(super) fn check_intermediate(certificate: &X509Certificate<'_>) -> Result<Powers, Flaw> {
    let powers = check_authority(certificate)?;
    check_signature_algorithm(certificate)?;
    Ok(powers)
}

/// A certificate that signs others (RFC 5280 4.2.1.3 and 4.2.1.9). A root's own signature proves nothing, and is not
/// looked at.
pub(super) fn check_authority(certificate: &X509Certificate<'_>) -> Result<Powers, Flaw> {
    let extensions = check(certificate)?;
    let (critical, basic) = extensions.basic.filter(|(_, basic)| basic.ca).ok_or(Flaw::NoAuthority)?;
    if !critical || extensions.constraints == Some(false) {
        return Err(Flaw::NotCritical);
    }
    if extensions.usage.is_some_and(|usage| !usage.key_cert_sign()) {
        return Err(Flaw::SignsNoCertificates);
    }
    if certificate.subject().iter_rdn().next().is_none() {
        return Err(Flaw::EmptySubject);
    }
    Ok(Powers {
        path_length: basic.path_len_constraint,
        signs_lists: extensions.usage.is_none_or(|usage| usage.crl_sign()),
        roles: extensions.purposes.map(|purposes| (purposes.client_auth, purposes.server_auth)),
        trust_domain: trust_domain(&extensions)?,
    })
}

/// Whether the certificate is valid now (RFC 5280 4.1.2.5: both ends belong to it).
pub(super) fn check_time((begins, ends): (ASN1Time, ASN1Time), now: UnixTime) -> Result<(), Flaw> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < begins.timestamp() {
        return Err(Flaw::NotYetValid { from: begins.to_datetime() });
    }
    if now > ends.timestamp() {
        return Err(Flaw::Expired { at: ends.to_datetime() });
    }
    Ok(())
}

/// The URIs among the alternative names of a certificate that has passed [`check_workload`].
pub(super) fn uris<'a>(certificate: &'a X509Certificate<'a>) -> Vec<&'a str> {
    let names = certificate.subject_alternative_name().ok().flatten();
    names.map(|names| uris_of(&names.value.general_names).collect()).unwrap_or_default()
}

/// The extensions that are understood. A boolean says whether the extension is critical.
#[derive(Default)]
struct Extensions<'a> {
    basic: Option<(bool, &'a BasicConstraints)>,
    usage: Option<&'a KeyUsage>,
    purposes: Option<&'a ExtendedKeyUsage<'a>>,
    names: Option<(bool, &'a [GeneralName<'a>])>,
    constraints: Option<bool>,
}

/// What must be so in every certificate.
fn check<'a>(certificate: &'a X509Certificate<'_>) -> Result<Extensions<'a>, Flaw> {
    if certificate.version() != X509Version::V3 {
        return Err(Flaw::Version);
    }
    check_serial(certificate.raw_serial())?;
    let validity = certificate.validity();
    if validity.not_before > validity.not_after {
        return Err(Flaw::Validity);
    }
    for time in [validity.not_before, validity.not_after] {
        if time.is_generalizedtime() != (time.to_datetime().year() > LAST_UTC_YEAR) {
            return Err(Flaw::TimeEncoding);
        }
    }
    if !key::is_strong(certificate.public_key()) {
        return Err(Flaw::WeakKey);
    }
    extensions(certificate)
}

/// The octets are those of a two's complement number.
fn check_serial(octets: &[u8]) -> Result<(), Flaw> {
    let negative = octets.first().is_some_and(|first| first & 0x80 != 0);
    let zero = octets.iter().all(|octet| *octet == 0);
    if negative || zero || octets.len() > LONGEST_SERIAL { Err(Flaw::Serial) } else { Ok(()) }
}

fn extensions<'a>(certificate: &'a X509Certificate<'_>) -> Result<Extensions<'a>, Flaw> {
    let mut known = Extensions::default();
    let mut seen = HashSet::new();
    for extension in certificate.extensions() {
        if !seen.insert(extension.oid.as_bytes()) {
            return Err(Flaw::DuplicateExtension);
        }
        let critical = extension.critical;
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(basic) => known.basic = Some((critical, basic)),
            ParsedExtension::KeyUsage(usage) => known.usage = Some(usage),
            ParsedExtension::ExtendedKeyUsage(purposes) => known.purposes = Some(purposes),
            ParsedExtension::SubjectAlternativeName(names) => known.names = Some((critical, &names.general_names)),
            ParsedExtension::NameConstraints(_) => known.constraints = Some(critical),
            // webpki knows these.
            ParsedExtension::CRLDistributionPoints(_) => {}
            ParsedExtension::ParseError { .. } => return Err(Flaw::Extension),
            // Two of those that are known too must not be critical: the key identifiers (RFC 5280 4.2.1.1, 4.2.1.2).
            _ if critical => return Err(Flaw::CriticalExtension),
            _ => {}
        }
    }
    let names = known.names.map(|(_, names)| names).unwrap_or_default();
    if names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Err(Flaw::Extension);
    }
    Ok(known)
}

fn check_signature_algorithm(certificate: &X509Certificate<'_>) -> Result<(), Flaw> {
    let (outer, inner) = (&certificate.signature_algorithm, &certificate.tbs_certificate.signature);
    if outer != inner {
        return Err(Flaw::SignatureAlgorithms);
    }
    if key::is_strong_signature(outer) { Ok(()) } else { Err(Flaw::WeakSignature) }
}

/// The trust domain that an authority answers for. It need not say (X509-SVID standard, section 2), and URIs that are
/// no SPIFFE IDs are none of ours.
fn trust_domain(extensions: &Extensions<'_>) -> Result<Option<String>, Flaw> {
    let uris: Vec<&str> = extensions.names.map(|(_, names)| uris_of(names).collect()).unwrap_or_default();
    if !uris.iter().any(|uri| uri.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:"))) {
        return Ok(None);
    }
    let [uri] = uris[..] else { return Err(Flaw::AuthorityName) };
    let name = uri.strip_prefix("spiffe://").ok_or(Flaw::AuthorityName)?;
    check_trust_domain(name).map_err(|_malformed| Flaw::AuthorityName)?;
    Ok(Some(name.to_owned()))
}

fn uris_of<'a>(names: &'a [GeneralName<'a>]) -> impl Iterator<Item = &'a str> {
    names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    })
}
