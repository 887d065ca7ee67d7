//! Any octets as a chain, a bundle and revocation lists, signed or not.

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime};
use time::OffsetDateTime;
use webpki::{EndEntityCert, Error as Webpki, KeyUsage, anchor_from_trusted_cert};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    Anchors, Expected, Proven, Rejection, Revocations, Role, Terms, Uncovered, authority_domain, claimed, fingerprint,
    proven, verify,
};
use crate::fuzzing::{Input, signed};
use crate::identity::Serial;
use crate::identity::tls::crypto_provider;

/// What is judged.
struct Case {
    chain: Vec<CertificateDer<'static>>,
    bundle: Vec<CertificateDer<'static>>,
    revocations: Option<Revocations>,
    role: Role,
    now: u64,
}

/// Who is accepted would be by webpki alone, has one name and no powers, and is not accepted any more after the end.
pub(crate) fn chain(data: &[u8]) {
    let Some(case) = read(Input(data)) else { return };
    let Ok(anchors) = Anchors::new(&case.bundle) else { return };
    if let Some(proven) = judge(&case, &anchors, case.now) {
        check_alone(&case, &proven);
        check_name(&case.chain, &proven);
        let end = u64::try_from(proven.until.unix_timestamp()).expect("it has not ended before 1970");
        assert!(case.now <= end && judge(&case, &anchors, end + 1).is_none(), "accepted after its end");
        assert!(judge(&case, &anchors, end).is_some() || case.revocations.is_some(), "refused before its end");
    }
}

/// Settings, then parts: how many belong to the chain and to the bundle is said first, the rest are lists.
fn read(mut input: Input<'_>) -> Option<Case> {
    let (settings, now) = (input.octet()?, input.number());
    let (chain, bundle) = (usize::from(input.octet()?) % 9, usize::from(input.octet()?) % 5);
    let sign = |part: &[u8]| if settings & 1 == 0 { part.to_vec() } else { signed(part) };
    let mut parts = input.parts().into_iter().map(sign);
    let chain: Vec<CertificateDer<'static>> = parts.by_ref().take(chain).map(Into::into).collect();
    let bundle: Vec<CertificateDer<'static>> = parts.by_ref().take(bundle).map(Into::into).collect();
    let lists: Vec<CertificateRevocationListDer<'static>> = parts.map(Into::into).collect();
    let uncovered = if settings & 2 == 0 { Uncovered::Accept } else { Uncovered::Refuse };
    let revocations = match Revocations::new(&lists, uncovered) {
        Ok(_none) if lists.is_empty() && settings & 4 == 0 => None,
        Ok(lists) => Some(lists),
        Err((place, _unusable)) => {
            assert!(place < lists.len());
            return None;
        }
    };
    let role = [Role::Client, Role::Server, Role::Both, Role::Both][usize::from(settings >> 3) % 4];
    Some(Case { chain, bundle, revocations, role, now: now.into() })
}

fn judge(case: &Case, anchors: &Anchors, now: u64) -> Option<Proven> {
    let (workload, intermediates) = case.chain.split_first()?;
    let terms = Terms {
        anchors,
        revocations: case.revocations.as_ref(),
        now: UnixTime::since_unix_epoch(std::time::Duration::from_secs(now)),
        role: case.role,
        expected: &Expected::Anyone,
    };
    drop((claimed(workload), authority_domain(workload), fingerprint(workload), proven(&case.chain)));
    verify(workload, intermediates, &terms).inspect_err(|rejection| check_rejection(rejection.clone())).ok()
}

fn check_rejection(rejection: Rejection) {
    let text = rejection.to_string();
    assert!(!text.is_empty() && !text.contains(char::is_control), "{text:?}");
    let _reason = crate::identity::reason_of(&rustls::Error::from(rejection));
}

/// webpki's judgement of what was presented, without ours.
fn check_alone(case: &Case, proven: &Proven) {
    let roots: Vec<TrustAnchor<'_>> =
        case.bundle.iter().filter_map(|root| anchor_from_trusted_cert(root).ok()).collect();
    let leaf = EndEntityCert::try_from(&case.chain[0]).expect("webpki has read it");
    let usage = if case.role == Role::Client { KeyUsage::client_auth() } else { KeyUsage::server_auth() };
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(case.now));
    let algorithms = crypto_provider().signature_verification_algorithms.all;
    match leaf.verify_for_usage(algorithms, &roots, &case.chain[1..], now, usage, None, None).map(drop) {
        // It may have got lost among what we had put aside.
        Ok(()) | Err(Webpki::MaximumPathBuildCallsExceeded | Webpki::MaximumSignatureChecksExceeded) => {}
        Err(error) => panic!("webpki refuses {proven:?}: {error}"),
    }
}

/// The name is the only URI of the certificate.
fn check_name(chain: &[CertificateDer<'_>], found: &Proven) {
    let (rest, workload) = X509Certificate::from_der(&chain[0]).expect("it was read");
    assert!(rest.is_empty() && !workload.is_ca());
    let names = workload.subject_alternative_name().expect("it was read").expect("it has a name");
    let uris: Vec<&str> = names.value.general_names.iter().filter_map(uri).collect();
    assert_eq!(uris, [found.identity.as_str()]);
    assert_eq!(Serial::of(&chain[0]).map(|serial| serial.to_string()), Some(found.serial.clone()));
    assert!(!found.root.contains(char::is_control), "{:?}", found.root);
    let (identity, end) = proven(chain).unwrap_or((found.identity.clone(), OffsetDateTime::UNIX_EPOCH));
    assert!(identity == found.identity && end <= found.until.max(end));
}

fn uri<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    match name {
        GeneralName::URI(uri) => Some(uri),
        _ => None,
    }
}
