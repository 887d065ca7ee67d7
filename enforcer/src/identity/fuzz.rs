//! Any octets as a bundle of another trust domain, and as names.

use std::path::PathBuf;

use rustls::pki_types::CertificateDer;

use super::verify::hexadecimal;
use super::{Identity, Serial, federation};

/// A file of federation, PEM.
pub(crate) fn bundle(data: &[u8]) {
    if let Err(error) = federation::parse("partner.example".to_owned(), PathBuf::from("t"), data) {
        assert!(!error.to_string().is_empty());
    }
}

/// A name that is one is read as it is written, and a number is the same however it is.
pub(crate) fn names(data: &[u8]) {
    if let Some(serial) = Serial::from_der(data) {
        assert_eq!(serial.to_string().parse(), Ok(serial));
        assert_eq!(hexadecimal(data).parse(), Ok(serial));
        assert_eq!(Serial::from(serial.octets()), serial);
    }
    let _serial = Serial::of(&CertificateDer::from(data));
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(serial) = text.parse::<Serial>() {
        assert_eq!(serial.to_string().parse(), Ok(serial));
    }
    let Ok(identity) = text.parse::<Identity>() else { return };
    assert_eq!(identity.as_str(), text);
    assert_eq!(format!("spiffe://{}{}", identity.trust_domain(), identity.path()), text);
    let segments = identity.path().strip_prefix('/').expect("a path begins with a slash").split('/');
    assert!(segments.into_iter().all(|segment| !matches!(segment, "" | "." | "..")));
}
