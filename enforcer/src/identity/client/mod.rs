//! Control as a source of certificates: what an agent does where there is an `enforcer control`.
//!
//! ```text
//! join      a token makes this machine a node
//! files     what it keeps of that
//! channel   the way to control, over mutual TLS with the node's certificate
//! renew     the next node certificate
//! watch     whom to trust, told by control as soon as it changes
//! ```
//!
//! When control is away, certificates that are held stay in use until they end, and whom to trust stays as it was told
//! last. Revocation lists end too: [`Wanted::grace`] after that no certificate is accepted that they are about.

mod channel;
mod files;
mod join;
mod renew;
mod watch;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use tokio::sync::{Notify, watch as channel_of};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::name::{Identity, NameError};
use super::plain::{LONGEST_WORDS, plain};
use super::source::{Pending, Source};
use super::trust::{Malformed, Trust, Trusted};
use super::verify::{Expected, Verifier};
use super::{Serial, tls};
use crate::ca::domain::{control_identity, node_identity};
use crate::ca::{self, Issued, SigningRequest};
use crate::protocol::IssueRequest;
use channel::{Nodes, certificates, within};
use files::Membership;

/// What is wanted of control.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// `HOST:PORT`.
    pub address: String,
    /// A file with a token, for a machine that has not joined.
    pub token: Option<PathBuf>,
    /// How long after its end a revocation list is still in force: as long as control may be away.
    pub grace: Duration,
    /// Where the node's key and certificate are kept.
    pub directory: PathBuf,
    /// The trust domain.
    pub trust_domain: String,
    /// The node's name.
    pub node: String,
}

/// Who speaks to whom, and where.
#[derive(Debug)]
struct Whom {
    address: String,
    control: Identity,
    node: Identity,
}

/// Control, as an agent has it.
pub struct Control {
    whom: Whom,
    token: Option<PathBuf>,
    directory: PathBuf,
    grace: Duration,
    current: Mutex<Current>,
    /// The authority of every certificate that the workloads use.
    used: channel_of::Sender<String>,
    /// Control refuses what the node's certificate is shown for.
    refused: Notify,
    /// Counts the node's certificates.
    renewed: channel_of::Sender<u64>,
    trust: channel_of::Sender<Arc<Trust>>,
}

/// The node's certificate, and the way that is made with it.
struct Current {
    /// The authority that has issued it; empty if that is not known.
    issuer: String,
    key: Arc<CertifiedKey>,
    way: Nodes,
}

/// Control cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This machine is no node yet, or not any more.
    #[error(
        "this machine has no valid node certificate in {directory}: make a token with `enforcer control token create \
         --node {node}`, put it into a file and name it as `tokenFile` of the Node's `control`"
    )]
    NotJoined {
        /// The state directory.
        directory: PathBuf,
        /// Its name.
        node: String,
    },
    /// The file holds no token.
    #[error("{path} holds no join token: `enforcer control token create` prints one")]
    Token {
        /// The file.
        path: PathBuf,
    },
    /// Control answers with a refusal, or does not answer.
    #[error("{call} at control: {why}")]
    Control {
        /// Whether it is the node that is refused.
        is_refusal: bool,
        /// What was asked for.
        call: &'static str,
        /// What it says, or why there is no answer.
        why: String,
    },
    /// Control has ended the stream.
    #[error("control has ended the stream")]
    Ended,
    /// Control's bundle does not have the root that the token names.
    #[error("control's trust bundle does not have the root that the token names: the token is of another authority")]
    OtherRoots,
    /// What control issued or told cannot be used.
    #[error("use the node certificate that control has issued")]
    Unusable(#[source] rustls::Error),
    /// What control told cannot be read.
    #[error("read what control tells")]
    Trust(#[from] Malformed),
    /// A file is missing.
    #[error("{path} is missing: restore it from a copy, or remove node.pem beside it and join anew with a token")]
    Incomplete {
        /// The file.
        path: PathBuf,
    },
    /// A file does not hold what its name says.
    #[error(
        "{path} is damaged: restore it from a copy, or remove node.pem in that directory and join anew with a token"
    )]
    Content {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Write(ca::Error),
    /// A key or a request cannot be made.
    #[error("make a key and a request for the node")]
    Request(#[source] rcgen::Error),
    /// TLS cannot be set up.
    #[error("set up TLS to control")]
    Tls(#[source] rustls::Error),
    /// The trust domain or the node's name is none.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl Error {
    fn control(call: &'static str, status: &tonic::Status) -> Self {
        let mut why = plain(status.message(), LONGEST_WORDS);
        // What tonic says of a lost way is behind its words.
        let mut cause = std::error::Error::source(status);
        while let Some(behind) = cause {
            why = format!("{why}: {behind}");
            cause = behind.source();
        }
        let is_refusal = matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated);
        Self::Control { is_refusal, call, why }
    }
}

impl Control {
    /// Joins where this machine is no node, and starts renewing and listening until `stop`.
    ///
    /// # Errors
    ///
    /// [`Error`], when there is no valid node certificate and none to be had. A node that has one starts without control.
    pub async fn start(wanted: Wanted, stop: &CancellationToken) -> Result<Arc<Self>, Error> {
        let whom = Whom {
            control: control_identity(&wanted.trust_domain)?,
            node: node_identity(&wanted.trust_domain, &wanted.node)?,
            address: wanted.address,
        };
        ca::prepare_directory(&wanted.directory).map_err(Error::Write)?;
        let membership = match files::read(&wanted.directory)? {
            Some(held) if join::check(&whom, &held).is_ok() => held,
            _ => {
                let directory = wanted.directory.clone();
                let token = wanted.token.as_ref().ok_or(Error::NotJoined { directory, node: wanted.node })?;
                let joined = join::join(&whom, token).await?;
                files::write(&wanted.directory, &joined)?;
                tracing::info!(node = %whom.node, control = whom.address, "joined");
                joined
            }
        };
        let trust = Arc::new(Trust::of_roots(membership.roots.clone())?);
        let trust = channel_of::channel(trust).0;
        let renewal = renew::renewal(&membership.chain);
        let current = Current::new(&whom, &membership, Trusted::new(trust.subscribe()))?;
        let control = Arc::new(Self {
            whom,
            token: wanted.token,
            directory: wanted.directory,
            grace: wanted.grace,
            current: Mutex::new(current),
            used: channel_of::channel(String::new()).0,
            refused: Notify::new(),
            renewed: channel_of::channel(0).0,
            trust,
        });
        let (watching, renewing) = (watch::watch(Arc::clone(&control)), renew::keep(Arc::clone(&control), renewal));
        let stop = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = watching => {}
                () = renewing => {}
            }
        });
        Ok(control)
    }

    fn way(&self) -> Result<Nodes, Error> {
        Ok(self.current.lock().unwrap_or_else(PoisonError::into_inner).way.clone())
    }

    /// Whether the node's certificate is on a revocation list.
    fn is_revoked(&self, trust: &Trust) -> bool {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.key.cert.first().and_then(Serial::of).is_some_and(|serial| trust.revokes(&serial))
    }

    /// Returns when control has told whom to trust, or has not for so long.
    pub async fn told(&self, longest: Duration) -> bool {
        let mut trust = self.trust.subscribe();
        timeout(longest, trust.wait_for(|trust| trust.version != 0)).await.is_ok_and(|told| told.is_ok())
    }

    /// The authority that has issued the node's certificate; empty if that is not known.
    fn issuer(&self) -> String {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).issuer.clone()
    }

    /// The authority of every certificate that is used here, the node's too; empty if they are of several.
    fn issuer_in_use(&self) -> String {
        let used = self.used.borrow().clone();
        if self.issuer() == used { used } else { String::new() }
    }

    /// Another node certificate is used from now on.
    fn adopt(&self, membership: &Membership) -> Result<(), Error> {
        let next = Current::new(&self.whom, membership, self.trusted())?;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = next;
        self.renewed.send_modify(|count| *count += 1);
        Ok(())
    }
}

impl Current {
    fn new(whom: &Whom, membership: &Membership, trusted: Trusted) -> Result<Self, Error> {
        let der = rustls::pki_types::PrivatePkcs8KeyDer::from(membership.key.serialize_der());
        let key = CertifiedKey::from_der(membership.chain.clone(), der.into(), &tls::crypto_provider());
        let key = Arc::new(key.map_err(Error::Unusable)?);
        // Who refused control because its lists have ended would never be told newer ones.
        let verifier = Verifier::new(Expected::One(whom.control.clone()), trusted).despite_old_lists();
        let verifier = Arc::new(verifier);
        let way = channel::open(&whom.address, verifier, Some(Arc::clone(&key))).map_err(Error::Tls)?;
        Ok(Self { issuer: membership.issuer.clone(), key, way })
    }
}

impl Source for Control {
    fn issue(&self, request: SigningRequest) -> Pending<'_> {
        Box::pin(async move {
            let message = IssueRequest { request: request.csr.to_vec(), identity: request.identity.to_string() };
            let mut way = self.way()?;
            let answer = way.issue(within(message)).await.map_err(|status| Error::control("issue", &status))?;
            let answer = answer.into_inner();
            Ok(Issued { issuer: answer.issuer, ..issued(certificates(answer.chain))? })
        })
    }

    fn trusted(&self) -> Trusted {
        Trusted::new(self.trust.subscribe())
    }

    fn uses(&self, issuer: &str) {
        self.used.send_if_modified(|used| {
            let is_another = used != issuer;
            issuer.clone_into(used);
            is_another
        });
    }
}

/// What control has issued, as far as it can be read.
fn issued(chain: Vec<CertificateDer<'static>>) -> Result<Issued, Error> {
    let unreadable = || Error::Unusable(rustls::CertificateError::BadEncoding.into());
    let first = chain.first().ok_or_else(unreadable)?;
    let (serial, (not_before, not_after)) = {
        let (_, parsed) = X509Certificate::from_der(first).map_err(|_malformed| unreadable())?;
        let validity = parsed.validity();
        (
            parsed.raw_serial_as_string().replace(':', ""),
            (validity.not_before.to_datetime(), validity.not_after.to_datetime()),
        )
    };
    Ok(Issued { chain, serial, not_before, not_after, issuer: String::new() })
}

#[cfg(fuzzing)]
pub(crate) mod fuzz;
