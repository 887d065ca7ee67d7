//! Any octets as what control says, and as what is kept of it.

use std::path::Path;

use prost::Message;
use rustls::pki_types::UnixTime;

use super::{Duration, Serial, certificates, files, issued, renew, watch};
use crate::fuzzing::{Input, signed};
use crate::identity::verify::verify_at;
use crate::protocol::{self, Certificate};

/// A certificate that was asked for.
pub(crate) fn certificate(data: &[u8]) {
    let mut input = Input(data);
    let is_signed = input.octet().unwrap_or_default() & 1 != 0;
    let Ok(mut answer) = Certificate::decode(input.0) else { return };
    if is_signed {
        for der in answer.chain.iter_mut().chain(&mut answer.roots) {
            *der = signed(der);
        }
    }
    let (chain, roots) = (certificates(answer.chain), certificates(answer.roots));
    let _renewal = renew::renewal(&chain);
    drop(issued(chain.clone()));
    let Ok(trust) = crate::identity::trust::Trust::of_roots(roots) else { return };
    let Ok(node) = "spiffe://example.org/enforcer/node/a".parse() else { return };
    if verify_at(&chain, &trust.anchors, &node, UnixTime::now()).is_ok() {
        assert!(issued(chain).is_ok(), "what was verified can be read");
    }
}

/// Whom to trust.
pub(crate) fn trust(data: &[u8]) {
    let mut input = Input(data);
    let is_signed = input.octet().unwrap_or_default() & 1 != 0;
    let Ok(mut told) = protocol::Trust::decode(input.0) else { return };
    if is_signed {
        for der in told.roots.iter_mut().chain(&mut told.revocation_lists) {
            *der = signed(der);
        }
    }
    let Ok(trust) = watch::read(told, Duration::from_secs(3600)) else { return };
    assert!(!trust.roots.is_empty());
    let _revoked = trust.revokes(&Serial::from([1; 20]));
    if let Some(lists) = &trust.revocations {
        assert!(lists.in_force_until().is_none() || lists.are_over(i64::MAX));
    }
}

/// Two files, the second after a NUL.
pub(crate) fn membership(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let (held, roots) = text.split_once('\0').unwrap_or((text, text));
    if let Ok(membership) = files::parse(Path::new("t"), held, roots) {
        assert!(!membership.chain.is_empty() && !membership.roots.is_empty());
        let _renewal = renew::renewal(&membership.chain);
    }
}
