//! A certificate for a public name with its key: checked before it is used, whether it has just come or was kept.
//!
//! The clients of the name decide whom they trust; here it is made sure that what they are shown is a chain for this name
//! and no other, with our key, and no more of it than a chain needs.

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{Error as TlsError, ServerConfig};
use time::{Duration, OffsetDateTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::identity::Serial;
use crate::identity::plain::{LONGEST_NAME, plain};

/// Certificates of a chain, and octets of all of them.
const MOST_CERTIFICATES: usize = 8;
pub(super) const LONGEST: usize = 64 * 1024;
/// What an authority's clock may be ahead of ours.
const SKEW: Duration = Duration::hours(1);
/// A life that nobody could renew in time, or that no authority gives.
const SHORTEST_LIFE: Duration = Duration::minutes(5);
const LONGEST_LIFE: Duration = Duration::days(10 * 366);

/// A certificate that can be used.
#[derive(Debug)]
pub struct Held {
    /// Its serial number.
    pub serial: Serial,
    /// Who has signed it. Printable.
    pub signed_by: String,
    /// When it begins to be valid.
    pub not_before: OffsetDateTime,
    /// When it stops.
    pub not_after: OffsetDateTime,
    /// How clients are answered with it.
    pub(super) config: Arc<ServerConfig>,
}

/// Why a chain cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is longer than any chain.
    #[error("the chain has more than {MOST_CERTIFICATES} certificates or {LONGEST} octets")]
    TooLong,
    /// It is no chain of certificates.
    #[error("{0}")]
    Malformed(&'static str),
    /// It is for something else.
    #[error("the certificate is not for this name alone")]
    OtherNames,
    /// It is not valid now, or not for any sensible time.
    #[error("the certificate is valid from {not_before} to {not_after}, which is not now or no sensible time")]
    Validity {
        /// Its beginning.
        not_before: OffsetDateTime,
        /// Its end.
        not_after: OffsetDateTime,
    },
    /// Clients could not verify it.
    #[error("the chain does not verify: {0}")]
    Path(String),
    /// It is not the key's.
    #[error("the certificate and the key do not belong together")]
    OtherKey,
}

impl Held {
    /// From a chain and its key, PEM and PKCS#8, whenever it is valid.
    pub(super) fn read(name: &str, chain: &str, key: &PrivatePkcs8KeyDer<'_>) -> Result<Self, Unusable> {
        let chain = certificates(chain)?;
        let leaf = chain.first().ok_or(Unusable::Malformed("there is no certificate"))?;
        let (rest, parsed) = X509Certificate::from_der(leaf).map_err(|_malformed| UNREADABLE)?;
        if !rest.is_empty() {
            return Err(UNREADABLE);
        }
        check_names(name, &parsed)?;
        let moment = |at: i64| OffsetDateTime::from_unix_timestamp(at).map_err(|_far_away| UNREADABLE);
        let not_before = moment(parsed.validity().not_before.timestamp())?;
        let not_after = moment(parsed.validity().not_after.timestamp())?;
        // While the certificate is valid, if it ever is: whether it is now is judged elsewhere.
        let at = OffsetDateTime::now_utc().max(not_before).min(not_after);
        check_path(name, &chain, at)?;
        let serial = Serial::of(leaf).ok_or(UNREADABLE)?;
        let signed_by = plain(&parsed.issuer().to_string(), LONGEST_NAME);
        let key = CertifiedKey::from_der(chain.clone(), key.clone_key().into(), &provider());
        let config = key.and_then(server).map_err(|_not_ours| Unusable::OtherKey)?;
        Ok(Self { serial, signed_by, not_before, not_after, config: Arc::new(config) })
    }

    /// Whether its validity is one that a new certificate may have.
    pub(super) fn check_validity(&self, now: OffsetDateTime) -> Result<(), Unusable> {
        let Self { not_before, not_after, .. } = *self;
        let life = not_after - not_before;
        let is_sensible = (SHORTEST_LIFE..=LONGEST_LIFE).contains(&life);
        if is_sensible && not_before <= now + SKEW && now < not_after {
            return Ok(());
        }
        Err(Unusable::Validity { not_before, not_after })
    }

    /// From when to when it is valid.
    pub(super) fn validity(&self) -> (OffsetDateTime, OffsetDateTime) {
        (self.not_before, self.not_after)
    }
}

const UNREADABLE: Unusable = Unusable::Malformed("the certificate cannot be read");

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    if pem.len() > LONGEST {
        return Err(Unusable::TooLong);
    }
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).take(MOST_CERTIFICATES + 1).collect();
    let read = read.map_err(|_malformed| Unusable::Malformed("the chain is no PEM"))?;
    if read.len() > MOST_CERTIFICATES { Err(Unusable::TooLong) } else { Ok(read) }
}

/// The name alone, in whatever case, and nothing else beside it.
fn check_names(name: &str, leaf: &X509Certificate<'_>) -> Result<(), Unusable> {
    let names = leaf.subject_alternative_name().map_err(|_malformed| UNREADABLE)?.ok_or(Unusable::OtherNames)?;
    let is_ours =
        |found: &GeneralName<'_>| matches!(found, GeneralName::DNSName(found) if found.eq_ignore_ascii_case(name));
    let names = &names.value.general_names;
    if !names.is_empty() && names.iter().all(is_ours) { Ok(()) } else { Err(Unusable::OtherNames) }
}

/// Every certificate is signed by one after it, for a server of this name. Whether the last one is trusted is for the
/// clients to say; an authority may leave everything but the leaf to them.
fn check_path(name: &str, chain: &[CertificateDer<'_>], at: OffsetDateTime) -> Result<(), Unusable> {
    let failed = |error: webpki::Error| Unusable::Path(plain(&error.to_string(), LONGEST_NAME));
    let Some((leaf, issuers)) = chain.split_first() else { return Err(UNREADABLE) };
    let leaf = EndEntityCert::try_from(leaf).map_err(failed)?;
    let server = ServerName::try_from(name).map_err(|_no_name| Unusable::OtherNames)?;
    leaf.verify_is_valid_for_subject_name(&server).map_err(|_other| Unusable::OtherNames)?;
    let Some((last, between)) = issuers.split_last() else { return Ok(()) };
    let anchors = [anchor_from_trusted_cert(last).map_err(failed)?];
    let at =
        UnixTime::since_unix_epoch(Duration::seconds(at.unix_timestamp()).try_into().map_err(|_before| UNREADABLE)?);
    let algorithms = provider().signature_verification_algorithms.all;
    let verified = leaf.verify_for_usage(algorithms, &anchors, between, at, KeyUsage::server_auth(), None, None);
    verified.map(drop).map_err(failed)
}

/// How a client is answered that has no certificate: TLS 1.3, or 1.2 for those that have nothing better. No protocol is
/// agreed on, since the application is given the plaintext of whatever HTTP means without.
pub(super) fn server(key: CertifiedKey) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// What browsers have, best first.
pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
        Arc::new(CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() })
    });
    Arc::clone(&PROVIDER)
}
