//! Who asks: an account at the authority. Its key is made once and kept; the authority says at each start whether it knows it,
//! and makes the account if it does not (RFC 8555 7.3), so that nothing else has to be kept.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use instant_acme::{Account as Known, HttpClient, Key};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::error::Error;
use super::http::{Https, Told};
use super::shelf::Shelf;
use crate::control::snapshot::Acme;
use crate::identity::plain::plain;

/// Octets of a file with roots; those of all public authorities have a quarter of a megabyte.
const LONGEST_ROOTS: u64 = 4 << 20;

/// Has the authority know us. Every answer leaves in `told` how long it wants to be left alone.
pub(super) async fn open(acme: &Acme, shelf: &Shelf, told: &Arc<Told>) -> Result<Known, Error> {
    let key = key(shelf)?;
    let client = Https::new(roots(&acme.roots)?, Arc::clone(told)).map_err(Error::Tls)?;
    introduce(acme, key, Box::new(client)).await
}

/// The same by this client, with this key.
pub(super) async fn introduce(
    acme: &Acme,
    key: PrivatePkcs8KeyDer<'static>,
    client: Box<dyn HttpClient>,
) -> Result<Known, Error> {
    let ours = Key::from_pkcs8_der(key.clone_key()).map_err(unusable)?;
    let builder = Known::builder_with_http(client);
    let (account, _known) = builder.create_from_key((ours, PrivateKeyDer::Pkcs8(key)), acme.directory.clone()).await?;
    if !acme.contact.is_empty() {
        let contact: Vec<&str> = acme.contact.iter().map(String::as_str).collect();
        account.update_contacts(&contact).await?;
    }
    Ok(account)
}

/// The account's key: kept before the authority hears of it.
fn key(shelf: &Shelf) -> Result<PrivatePkcs8KeyDer<'static>, Error> {
    if let Some(key) = shelf.account()? {
        return Ok(key);
    }
    let (_, key) = Key::generate_pkcs8().map_err(unusable)?;
    shelf.keep_account(&key)?;
    Ok(key)
}

fn unusable(error: instant_acme::Error) -> Error {
    Error::AccountKey(error.to_string())
}

/// Whom the authority's own certificate may be signed by.
fn roots(path: &Path) -> Result<RootCertStore, Error> {
    let failed = |why: String| Error::Roots { path: path.to_owned(), why };
    let pem = read(path).map_err(|cause| failed(cause.to_string()))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|error| failed(plain(&error.to_string(), 100)))?;
    let mut roots = RootCertStore::empty();
    // Some public roots are not what webpki takes; one is enough.
    let (taken, _ignored) = roots.add_parsable_certificates(certificates);
    if taken == 0 { Err(failed("it has no root".to_owned())) } else { Ok(roots) }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    File::open(path)?.take(LONGEST_ROOTS).read_to_end(&mut octets)?;
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::root_pem;
    use super::*;

    #[test]
    fn a_file_without_roots_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("roots.pem");
        for content in ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"] {
            fs::write(&path, content).unwrap();
            let error = roots(&path).unwrap_err().to_string();
            assert!(error.contains("roots.pem") && error.contains("`acme.roots`"), "{error}");
        }
        fs::write(&path, root_pem()).unwrap();
        assert_eq!(roots(&path).unwrap().len(), 1);
        assert!(roots(&folder.path().join("absent.pem")).is_err());
    }

    #[test]
    fn the_key_is_made_once() {
        let state = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(state.path(), "https://acme.example/dir").unwrap();
        assert_eq!(key(&shelf).unwrap(), key(&shelf).unwrap());
    }
}
