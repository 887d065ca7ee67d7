//! What a node keeps of its membership: its key, its certificate and the roots, in the agent's state directory.
//!
//! The node's key must outlive the agent, so it is a file, for root alone. It opens nothing but control's door: with it
//! come no connections and no workload's name. Whoever can read it can read the memory of the workloads too.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::Error;
use crate::ca::write_private;

/// The certificate, its issuers, and its key: one file, so that they always belong together. Written last: with it the
/// membership is complete.
const MEMBERSHIP: &str = "node.pem";
const ROOTS: &str = "roots.pem";

/// A node's membership.
pub(super) struct Membership {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: KeyPair,
    pub(super) roots: Vec<CertificateDer<'static>>,
    /// The authority that has issued the certificate; empty if that is not known.
    pub(super) issuer: String,
}

/// Reads it. `None`: this machine has not joined.
pub(super) fn read(directory: &Path) -> Result<Option<Membership>, Error> {
    let Some(held) = text(directory, MEMBERSHIP)? else { return Ok(None) };
    let roots = text(directory, ROOTS)?.ok_or_else(|| Error::Incomplete { path: directory.join(ROOTS) })?;
    parse(directory, &held, &roots).map(Some)
}

/// The two files of the directory have these contents.
pub(super) fn parse(directory: &Path, held: &str, roots: &str) -> Result<Membership, Error> {
    let (chain, roots) = (certificates(directory, (MEMBERSHIP, held))?, certificates(directory, (ROOTS, roots))?);
    let key = KeyPair::from_pem(held).map_err(|_malformed| Error::Content { path: directory.join(MEMBERSHIP) })?;
    Ok(Membership { chain, key, roots, issuer: String::new() })
}

/// Writes it: what was there before is whole until the new one is.
pub(super) fn write(directory: &Path, membership: &Membership) -> Result<(), Error> {
    write_roots(directory, &membership.roots)?;
    let held = Zeroizing::new(membership.key.serialize_pem() + &pem_of(&membership.chain));
    write_private(directory, MEMBERSHIP, &held).map_err(Error::Write)
}

/// Writes the roots alone.
pub(super) fn write_roots(directory: &Path, roots: &[CertificateDer<'_>]) -> Result<(), Error> {
    write_private(directory, ROOTS, &pem_of(roots)).map_err(Error::Write)
}

fn text(directory: &Path, name: &str) -> Result<Option<Zeroizing<String>>, Error> {
    let path: PathBuf = directory.join(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(Zeroizing::new(text))),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(Error::Read { path, cause }),
    }
}

fn certificates(directory: &Path, (name, pem): (&str, &str)) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    read.ok().filter(|read| !read.is_empty()).ok_or_else(|| Error::Content { path: directory.join(name) })
}

fn pem_of(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(|certificate| pem::encode(&pem::Pem::new("CERTIFICATE", certificate.to_vec()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::fixture::{Root, leaf};

    #[test]
    fn what_was_written_is_read_and_what_is_damaged_is_told() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).unwrap().is_none());
        let root = Root::new();
        let (certificate, key) = root.sign(&leaf(|_| {}));
        let membership = Membership {
            chain: vec![certificate],
            key,
            roots: root.trusted.current().roots.clone(),
            issuer: String::new(),
        };
        write(folder.path(), &membership).unwrap();
        let found = read(folder.path()).unwrap().unwrap();
        assert_eq!((found.chain, found.roots), (membership.chain, membership.roots));
        for name in [MEMBERSHIP, ROOTS] {
            let path = folder.path().join(name);
            let whole = fs::read(&path).unwrap();
            fs::write(&path, &whole[..whole.len() / 2]).unwrap();
            assert!(read(folder.path()).map(drop).unwrap_err().to_string().contains(name), "{name}");
            fs::write(&path, whole).unwrap();
        }
        fs::remove_file(folder.path().join(ROOTS)).unwrap();
        assert!(matches!(read(folder.path()), Err(Error::Incomplete { .. })));
    }
}
