//! Certificates from somebody else's SPIFFE Workload API, such as that of a SPIRE agent.
//!
//! The Workload API gives the process that asks its certificates, with their keys. The process that asks is this agent,
//! so whoever answers must have an entry for it with each identity of this node's workloads (in SPIRE: one entry for each,
//! with a selector that matches the agent's process). There is no request that could be signed: this is no [`Source`],
//! it feeds the [`Store`] in the place of `rotate`. `answer` takes apart what comes.
//!
//! It is judged as what our own authority issues: each certificate must verify against the bundle of this trust domain,
//! name exactly the identity, and be that of its key. One that does not pass is refused and the one before stays in use
//! as long as it is valid; so do all when nobody answers. What is taken back is taken back: an answer without an
//! identity, or the answer that there is none, is not one that failed (SPIFFE Workload API, 5.2.1).
//!
//! Not used: bundles of other trust domains that the answer has, and hints; of several certificates for one identity the first that passes.
//!
//! [`Source`]: super::source::Source

mod answer;
#[cfg(fuzzing)]
pub(crate) mod fuzz;

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rand::Rng;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::transport::{Endpoint, Uri};
use tonic::{Code, Request, Status, Streaming};
use tower::service_fn;

use super::federation::Federation;
use super::name::Identity;
use super::plain::{LONGEST_WORDS, plain};
use super::request::{blocking, check};
use super::roster::{Roster, Watched};
use super::rotate::pause;
use super::store::{Credentials, Parts, Store, Writer};
use super::tls::crypto_provider_for;
use super::trust::{Trust, Trusted};
use crate::control::snapshot::Cipher;
use crate::protocol::LONGEST_MESSAGE;
use crate::protocol::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use crate::protocol::workload::{X509svidRequest, X509svidResponse};
use answer::{Answer, Svid, Unusable, validity};

/// How long the first answer of a stream may take: it is sent without delay (SPIFFE Workload API, 4.3).
const FIRST_ANSWER: Duration = Duration::from_secs(10);
/// Between two looks at the clock while nothing comes. There are no signs of life on the connection: whoever is at the
/// other end of a Unix socket is known to be gone, and a SPIRE agent takes more than one in five minutes for an attack.
const LOOK: Duration = Duration::from_secs(30);
/// A certificate of which so much is over should have been renewed: whoever answers may be stuck.
const OVERDUE: f64 = 0.75;

/// What is wanted of a Workload API.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its socket.
    pub socket: PathBuf,
    /// Whose bundle is trusted.
    pub trust_domain: String,
    /// The identities of this node's workloads, in the trust domain.
    pub identities: Roster,
    /// What their handshakes prefer.
    pub cipher: Cipher,
    /// Whom else they trust.
    pub federation: Arc<Federation>,
}

/// Nothing comes from the Workload API.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// There is nobody.
    #[error("connect")]
    Connect(#[source] tonic::transport::Error),
    /// It refuses, or something went wrong.
    #[error("{}: {}", .0.code(), plain(.0.message(), LONGEST_WORDS))]
    Call(Status),
    /// It is there and says nothing.
    #[error("no answer within {} s", FIRST_ANSWER.as_secs())]
    Silent,
    /// It has said nothing for too long.
    #[error("no certificate was renewed in time")]
    Overdue,
    /// Others are wanted than those that were looked for: they are in the first answer of the next stream.
    #[error("others are wanted")]
    OthersWanted,
    /// It has ended the stream.
    #[error("the stream has ended")]
    Ended,
    /// What it says cannot be used.
    #[error("use the answer")]
    Answer(#[from] Unusable),
}

/// Asks for the first certificates, and listens for the next ones until `stop`. Returns after the first answer, or when
/// there is none: what has not come is not in the store. Until whoever answers has said whom to trust, nobody is.
pub async fn start(wanted: Wanted, stop: CancellationToken) -> (Arc<Store>, Trusted) {
    let (writer, store) = Store::new();
    let (trust, trusted) = watch::channel(Arc::new(Trust::default()));
    let trusted = Trusted::new(trusted).with(&wanted.federation);
    let provider = crypto_provider_for(wanted.cipher);
    let (trusted_by, chains, roster) = (trusted.clone(), HashMap::new(), wanted.identities.watch());
    let feed = Feed { wanted, roster, provider, writer, trust, trusted: trusted_by, chains, failures: 0 };
    let (first, mut tried) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = feed.run(first) => {}
        }
    });
    // An error: the feed has been stopped already.
    let _tried = tried.wait_for(|tried| *tried).await;
    (Arc::new(store), trusted)
}

/// The one writer of the store.
struct Feed {
    wanted: Wanted,
    roster: Watched,
    provider: Arc<CryptoProvider>,
    writer: Writer,
    trust: watch::Sender<Arc<Trust>>,
    trusted: Trusted,
    /// What the credentials in the store were made of.
    chains: HashMap<Identity, Vec<CertificateDer<'static>>>,
    /// Streams that failed since the last answer.
    failures: u32,
}

impl Feed {
    async fn run(mut self, first: watch::Sender<bool>) {
        loop {
            let Err(error) = self.follow(&first).await;
            if matches!(error, Error::OthersWanted) {
                continue;
            }
            self.failures = self.failures.saturating_add(1);
            let (socket, failures) = (self.wanted.socket.display(), self.failures);
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(%socket, %error, cause, failures, "nothing from the Workload API; trying again");
            if matches!(&error, Error::Call(status) if status.code() == Code::PermissionDenied) {
                self.take_back(&HashSet::new());
            }
            first.send_replace(true);
            let jitter = rand::rng().random_range(0.0..=1.0);
            tokio::select! {
                () = sleep(pause(self.failures, jitter)) => {}
                () = self.roster.changed() => {}
            }
        }
    }

    /// One stream, to its end.
    async fn follow(&mut self, first: &watch::Sender<bool>) -> Result<Infallible, Error> {
        self.keep_only_wanted();
        let opening = async {
            let mut answers = open(&self.wanted.socket).await?;
            let answer = answers.message().await.map_err(Error::Call)?;
            Ok((answers, answer))
        };
        let (mut answers, mut answer) = timeout(FIRST_ANSWER, opening).await.unwrap_or(Err(Error::Silent))?;
        loop {
            self.take(Answer::read(answer.ok_or(Error::Ended)?, &self.wanted.trust_domain)?).await;
            first.send_replace(true);
            self.failures = 0;
            answer = loop {
                // Waiting for a message may be broken off: what has come of it stays in the stream.
                tokio::select! {
                    biased;
                    next = answers.message() => break next.map_err(Error::Call)?,
                    () = self.roster.changed() => return Err(Error::OthersWanted),
                    () = sleep(LOOK) => self.check_time(OffsetDateTime::now_utc())?,
                }
            };
        }
    }

    fn check_time(&self, now: OffsetDateTime) -> Result<(), Error> {
        let overdue = |held: &Credentials| held.not_before + (held.not_after - held.not_before) * OVERDUE <= now;
        if self.writer.borrow().values().any(|held| overdue(held)) { Err(Error::Overdue) } else { Ok(()) }
    }

    /// Takes over an answer. Whom to trust comes first, so that no certificate is used before its issuer is trusted.
    async fn take(&mut self, answer: Answer) {
        if let Some(trust) = answer.trust {
            if trust.roots != self.trust.borrow().roots {
                tracing::info!(roots = trust.roots.len(), "trust bundle has changed");
            }
            self.trust.send_replace(Arc::new(trust));
        }
        let mut svids: HashMap<String, Vec<Svid>> = HashMap::new();
        for svid in answer.svids {
            svids.entry(svid.name.clone()).or_default().push(svid);
        }
        let mut offered = HashSet::new();
        for identity in self.wanted.identities.current() {
            match svids.remove(identity.as_str()) {
                Some(svids) => {
                    self.choose(&identity, svids).await;
                    offered.insert(identity);
                }
                None => {
                    tracing::warn!(%identity, "the Workload API has nothing for this identity: is there an entry for it?")
                }
            }
        }
        self.take_back(&offered);
    }

    /// Puts the first of these that passes into the store, unless it is there.
    async fn choose(&mut self, identity: &Identity, svids: Vec<Svid>) {
        for svid in svids {
            if self.chains.get(identity) == Some(&svid.chain) {
                return;
            }
            let chain = svid.chain.clone();
            match self.credentials(identity, svid).await {
                Ok(credentials) => {
                    let (serial, expires) = (credentials.serial, credentials.not_after);
                    tracing::info!(%identity, %serial, %expires, "certificate received");
                    self.chains.insert(identity.clone(), chain);
                    self.writer.send_modify(|current| {
                        Arc::make_mut(current).insert(identity.clone(), Arc::new(credentials));
                    });
                    return;
                }
                Err(cause) => {
                    tracing::error!(%identity, %cause, "a certificate from the Workload API is refused; the one before stays");
                }
            }
        }
    }

    async fn credentials(&self, identity: &Identity, svid: Svid) -> Result<Credentials, rustls::Error> {
        let (trust, wanted, provider) = (self.trusted.current(), identity.clone(), Arc::clone(&self.provider));
        let leaf = svid.chain.first().cloned().ok_or(rustls::Error::NoCertificatesPresented)?;
        let checking = blocking(move || check((svid.chain, &svid.key), &trust.anchors, &wanted, &provider));
        let (key, serial) = checking.await?;
        Ok(Credentials::new(Parts {
            identity: identity.clone(),
            serial,
            // What has been verified can be read.
            validity: validity(&leaf).ok_or(rustls::CertificateError::BadEncoding)?,
            issuer: String::new(),
            trusted: self.trusted.clone(),
            key,
            provider: Arc::clone(&self.provider),
        }))
    }

    /// Drops the certificates of those who have left.
    fn keep_only_wanted(&mut self) {
        let wanted = self.roster.current();
        self.chains.retain(|identity, _| wanted.contains(identity));
        self.writer.send_modify(|current| Arc::make_mut(current).retain(|identity, _| wanted.contains(identity)));
    }

    /// Takes all certificates out of the store but those that are still offered.
    fn take_back(&mut self, offered: &HashSet<Identity>) {
        let held: Vec<_> = self.chains.keys().filter(|identity| !offered.contains(identity)).cloned().collect();
        for identity in held {
            tracing::warn!(%identity, "the Workload API has taken back the certificate of this identity");
            self.chains.remove(&identity);
            self.writer.send_modify(|current| drop(Arc::make_mut(current).remove(&identity)));
        }
    }
}

async fn open(socket: &Path) -> Result<Streaming<X509svidResponse>, Error> {
    let socket = socket.to_owned();
    let connector = service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    // The address is for HTTP's sake; the connection is always the socket's.
    let channel = Endpoint::from_static("http://workload-api").connect_with_connector(connector).await;
    let channel = channel.map_err(Error::Connect)?;
    let mut client = SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(LONGEST_MESSAGE);
    let mut request = Request::new(X509svidRequest {});
    // Every request says that it means this API (SPIFFE Workload Endpoint, section 3).
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    Ok(client.fetch_x509svid(request).await.map_err(Error::Call)?.into_inner())
}

#[cfg(test)]
mod tests;
