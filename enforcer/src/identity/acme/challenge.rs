//! The proof that this node has a name: a self-signed certificate that says what the authority wants to hear, shown to
//! whoever asks for it by the protocol `acme-tls/1` (RFC 8737).

use std::sync::Arc;

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::sign::CertifiedKey;

use super::chain::{provider, server};
use super::error::Error;
use crate::identity::tls::ACME;

/// Octets of what is proved: SHA-256 (RFC 8737 3).
const DIGEST: usize = 32;

/// How the authority is answered.
///
/// # Errors
///
/// [`Error::Key`], when there is no such certificate to be made.
pub(super) fn answer(name: &str, digest: &[u8; DIGEST]) -> Result<Arc<ServerConfig>, Error> {
    let (certificate, key) = certificate(name, digest).map_err(Error::Key)?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let key = provider().key_provider.load_private_key(key.into()).map_err(Error::Tls)?;
    // Not `from_der`, which refuses the critical extension.
    let mut config = server(CertifiedKey::new(vec![certificate.der().clone()], key)).map_err(Error::Tls)?;
    config.alpn_protocols = vec![ACME.to_vec()];
    Ok(Arc::new(config))
}

fn certificate(name: &str, digest: &[u8; DIGEST]) -> Result<(rcgen::Certificate, KeyPair), rcgen::Error> {
    let mut params = CertificateParams::new([name.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate()?;
    Ok((params.self_signed(&key)?, key))
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

    use super::*;

    #[test]
    fn the_certificate_says_what_rfc_8737_wants() {
        let digest: [u8; DIGEST] = std::array::from_fn(|place| u8::try_from(place).unwrap());
        let (certificate, _) = certificate("www.example.org", &digest).unwrap();
        let (_, parsed) = X509Certificate::from_der(certificate.der()).unwrap();
        let names = parsed.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names, [GeneralName::DNSName("www.example.org")]);
        let mut extensions = parsed.extensions().iter().filter(|it| it.oid.to_id_string() == "1.3.6.1.5.5.7.1.31");
        let extension = extensions.next().unwrap();
        assert!(extension.critical && extensions.next().is_none());
        assert_eq!(extension.value, [&[0x04, 0x20][..], &digest].concat());
        // As it is in the certificate: critical TRUE, and an OCTET STRING in the OCTET STRING of the extension.
        let oid = [0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x01, 0x1f];
        let whole = [&oid[..], &[0x01, 0x01, 0xff, 0x04, 0x22, 0x04, 0x20], &digest].concat();
        assert!(certificate.der().windows(whole.len()).any(|octets| octets == whole));
    }

    #[test]
    fn nobody_is_answered_without_the_protocol() {
        assert_eq!(answer("www.example.org", &[0; DIGEST]).unwrap().alpn_protocols, [b"acme-tls/1".to_vec()]);
    }
}
