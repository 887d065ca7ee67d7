//! The authority of a host without a cluster: its keys are files in the state directory, for root's eyes only.
//!
//! The host on which it was made has the root's key and can make intermediates for others; they have only their own.

use std::path::{Path, PathBuf};

use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::{Duration, OffsetDateTime};

use super::directory::{self, BUNDLE, Holds, INTERMEDIATE, INTERMEDIATE_KEY, ROOT, ROOT_KEY};
use super::issuer::{Issuer, belong_together, end};
use super::keys::Key;
use super::{Authority, Error, Issued, LONGEST_WORKLOAD_LIFETIME, SigningRequest, template};
use crate::identity::name::check_trust_domain;
use crate::identity::verify::authority_domain;

/// A workload's certificate lives at least so long.
const SHORTEST_WORKLOAD_LIFETIME: Duration = Duration::minutes(5);
/// An intermediate with less than this ahead of it is made anew when the authority is opened, where the root is.
const RENEW_INTERMEDIATE: Duration = Duration::days(30);

/// An authority in a state directory.
pub struct Embedded {
    path: PathBuf,
    trust_domain: String,
    bundle: Vec<CertificateDer<'static>>,
    issuer: Issuer,
}

impl Embedded {
    /// Makes a new authority: root and intermediate.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`], when there is one; others when it cannot be made.
    pub fn create(path: &Path, trust_domain: &str) -> Result<Self, Error> {
        directory::prepare(path)?;
        let _lock = directory::lock(path)?;
        match directory::inspect(path)? {
            Holds::Authority => Err(Error::Exists { path: path.to_owned() }),
            Holds::Nothing => make(path, trust_domain),
        }
    }

    /// Opens an authority.
    ///
    /// # Errors
    ///
    /// [`Error`], when there is none, or it is not whole, or belongs to another trust domain.
    pub fn open(path: &Path) -> Result<Self, Error> {
        directory::prepare(path)?;
        let _lock = directory::lock(path)?;
        match directory::inspect(path)? {
            Holds::Authority => load(path),
            Holds::Nothing => Err(Error::Incomplete { path: path.to_owned(), missing: BUNDLE.to_owned() }),
        }
    }

    /// Opens the authority of this trust domain, or makes it.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn open_or_create(path: &Path, trust_domain: &str) -> Result<Self, Error> {
        directory::prepare(path)?;
        let _lock = directory::lock(path)?;
        let authority = match directory::inspect(path)? {
            Holds::Nothing => make(path, trust_domain)?,
            Holds::Authority => load(path)?,
        };
        if authority.trust_domain != trust_domain {
            return Err(Error::Content { path: path.join(BUNDLE), expected: "root of the configured trust domain" });
        }
        Ok(authority)
    }

    /// Makes an intermediate for another host: a whole state directory, without the root's key.
    ///
    /// # Errors
    ///
    /// [`Error::NoRootKey`], when this is not the root's host; [`Error::Exists`], when there is one in `out`.
    pub fn issue_node(&self, node: &str, out: &Path) -> Result<(), Error> {
        directory::prepare(out)?;
        if directory::inspect(out)? == Holds::Authority {
            return Err(Error::Exists { path: out.to_owned() });
        }
        let root = open_root(&self.path)?.ok_or_else(|| Error::NoRootKey { path: self.path.clone() })?;
        write_intermediate(&root, &self.trust_domain, node, out)?;
        let bundle = directory::read(&self.path, BUNDLE)?.unwrap_or_default();
        directory::write(out, BUNDLE, &bundle)
    }

    /// The trust domain that this authority answers for.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The certificate of the issuer on this host.
    #[must_use]
    pub fn intermediate(&self) -> &CertificateDer<'static> {
        &self.issuer.certificate
    }
}

impl Authority for Embedded {
    fn issue(&self, request: &SigningRequest, now: OffsetDateTime) -> Result<Issued, Error> {
        let (identity, lifetime) = (&request.identity, request.lifetime);
        if identity.trust_domain() != self.trust_domain {
            return Err(Error::Foreign { identity: identity.clone(), trust_domain: self.trust_domain.clone() });
        }
        if !(SHORTEST_WORKLOAD_LIFETIME..=LONGEST_WORKLOAD_LIFETIME).contains(&lifetime) {
            return Err(Error::Lifetime);
        }
        self.issuer.certify(&request.csr, (identity, lifetime), now)
    }

    fn bundle(&self) -> Vec<CertificateDer<'static>> {
        self.bundle.clone()
    }
}

/// Root first, bundle last: what was interrupted is seen as such.
fn make(path: &Path, trust_domain: &str) -> Result<Embedded, Error> {
    check_trust_domain(trust_domain).map_err(|cause| Error::TrustDomain { name: trust_domain.to_owned(), cause })?;
    let now = OffsetDateTime::now_utc();
    let key = KeyPair::generate().map_err(Error::Sign)?;
    let params = template::root(trust_domain, "root", now)?;
    let root = params.self_signed(&key).map_err(Error::Sign)?;
    directory::write(path, ROOT_KEY, &key.serialize_pem())?;
    directory::write(path, ROOT, &root.pem())?;
    let root_pem = root.pem();
    let root = Root { signer: rcgen::Issuer::new(params.clone(), key), ends: params.not_after };
    write_intermediate(&root, trust_domain, "intermediate", path)?;
    directory::write(path, BUNDLE, &root_pem)?;
    tracing::info!(path = %path.display(), trust_domain, "certificate authority made");
    load(path)
}

fn load(path: &Path) -> Result<Embedded, Error> {
    let bundle_path = path.join(BUNDLE);
    let bundle = needed(path, BUNDLE)?;
    let bundle: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bundle.as_bytes()).collect();
    let bundle = bundle
        .ok()
        .filter(|bundle| !bundle.is_empty())
        .ok_or(Error::Content { path: bundle_path.clone(), expected: "PEM certificate" })?;
    let trust_domain = authority_domain(&bundle[0])
        .ok_or(Error::Content { path: bundle_path, expected: "root of a SPIFFE trust domain" })?;
    let mut intermediate = certificate(path, INTERMEDIATE)?;
    let mut ends =
        end(&intermediate).ok_or(Error::Content { path: path.join(INTERMEDIATE), expected: "certificate" })?;
    // A renewal that was interrupted leaves a new key beside the old certificate.
    let torn = !belong_together(&key(path, INTERMEDIATE_KEY)?, &intermediate);
    if (torn || ends - OffsetDateTime::now_utc() < RENEW_INTERMEDIATE)
        && let Some(root) = open_root(path)?
    {
        write_intermediate(&root, &trust_domain, "intermediate", path)?;
        intermediate = certificate(path, INTERMEDIATE)?;
        ends = end(&intermediate).unwrap_or(ends);
        tracing::info!(until = %ends, "intermediate certificate renewed");
    }
    let key = key(path, INTERMEDIATE_KEY)?;
    if !belong_together(&key, &intermediate) {
        return Err(Error::Content {
            path: path.join(INTERMEDIATE_KEY),
            expected: "key of the intermediate certificate",
        });
    }
    let issuer = Issuer::new(intermediate, Key::new(key))
        .ok_or(Error::Content { path: path.join(INTERMEDIATE), expected: "issuing certificate" })?;
    Ok(Embedded { path: path.to_owned(), trust_domain, bundle, issuer })
}

/// The root with its key.
struct Root {
    signer: rcgen::Issuer<'static, KeyPair>,
    ends: OffsetDateTime,
}

/// `None`: the root's key is on another host.
fn open_root(path: &Path) -> Result<Option<Root>, Error> {
    if directory::read(path, ROOT_KEY)?.is_none() {
        return Ok(None);
    }
    let root = certificate(path, ROOT)?;
    let content = || Error::Content { path: path.join(ROOT), expected: "root certificate" };
    let ends = end(&root).ok_or_else(content)?;
    let signer = rcgen::Issuer::from_ca_cert_der(&root, key(path, ROOT_KEY)?).map_err(|_malformed| content())?;
    Ok(Some(Root { signer, ends }))
}

fn write_intermediate(root: &Root, trust_domain: &str, name: &str, out: &Path) -> Result<(), Error> {
    let key = KeyPair::generate().map_err(Error::Sign)?;
    let params = template::intermediate(trust_domain, name, OffsetDateTime::now_utc(), root.ends)?;
    let certificate = params.signed_by(&key, &root.signer).map_err(Error::Sign)?;
    directory::write(out, INTERMEDIATE_KEY, &key.serialize_pem())?;
    directory::write(out, INTERMEDIATE, &certificate.pem())
}

fn needed(path: &Path, name: &str) -> Result<String, Error> {
    directory::read(path, name)?.ok_or_else(|| Error::Incomplete { path: path.to_owned(), missing: name.to_owned() })
}

fn certificate(path: &Path, name: &str) -> Result<CertificateDer<'static>, Error> {
    CertificateDer::from_pem_slice(needed(path, name)?.as_bytes())
        .map_err(|_malformed| Error::Content { path: path.join(name), expected: "PEM certificate" })
}

fn key(path: &Path, name: &str) -> Result<KeyPair, Error> {
    KeyPair::from_pem(&needed(path, name)?)
        .map_err(|_malformed| Error::Content { path: path.join(name), expected: "PEM private key" })
}
