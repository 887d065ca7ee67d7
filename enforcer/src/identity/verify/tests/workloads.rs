//! Workloads' certificates, under an intermediate and a root as they should be.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType, SerialNumber,
};
use time::Duration;

use super::Alone::{Accepts, Refuses};
use super::forge::{DOMAIN, extension, root, tlv, workload};
use super::*;

type Change = fn(&mut CertificateParams);

fn check_changes<const ROWS: usize>(table: [Row<Change>; ROWS]) {
    let root = root(|_| {});
    let issuer = root.issuer("issuer", |_| {});
    for (name, change, expected, alone) in table {
        let chain = vec![issuer.workload(change), issuer.der.clone()];
        Case::new(name, chain, &[&root]).check(&expected, alone);
    }
}

#[test]
fn what_a_certificate_is_for() {
    check_changes([
        ("as it should be", |_| {}, Ok(()), Accepts),
        (
            "an authority",
            |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            workload_is(Flaw::Authority),
            Refuses,
        ),
        ("without basic constraints", |p| p.is_ca = IsCa::NoCa, Ok(()), Accepts),
        ("without key usage", |p| p.key_usages.clear(), workload_is(Flaw::NoKeyUsage), Accepts),
        (
            "with empty key usage",
            |p| {
                p.key_usages.clear();
                p.custom_extensions.push(extension(15, true, &[0x03, 1, 0]));
            },
            workload_is(Flaw::SignsNoHandshakes),
            Accepts,
        ),
        (
            "whose key only encrypts keys",
            |p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment],
            workload_is(Flaw::SignsNoHandshakes),
            Accepts,
        ),
        (
            "whose key signs certificates",
            |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign),
            workload_is(Flaw::SignsCertificates),
            Accepts,
        ),
        (
            "whose key signs revocation lists",
            |p| p.key_usages.push(KeyUsagePurpose::CrlSign),
            workload_is(Flaw::SignsCertificates),
            Accepts,
        ),
    ]);
}

#[test]
fn which_roles_a_certificate_is_for() {
    let server: Change = |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    check_changes([
        ("for no role", |p| p.extended_key_usages.clear(), workload_is(Flaw::NoRole), Accepts),
        ("for servers, in both roles", server, workload_is(Flaw::WrongRole), Accepts),
        (
            "for clients, in both roles",
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            workload_is(Flaw::WrongRole),
            Refuses,
        ),
        (
            "for any purpose and nothing by name",
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any],
            workload_is(Flaw::WrongRole),
            Refuses,
        ),
        (
            "for both roles and more",
            |p| p.extended_key_usages.push(ExtendedKeyUsagePurpose::CodeSigning),
            Ok(()),
            Accepts,
        ),
        (
            "for no purpose in an empty list",
            |p| {
                p.extended_key_usages.clear();
                p.custom_extensions.push(extension(37, false, &[0x30, 0]));
            },
            workload_is(Flaw::WrongRole),
            Refuses,
        ),
        (
            "that constrains names",
            |p| {
                let subtree = tlv(0x30, &tlv(0x82, b"example.org"));
                p.custom_extensions.push(extension(30, true, &tlv(0x30, &tlv(0xa0, &subtree))));
            },
            workload_is(Flaw::ConstrainsNames),
            Accepts,
        ),
    ]);
}

#[test]
fn each_role_asks_for_its_own_purpose() {
    let root = root(|_| {});
    let only = |purpose| vec![root.workload(|p| p.extended_key_usages = vec![purpose])];
    let (client, server) = (only(ExtendedKeyUsagePurpose::ClientAuth), only(ExtendedKeyUsagePurpose::ServerAuth));
    let wrong = || workload_is(Flaw::WrongRole);
    let case = |name, chain: &Vec<Der>, role| Case::new(name, chain.clone(), &[&root]).playing(role);
    check([
        (case("a client as client", &client, Role::Client), Ok(()), Accepts),
        (case("a client as server", &client, Role::Server), wrong(), Refuses),
        (case("a server as server", &server, Role::Server), Ok(()), Accepts),
        (case("a server as client", &server, Role::Client), wrong(), Refuses),
    ]);
}

fn refused(mismatch: Mismatch) -> Result<(), Rejection> {
    Err(mismatch.into())
}

fn other(found: &str) -> Result<(), Rejection> {
    refused(Mismatch::Other { found: found.parse().unwrap(), expected: Expected::One(web()) })
}

fn malformed(cause: NameError) -> Result<(), Rejection> {
    refused(Mismatch::Malformed { cause, expected: Expected::One(web()) })
}

fn several(count: usize) -> Result<(), Rejection> {
    refused(Mismatch::Several { count, expected: Expected::One(web()) })
}

fn nobody() -> Result<(), Rejection> {
    refused(Mismatch::None { expected: Expected::One(web()) })
}

#[test]
fn whom_a_certificate_names() {
    check_changes([
        (
            "with names of other kinds beside it",
            |p| {
                p.subject_alt_names.push(SanType::DnsName("web".try_into().unwrap()));
                p.subject_alt_names.push(SanType::IpAddress("2001:db8::1".parse().unwrap()));
                p.subject_alt_names.push(SanType::IpAddress("192.0.2.1".parse().unwrap()));
                p.subject_alt_names.push(SanType::Rfc822Name("web@example.org".try_into().unwrap()));
            },
            Ok(()),
            Accepts,
        ),
        ("without a name", |p| p.subject_alt_names.clear(), nobody(), Accepts),
        (
            "with names of other kinds only",
            |p| p.subject_alt_names = vec![SanType::DnsName("web".try_into().unwrap())],
            nobody(),
            Accepts,
        ),
        (
            "of another workload",
            |p| p.subject_alt_names = vec![uri("spiffe://example.org/ns/default/sa/db")],
            other("spiffe://example.org/ns/default/sa/db"),
            Accepts,
        ),
        (
            "of a workload whose name begins the same",
            |p| p.subject_alt_names = vec![uri("spiffe://example.org/ns/default/sa/web2")],
            other("spiffe://example.org/ns/default/sa/web2"),
            Accepts,
        ),
        (
            "of another trust domain than its issuer's",
            |p| p.subject_alt_names = vec![uri("spiffe://example.com/ns/default/sa/web")],
            Err(Rejection::ForeignAuthority {
                identity: "spiffe://example.com/ns/default/sa/web".parse().unwrap(),
                issuer: "example.org".to_owned(),
            }),
            Accepts,
        ),
        ("with the same URI twice", |p| p.subject_alt_names.push(uri(WEB)), several(2), Accepts),
        ("with another URI after it", |p| p.subject_alt_names.push(uri("https://example.org")), several(2), Accepts),
        (
            "with another URI before it",
            |p| p.subject_alt_names.insert(0, uri("spiffe://example.org/a")),
            several(2),
            Accepts,
        ),
    ]);
}

#[test]
fn a_uri_that_names_nobody() {
    check_changes([
        ("of a trust domain", |p| p.subject_alt_names = vec![uri(DOMAIN)], malformed(NameError::NoPath), Accepts),
        (
            "with a URI of another scheme",
            |p| p.subject_alt_names = vec![uri("https://example.org/ns/default/sa/web")],
            malformed(NameError::Scheme),
            Accepts,
        ),
        (
            "with an identity with a port",
            |p| p.subject_alt_names = vec![uri("spiffe://example.org:443/ns/default/sa/web")],
            malformed(NameError::TrustDomain),
            Accepts,
        ),
        (
            "with an identity with a slash at its end",
            |p| p.subject_alt_names = vec![uri("spiffe://example.org/ns/default/sa/web/")],
            malformed(NameError::Segment),
            Accepts,
        ),
        (
            "with an identity with a zero octet in it",
            |p| p.subject_alt_names = vec![uri("spiffe://example.org/ns/default/sa/web\0.example.com")],
            malformed(NameError::PathCharacter),
            Accepts,
        ),
        (
            "with a URI that is no text",
            |p| {
                p.subject_alt_names.clear();
                let name = tlv(0x86, b"spiffe://example.org/\xff");
                p.custom_extensions.push(extension(17, true, &tlv(0x30, &name)));
            },
            workload_is(Flaw::Extension),
            Accepts,
        ),
    ]);
}

#[test]
fn when_a_certificate_is_valid() {
    let root = root(|_| {});
    let (begins, ends) = (workload().not_before, workload().not_after);
    let chain = vec![root.workload(|_| {})];
    let case = |name, now| Case::new(name, chain.clone(), &[&root]).at(now);
    check([
        (case("at its first second", begins), Ok(()), Accepts),
        (case("at its last second", ends), Ok(()), Accepts),
        (case("before", begins - Duration::SECOND), workload_is(Flaw::NotYetValid { from: begins }), Refuses),
        (case("after", ends + Duration::SECOND), workload_is(Flaw::Expired { at: ends }), Refuses),
    ]);
    check_changes([(
        "ends before it begins",
        |p| p.not_after = p.not_before - Duration::SECOND,
        workload_is(Flaw::Validity),
        Refuses,
    )]);
}

#[test]
fn what_extensions_a_certificate_may_have() {
    check_changes([
        ("an unknown one", |p| p.custom_extensions.push(extension(99, false, &[0x05, 0])), Ok(()), Accepts),
        (
            "an unknown critical one",
            |p| p.custom_extensions.push(extension(99, true, &[0x05, 0])),
            workload_is(Flaw::CriticalExtension),
            Refuses,
        ),
        (
            "critical policies",
            |p| p.custom_extensions.push(extension(32, true, &[0x30, 6, 0x30, 4, 0x06, 2, 0x2a, 3])),
            workload_is(Flaw::CriticalExtension),
            Refuses,
        ),
        (
            "a critical key identifier",
            |p| {
                p.is_ca = IsCa::NoCa;
                p.custom_extensions.push(extension(14, true, &[0x04, 1, 7]));
            },
            workload_is(Flaw::CriticalExtension),
            Refuses,
        ),
        (
            "key usage twice",
            |p| p.custom_extensions.push(extension(15, true, &[0x03, 2, 7, 0x80])),
            workload_is(Flaw::DuplicateExtension),
            Refuses,
        ),
        (
            "an unknown one twice",
            |p| {
                p.custom_extensions.push(extension(99, false, &[0x05, 0]));
                p.custom_extensions.push(extension(99, false, &[0x05, 0]));
            },
            workload_is(Flaw::DuplicateExtension),
            Accepts,
        ),
        (
            "key usage that is none",
            |p| {
                p.key_usages.clear();
                p.custom_extensions.push(extension(15, true, &[0x05, 0]));
            },
            workload_is(Flaw::Extension),
            Accepts,
        ),
    ]);
}

#[test]
fn what_else_a_certificate_says() {
    check_changes([
        (
            "a name that need not be understood, without a subject",
            |p| {
                p.subject_alt_names.clear();
                p.custom_extensions.push(extension(17, false, &tlv(0x30, &tlv(0x86, WEB.as_bytes()))));
            },
            workload_is(Flaw::NotCritical),
            Accepts,
        ),
        (
            "a name that need not be understood, beside a subject",
            |p| p.distinguished_name.push(DnType::CommonName, "web"),
            Ok(()),
            Accepts,
        ),
        (
            "a serial number of 20 octets",
            |p| p.serial_number = Some(SerialNumber::from_slice(&[0x7f; 20])),
            Ok(()),
            Accepts,
        ),
        (
            "a serial number of 21 octets",
            |p| p.serial_number = Some(SerialNumber::from_slice(&[0x7f; 21])),
            workload_is(Flaw::Serial),
            Accepts,
        ),
        (
            "zero as its serial number",
            |p| p.serial_number = Some(SerialNumber::from_slice(&[0])),
            workload_is(Flaw::Serial),
            Accepts,
        ),
    ]);
}
