//! Intermediates and roots, above a workload's certificate as it should be.

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, KeyUsagePurpose, NameConstraints, SanType, SerialNumber,
};
use time::Duration;

use super::Alone::{Accepts, Refuses};
use super::forge::{DOMAIN, Fields, elliptic, extension, root, rsa, tlv};
use super::*;

type Change = fn(&mut CertificateParams);
type Constraint = Box<dyn Fn(&mut CertificateParams)>;
type Patch = fn(&mut Fields);

/// P-224, which few know (RFC 5480 2.1.1.1).
const P224: &[u8] = &[0x06, 5, 0x2b, 0x81, 4, 0, 0x21];

/// What is the same for intermediates and roots, with the flaw that each is found to have.
fn check_flaws<const ROWS: usize>(table: [(&'static str, Change, Flaw, [Alone; 2]); ROWS]) {
    for (name, change, flaw, [intermediate, root_alone]) in table {
        let good = root(|_| {});
        let issuer = good.issuer("issuer", change);
        let chain = vec![issuer.workload(|_| {}), issuer.der.clone()];
        Case::new(name, chain, &[&good]).check(&intermediate_is(flaw.clone()), intermediate);
        let bad = root(change);
        Case::new(name, vec![bad.workload(|_| {})], &[&bad]).check(&root_is(flaw), root_alone);
    }
}

#[test]
fn flaws_of_intermediates_and_roots() {
    let expired: Change = |p| p.not_after = NOW - Duration::SECOND;
    let early: Change = |p| p.not_before = NOW + Duration::SECOND;
    check_flaws([
        ("expired", expired, Flaw::Expired { at: NOW - Duration::SECOND }, [Refuses, Accepts]),
        ("not valid yet", early, Flaw::NotYetValid { from: NOW + Duration::SECOND }, [Refuses, Accepts]),
        ("ends before it begins", |p| p.not_after = p.not_before - Duration::DAY, Flaw::Validity, [Refuses, Accepts]),
        ("without basic constraints", |p| p.is_ca = IsCa::NoCa, Flaw::NoAuthority, [Refuses, Accepts]),
        ("no authority by its word", |p| p.is_ca = IsCa::ExplicitNoCa, Flaw::NoAuthority, [Refuses, Accepts]),
        (
            "with basic constraints that need not be understood",
            |p| {
                p.is_ca = IsCa::NoCa;
                p.custom_extensions.push(extension(19, false, &[0x30, 3, 1, 1, 0xff]));
            },
            Flaw::NotCritical,
            [Accepts, Accepts],
        ),
        (
            "whose key signs lists only",
            |p| p.key_usages = vec![KeyUsagePurpose::CrlSign],
            Flaw::SignsNoCertificates,
            [Accepts, Accepts],
        ),
        (
            "for code",
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning],
            Flaw::WrongRole,
            [Refuses, Accepts],
        ),
        (
            "for servers, in both roles",
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
            Flaw::WrongRole,
            [Accepts, Accepts],
        ),
    ]);
}

#[test]
fn flaws_of_what_intermediates_and_roots_say() {
    check_flaws([
        (
            "without a subject",
            |p| p.distinguished_name = DistinguishedName::new(),
            Flaw::EmptySubject,
            [Accepts, Accepts],
        ),
        (
            "with zero as its serial number",
            |p| p.serial_number = Some(SerialNumber::from_slice(&[0])),
            Flaw::Serial,
            [Accepts, Accepts],
        ),
        (
            "with an unknown critical extension",
            |p| p.custom_extensions.push(extension(99, true, &[0x05, 0])),
            Flaw::CriticalExtension,
            [Refuses, Accepts],
        ),
        (
            "with an unknown extension twice",
            |p| {
                p.custom_extensions.push(extension(99, false, &[0x05, 0]));
                p.custom_extensions.push(extension(99, false, &[0x05, 0]));
            },
            Flaw::DuplicateExtension,
            [Accepts, Accepts],
        ),
        (
            "with name constraints that need not be understood",
            |p| {
                let subtree = tlv(0x30, &tlv(0x82, b"example.org"));
                p.custom_extensions.push(extension(30, false, &tlv(0x30, &tlv(0xa0, &subtree))));
            },
            Flaw::NotCritical,
            [Accepts, Accepts],
        ),
        (
            "with a workload's name",
            |p| p.subject_alt_names = vec![uri("spiffe://example.org/ns/default/sa/web")],
            Flaw::AuthorityName,
            [Accepts, Accepts],
        ),
        (
            "with a trust domain in the wrong case",
            |p| p.subject_alt_names = vec![uri("SPIFFE://example.org")],
            Flaw::AuthorityName,
            [Accepts, Accepts],
        ),
        (
            "with two trust domains",
            |p| p.subject_alt_names.push(uri("spiffe://example.com")),
            Flaw::AuthorityName,
            [Accepts, Accepts],
        ),
    ]);
}

#[test]
fn flaws_that_rcgen_does_not_make() {
    let table: [(&str, Patch, Flaw, [Alone; 2]); 5] = [
        (
            "of version 1",
            |f| {
                f.signed.pop();
                f.signed.remove(0);
            },
            Flaw::Version,
            [Refuses, Accepts],
        ),
        ("with a negative serial number", |f| f.signed[1] = vec![2, 1, 0x80], Flaw::Serial, [Accepts, Accepts]),
        ("with RSA of 1024 bits", |f| f.signed[6] = rsa(1024, &[1, 0, 1]), Flaw::WeakKey, [Refuses, Refuses]),
        ("on P-224", |f| f.signed[6] = elliptic(P224, 57), Flaw::WeakKey, [Refuses, Refuses]),
        (
            "with an extension that is no value",
            |f| {
                let extension = [&[0x06, 3, 0x55, 0x1d, 14][..], &tlv(0x04, &[0x05, 0])].concat();
                let basic = [&[0x06, 3, 0x55, 0x1d, 19, 1, 1, 0xff][..], &tlv(0x04, &[0x30, 3, 1, 1, 0xff])].concat();
                let both = [tlv(0x30, &extension), tlv(0x30, &basic)].concat();
                f.signed[7] = tlv(0xa3, &tlv(0x30, &both));
            },
            Flaw::Extension,
            [Accepts, Accepts],
        ),
    ];
    for (name, patch, flaw, [intermediate, root_alone]) in table {
        let mut good = root(|_| {});
        let issuer = good.issuer("issuer", |_| {});
        let chain = vec![issuer.workload(|_| {}), good.patched(&issuer.der, patch)];
        Case::new(name, chain, &[&good]).check(&intermediate_is(flaw.clone()), intermediate);
        let workload = good.workload(|_| {});
        good.der = good.patched(&good.der, patch);
        Case::new(name, vec![workload], &[&good]).check(&root_is(flaw), root_alone);
    }
}

#[test]
fn an_intermediate_that_is_signed_weakly() {
    let sha1 = tlv(0x30, &[0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1]);
    let root = root(|_| {});
    let issuer = root.issuer("issuer", |_| {});
    let weak = root.patched(&issuer.der, |fields| {
        fields.algorithm.clone_from(&sha1);
        fields.signed[2].clone_from(&sha1);
    });
    let chain = vec![issuer.workload(|_| {}), weak];
    Case::new("signed with SHA-1", chain, &[&root]).check(&intermediate_is(Flaw::WeakSignature), Refuses);
    // Whoever put the root into the bundle vouches for it, and its signature does not.
    let mut old = forge::root(|_| {});
    old.der = old.patched(&old.der, |fields| {
        fields.algorithm.clone_from(&sha1);
        fields.signed[2].clone_from(&sha1);
    });
    Case::new("a root signed with SHA-1", vec![old.workload(|_| {})], &[&old]).check(&Ok(()), Accepts);
}

/// One issuer under a root, both changed.
fn under(change_root: Change, change_issuer: Change) -> (Vec<Der>, Signer) {
    let root = root(change_root);
    let issuer = root.issuer("issuer", change_issuer);
    (vec![issuer.workload(|_| {}), issuer.der], root)
}

#[test]
fn authorities_that_may_be_as_they_are() {
    let table: [(&str, Change, Change); 7] = [
        ("without key usage", |p| p.key_usages.clear(), |p| p.key_usages.clear()),
        ("without a name", |p| p.subject_alt_names.clear(), |p| p.subject_alt_names.clear()),
        (
            "with an address on the web",
            |p| p.subject_alt_names = vec![uri("https://example.org/root")],
            |p| p.subject_alt_names = vec![uri("https://example.org/a"), uri("https://example.org/b")],
        ),
        (
            "with a name beside the trust domain",
            |_| {},
            |p| {
                p.subject_alt_names.push(SanType::DnsName("ca.example.org".try_into().unwrap()));
            },
        ),
        (
            "for both roles",
            |p| p.extended_key_usages = forge::workload().extended_key_usages,
            |p| p.extended_key_usages = forge::workload().extended_key_usages,
        ),
        (
            "that may not sign lists, and nobody asks for one",
            |p| p.key_usages.truncate(1),
            |p| p.key_usages.truncate(1),
        ),
        (
            "with path lengths that are just enough",
            |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(1)),
            |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)),
        ),
    ];
    for (name, change_root, change_issuer) in table {
        let (chain, root) = under(change_root, change_issuer);
        Case::new(name, chain, &[&root]).check(&Ok(()), Accepts);
    }
}

#[test]
fn trust_domains_of_authorities() {
    let foreign = |issuer: &str| Err(Rejection::ForeignAuthority { identity: web(), issuer: issuer.to_owned() });
    let other: Change = |p| p.subject_alt_names = vec![uri("spiffe://example.com")];
    let nameless: Change = |p| p.subject_alt_names.clear();
    let table: [Row<(Change, Change)>; 4] = [
        ("an intermediate of another one", (|_| {}, other), foreign("example.com"), Accepts),
        ("a root of another one", (other, |_| {}), foreign("example.com"), Accepts),
        ("a root of another one, above one without", (other, nameless), foreign("example.com"), Accepts),
        ("one that says so above one that does not", (|_| {}, nameless), Ok(()), Accepts),
    ];
    for (name, (change_root, change_issuer), expected, alone) in table {
        let (chain, root) = under(change_root, change_issuer);
        Case::new(name, chain, &[&root]).check(&expected, alone);
    }
}

#[test]
fn name_constraints() {
    fn constrain(p: &mut CertificateParams, permitted: Vec<GeneralSubtree>, excluded: Vec<GeneralSubtree>) {
        p.name_constraints = Some(NameConstraints { permitted_subtrees: permitted, excluded_subtrees: excluded });
    }
    let network = || GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix("2001:db8::".parse().unwrap(), 32));
    let names = |p: &mut CertificateParams| {
        p.subject_alt_names.push(SanType::DnsName("web.example.org".try_into().unwrap()));
        p.subject_alt_names.push(SanType::IpAddress("2001:db8::1".parse().unwrap()));
    };
    let dns = |name: &str| GeneralSubtree::DnsName(name.into());
    let violated = || Err(Rejection::NameConstraints);
    // rcgen makes none on URIs.
    let uris: Change = |p| {
        let subtree = tlv(0x30, &tlv(0x86, b"example.org"));
        p.custom_extensions.push(extension(30, true, &tlv(0x30, &tlv(0xa0, &subtree))));
    };
    let table: [Row<Constraint>; 5] = [
        ("permitted", Box::new(move |p| constrain(p, vec![dns("example.org"), network()], vec![])), Ok(()), Accepts),
        ("not permitted", Box::new(move |p| constrain(p, vec![dns("example.com")], vec![])), violated(), Refuses),
        ("excluded", Box::new(move |p| constrain(p, vec![], vec![dns("example.org")])), violated(), Refuses),
        ("address excluded", Box::new(move |p| constrain(p, vec![], vec![network()])), violated(), Refuses),
        ("on URIs, which nobody understands", Box::new(uris), violated(), Refuses),
    ];
    for (name, change, expected, alone) in table {
        let root = root(|_| {});
        let issuer = root.issuer("issuer", |p| {
            p.subject_alt_names.clear();
            change(p);
        });
        let chain = vec![issuer.workload(names), issuer.der];
        Case::new(name, chain, &[&root]).check(&expected, alone);
        let bad = forge::root(|p| {
            p.subject_alt_names.clear();
            change(p);
        });
        Case::new(name, vec![bad.workload(names)], &[&bad]).check(&expected, alone);
    }
    assert!(DOMAIN.ends_with("example.org"), "what is permitted is ours");
}

#[test]
fn the_name_of_a_root_can_neither_forge_a_line_nor_flood() {
    let root = root(|p| {
        p.distinguished_name = DistinguishedName::new();
        p.distinguished_name.push(DnType::CommonName, "root\naccepted \u{1b}[2J".to_owned() + &"x".repeat(1000));
    });
    let proven = Case::new("root", vec![root.workload(|_| {})], &[&root]).verdict().unwrap();
    assert!(proven.root.starts_with("CN=root\\naccepted \\u{1b}[2Jxxx"), "{}", proven.root);
    assert!(proven.root.len() < 300, "{}", proven.root);
}
