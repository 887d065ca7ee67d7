//! What is kept in the state directory, `acme/`, for each authority in a directory of its own: the key of the account, and
//! for each name a file with a key and its chain. One file, so that nothing can tear them apart.
//!
//! Public authorities limit how often one may ask, so what is there is used again, and a file that cannot be used is told
//! of and left alone.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use hyper::Uri;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::chain::{Held, LONGEST};
use super::error::Error;
use crate::ca::{prepare_directory, write_private};

const ACCOUNT: &str = "account.key";
/// Octets of a file: of a chain, and as much again for its key and its PEM.
const LONGEST_FILE: usize = 2 * LONGEST;
/// Octets of the hash in the name of an authority's directory.
const HASH: usize = 4;

/// The directory of one authority.
#[derive(Clone, Debug)]
pub(super) struct Shelf(PathBuf);

impl Shelf {
    /// Makes it if it is not there, for its owner alone.
    pub(super) fn open(state: &Path, authority: &str) -> Result<Self, Error> {
        let acme = state.join("acme");
        let path = acme.join(folder(authority));
        for path in [&acme, &path] {
            prepare_directory(path).map_err(|cause| Error::Directory { path: path.clone(), cause })?;
        }
        Ok(Self(path))
    }

    /// The account's key, PKCS#8. `None`: none was made yet.
    pub(super) fn account(&self) -> Result<Option<PrivatePkcs8KeyDer<'static>>, Error> {
        let Some(text) = self.text(ACCOUNT)? else { return Ok(None) };
        let key = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes());
        key.map(Some).map_err(|_malformed| self.content(ACCOUNT, "it holds no key"))
    }

    /// Keeps it.
    pub(super) fn keep_account(&self, key: &PrivatePkcs8KeyDer<'_>) -> Result<(), Error> {
        write_private(&self.0, ACCOUNT, &pem_of(key)).map_err(Error::Write)
    }

    /// The certificate of a name, an expired one too. `None`: there is none yet.
    pub(super) fn certificate(&self, name: &str) -> Result<Option<Held>, Error> {
        let file = file(name);
        let Some(text) = self.text(&file)? else { return Ok(None) };
        held(name, &text).map(Some).map_err(|why| self.content(&file, &why))
    }

    /// Keeps it: what was there before is whole until the new one is.
    pub(super) fn keep_certificate(&self, name: &str, chain: &str, key: &PrivatePkcs8KeyDer<'_>) -> Result<(), Error> {
        let both = Zeroizing::new(format!("{}{chain}", *pem_of(key)));
        write_private(&self.0, &file(name), &both).map_err(Error::Write)
    }

    fn text(&self, name: &str) -> Result<Option<Zeroizing<String>>, Error> {
        let path = self.0.join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(Error::Read { path, cause }),
        };
        let mut octets = Zeroizing::new(Vec::with_capacity(LONGEST_FILE + 1));
        let limit = u64::try_from(LONGEST_FILE).unwrap_or(u64::MAX);
        if let Err(cause) = file.take(limit + 1).read_to_end(&mut octets) {
            return Err(Error::Read { path, cause });
        }
        if octets.len() > LONGEST_FILE {
            return Err(self.content(name, "it is too long"));
        }
        let text = str::from_utf8(&octets).map_err(|_binary| self.content(name, "it is no text"))?;
        Ok(Some(Zeroizing::new(text.to_owned())))
    }

    fn content(&self, name: &str, why: &str) -> Error {
        Error::Content { path: self.0.join(name), why: why.to_owned() }
    }
}

/// What a file of this text holds.
pub(super) fn held(name: &str, text: &str) -> Result<Held, String> {
    let key = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|_malformed| "it holds no key".to_owned())?;
    Held::read(name, text, &key).map_err(|unusable| unusable.to_string())
}

fn file(name: &str) -> String {
    format!("{name}.pem")
}

/// The authority's host, for people, and a hash that tells two of its directories apart.
fn folder(authority: &str) -> String {
    let host = authority.parse::<Uri>().ok().and_then(|url| url.host().map(str::to_owned)).unwrap_or_default();
    let is_plain = |octet: &char| octet.is_ascii_alphanumeric() || matches!(octet, '.' | '-');
    let mut name: String = host.chars().filter(is_plain).take(100).collect();
    name.push('-');
    for octet in &digest(&SHA256, authority.as_bytes()).as_ref()[..HASH] {
        // Writing to a string does not fail.
        let _written = write!(name, "{octet:02x}");
    }
    name
}

fn pem_of(key: &PrivatePkcs8KeyDer<'_>) -> Zeroizing<String> {
    Zeroizing::new(pem::encode(&pem::Pem::new("PRIVATE KEY", key.secret_pkcs8_der())))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::super::tests::{chain, leaf};
    use super::*;

    const NAME: &str = "www.example.org";

    #[test]
    fn what_was_kept_is_found_again_by_its_owner_alone() {
        let state = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(state.path(), "https://acme.example/dir").unwrap();
        assert!(shelf.account().unwrap().is_none() && shelf.certificate(NAME).unwrap().is_none());
        let (chain, key) = chain(&leaf(NAME, |_| {}));
        shelf.keep_account(&key).unwrap();
        shelf.keep_certificate(NAME, &chain, &key).unwrap();
        assert_eq!(shelf.account().unwrap(), Some(key));
        let held = shelf.certificate(NAME).unwrap().unwrap();
        assert!(held.signed_by.contains("CN="), "{held:?}");
        for (path, mode) in [("acme", 0o700), ("acme/acme.example-*", 0o700), ("acme/acme.example-*/*", 0o600)] {
            let found = glob(state.path(), path);
            assert!(!found.is_empty());
            for path in found {
                assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode, "{path:?}");
            }
        }
        let other = Shelf::open(state.path(), "https://acme.example/other").unwrap();
        assert!(other.certificate(NAME).unwrap().is_none(), "another authority");
    }

    #[test]
    fn what_is_damaged_is_told_and_left_alone() {
        let state = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(state.path(), "https://acme.example/dir").unwrap();
        let (chain, key) = chain(&leaf(NAME, |_| {}));
        shelf.keep_certificate(NAME, &chain, &key).unwrap();
        let path = shelf.0.join("www.example.org.pem");
        let whole = fs::read(&path).unwrap();
        let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let swapped = [other.as_bytes(), chain.as_bytes()].concat();
        for damaged in
            [&[][..], &[0xff; 10], &whole[..whole.len() / 8], &whole[..whole.len() / 2], chain.as_bytes(), &swapped]
        {
            fs::write(&path, damaged).unwrap();
            let error = shelf.certificate(NAME).unwrap_err().to_string();
            assert!(error.contains("www.example.org.pem, which") && error.contains("move it away"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), damaged);
        }
        fs::write(&path, vec![b'x'; LONGEST_FILE + 1]).unwrap();
        assert!(shelf.certificate(NAME).unwrap_err().to_string().contains("too long"));
        fs::write(shelf.0.join("example.org.pem"), &whole).unwrap();
        assert!(shelf.certificate("example.org").unwrap_err().to_string().contains("not for this name"));
        fs::write(shelf.0.join(ACCOUNT), "no key").unwrap();
        assert!(matches!(shelf.account(), Err(Error::Content { .. })));
    }

    /// `*` stands for whatever a directory has.
    fn glob(from: &Path, pattern: &str) -> Vec<PathBuf> {
        let (first, rest) = pattern.split_once('/').map_or((pattern, None), |(first, rest)| (first, Some(rest)));
        let start = first.trim_end_matches('*');
        let entries = fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path());
        let found = entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(start));
        match rest {
            Some(rest) => found.flat_map(|path| glob(&path, rest)).collect(),
            None => found.collect(),
        }
    }
}
