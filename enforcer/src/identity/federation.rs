//! Other trust domains (SPIFFE Federation, section 3): a bundle for each, good for the identities of that domain and for no
//! others. Which of them a connection may be with is the registry's to say, as always.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::source::{Pending, Source};
use super::trust::Trusted;
use super::verify::{Anchors, Unreadable, authority_domain, claimed};
use crate::ca::SigningRequest;

/// The largest bundle, in octets.
const LARGEST: u64 = 1024 * 1024;

/// Bundles by trust domain.
#[derive(Debug, Default)]
pub struct Federation(HashMap<String, Anchors>);

/// A bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("read bundle {path} of trust domain {trust_domain}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Whose.
        trust_domain: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// There is no certificate in it, or something else.
    #[error("{path} holds no bundle of trust domain {trust_domain}: PEM certificates of at most 1 MiB are expected")]
    Content {
        /// The file.
        path: PathBuf,
        /// Whose.
        trust_domain: String,
    },
    /// A certificate cannot be read.
    #[error("bundle {path}")]
    Root {
        /// The file.
        path: PathBuf,
        /// Which.
        #[source]
        cause: Unreadable,
    },
    /// A root is of somebody else.
    #[error("a root in {path} is of trust domain {found}, and {trust_domain} is configured")]
    Other {
        /// The file.
        path: PathBuf,
        /// Whose it should be.
        trust_domain: String,
        /// Whose it is.
        found: String,
    },
}

impl Federation {
    /// Reads the bundle of each trust domain, PEM.
    ///
    /// # Errors
    ///
    /// [`Error`], for the first that cannot be used.
    pub fn load<'a>(bundles: impl IntoIterator<Item = (&'a String, &'a PathBuf)>) -> Result<Self, Error> {
        let bundles = bundles.into_iter().map(|(domain, path)| Ok((domain.clone(), read(domain, path)?)));
        bundles.collect::<Result<_, _>>().map(Self)
    }

    /// The roots for whom a certificate claims to be; `None`: our own.
    pub(super) fn roots_for(&self, workload: &CertificateDer<'_>) -> Option<&Anchors> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(claimed(workload)?.trust_domain())
    }

    /// Whether this trust domain is another one.
    pub(super) fn has(&self, trust_domain: &str) -> bool {
        self.0.contains_key(trust_domain)
    }
}

fn read(trust_domain: &str, path: &Path) -> Result<Anchors, Error> {
    let (path, trust_domain) = (path.to_owned(), trust_domain.to_owned());
    let failed = |cause| Error::Read { path: path.clone(), trust_domain: trust_domain.clone(), cause };
    let content = || Error::Content { path: path.clone(), trust_domain: trust_domain.clone() };
    if fs::metadata(&path).map_err(failed)?.len() > LARGEST {
        return Err(content());
    }
    parse(trust_domain.clone(), path.clone(), &fs::read(&path).map_err(failed)?)
}

/// The file at `path` has these octets.
pub(super) fn parse(trust_domain: String, path: PathBuf, text: &[u8]) -> Result<Anchors, Error> {
    let content = || Error::Content { path: path.clone(), trust_domain: trust_domain.clone() };
    let roots: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>().map_err(|_malformed| content())?;
    if roots.is_empty() {
        return Err(content());
    }
    if let Some(found) = roots.iter().filter_map(authority_domain).find(|found| *found != trust_domain) {
        return Err(Error::Other { path, trust_domain, found });
    }
    Anchors::new(&roots).map_err(|cause| Error::Root { path, cause })
}

/// A source whose certificates trust other trust domains too.
pub struct Federated {
    source: Arc<dyn Source>,
    federation: Arc<Federation>,
}

impl Federated {
    /// What `source` issues also trusts these.
    #[must_use]
    pub fn new(source: Arc<dyn Source>, federation: Arc<Federation>) -> Self {
        Self { source, federation }
    }
}

impl Source for Federated {
    fn issue(&self, request: SigningRequest) -> Pending<'_> {
        self.source.issue(request)
    }

    fn trusted(&self) -> Trusted {
        self.source.trusted().with(&self.federation)
    }

    fn uses(&self, issuer: &str) {
        self.source.uses(issuer);
    }
}

#[cfg(test)]
mod tests {
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::UnixTime;

    use super::*;
    use crate::identity::fixture::{EXPECTED, Root, leaf_of};
    use crate::identity::tls::server_name;
    use crate::identity::verify::{Expected, Verifier};

    const PARTNER: &str = "spiffe://partner.example/ns/api/sa/orders";

    fn bundle(root: &Root) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle.pem");
        let roots = root.trusted.current().roots.clone();
        let pem: String = roots.iter().map(|der| pem::encode(&pem::Pem::new("CERTIFICATE", der.to_vec()))).collect();
        fs::write(&path, pem).unwrap();
        (folder, path)
    }

    #[test]
    fn a_bundle_vouches_for_its_own_trust_domain_and_no_other() {
        let (own, partner) = (Root::new(), Root::new());
        let (_folder, path) = bundle(&partner);
        let federation = Arc::new(Federation::load([(&"partner.example".to_owned(), &path)]).unwrap());
        let accepts = |root: &Root, identity: &str, trusted: &Trusted| {
            let certificate = root.sign(&leaf_of(identity)).0;
            let verifier = Verifier::new(Expected::One(identity.parse().unwrap()), trusted.clone());
            verifier.verify_server_cert(&certificate, &[], &server_name(), &[], UnixTime::now()).is_ok()
        };
        let (alone, both) = (own.trusted.clone(), own.trusted.clone().with(&federation));
        assert!(!accepts(&partner, PARTNER, &alone), "nobody vouches for it");
        assert!(accepts(&partner, PARTNER, &both));
        assert!(accepts(&own, EXPECTED, &both));
        assert!(!accepts(&partner, EXPECTED, &both), "the partner vouches for one of ours");
        assert!(!accepts(&own, PARTNER, &both), "we vouch for one of the partner's");
        assert!(!accepts(&partner, "spiffe://third.example/a", &both), "the partner vouches for somebody else's");
    }

    #[test]
    fn what_is_no_bundle_is_refused() {
        let load = |path: &Path| Federation::load([(&"partner.example".to_owned(), &path.to_owned())]).map(drop);
        assert!(matches!(load(Path::new("/nowhere/bundle.pem")), Err(Error::Read { .. })));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle.pem");
        for content in ["", "no PEM", "-----BEGIN CERTIFICATE-----\n"] {
            fs::write(&path, content).unwrap();
            assert!(matches!(load(&path), Err(Error::Content { .. })), "{content}");
        }
        fs::write(&path, pem::encode(&pem::Pem::new("CERTIFICATE", vec![0x30, 0]))).unwrap();
        assert!(matches!(load(&path), Err(Error::Root { .. })));
    }
}
