//! Any octets as what a node asks for.

use std::sync::LazyLock;

use prost::Message;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, UnixTime};
use time::{Duration, OffsetDateTime};

use super::issuer::Issuer;
use super::keys::Key;
use super::template;
use crate::fuzzing::{Input, key, signed};
use crate::identity::verify::Anchors;
use crate::identity::{Identity, verify_at};
use crate::protocol::{InForce, IssueRequest, JoinRequest, RenewRequest};

struct Authority {
    issuer: Issuer,
    anchors: Anchors,
}

/// Nothing but the key of a request is in the certificate, so whatever is asked for, it is good for whom it names, or is
/// not issued.
pub(crate) fn request(data: &[u8]) {
    let mut input = Input(data);
    let kind = input.octet().unwrap_or_default();
    let (request, identity) = match kind % 4 {
        0 => JoinRequest::decode(input.0).map(|asked| (asked.request, None)),
        1 => RenewRequest::decode(input.0).map(|asked| (asked.request, None)),
        2 => IssueRequest::decode(input.0).map(|asked| (asked.request, Some(asked.identity))),
        _ => InForce::decode(input.0).map(|_said| (Vec::new(), None)),
    }
    .unwrap_or_default();
    let identity = identity.unwrap_or_else(|| "spiffe://example.org/ns/default/sa/web".to_owned());
    let Ok(identity) = identity.parse::<Identity>() else { return };
    let request = if kind & 4 == 0 { request } else { signed(&request) };
    issue(&request.into(), &identity);
}

fn issue(request: &CertificateSigningRequestDer<'_>, identity: &Identity) {
    static AUTHORITY: LazyLock<Authority> = LazyLock::new(authority);
    let Authority { issuer, anchors } = &*AUTHORITY;
    let now = OffsetDateTime::now_utc();
    let Ok(issued) = issuer.certify(request, (identity, Duration::HOUR), now) else { return };
    // A key that is too weak may be certified: whoever has issued it looks at it before it is given out.
    if verify_at(&issued.chain, anchors, identity, UnixTime::now()).is_ok() {
        assert!(issued.not_before <= now && now < issued.not_after && issued.not_after - now <= Duration::HOUR);
    }
}

fn authority() -> Authority {
    let (now, year) = (OffsetDateTime::now_utc(), Duration::days(365));
    let signer = || KeyPair::try_from(&key()).expect("a known key is one");
    let root = template::root("example.org", "root", now).expect("a root has a name");
    let root_der: CertificateDer<'static> = root.self_signed(&signer()).expect("it is signed").der().clone();
    let params: CertificateParams =
        template::intermediate("example.org", "intermediate", now, now + year).expect("an intermediate has a name");
    let above = rcgen::Issuer::new(root, signer());
    let certificate = params.signed_by(&signer(), &above).expect("it is signed").der().clone();
    let issuer = Issuer::new(certificate, Key::new(signer())).expect("it issues");
    Authority { issuer, anchors: Anchors::new(&[root_der]).expect("it can be read") }
}
