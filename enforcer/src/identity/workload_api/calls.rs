//! What is asked and answered (SPIFFE Workload API, sections 4 and 5; SPIFFE Workload Endpoint, section 6).
//!
//! A stream has at most one message that waits to be read; what changes meanwhile is not queued, the next message has
//! the newest. So a workload that does not read costs a message's memory and its own share of streams, for as long as
//! its connection gives signs of life.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::attest::{Members, Nobody, Resident, Share};
use super::desk::{Concatenated, Desk, Shown, Svid};
use crate::identity::trust::{Trust, Trusted};
use crate::kernel::caller::Caller;
use crate::observe::metrics::{Answer, Metrics};
use crate::protocol::workload::spiffe_workload_api_server::SpiffeWorkloadApi;
use crate::protocol::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
};

/// What every request says, so that nobody is made to send one unknowingly (SPIFFE Workload Endpoint, section 3).
const HEADER: (&str, &str) = ("workload.spiffe.io", "true");
/// Between two log entries about callers that are refused. All are counted.
const QUIET: Duration = Duration::from_secs(1);

/// Answers workloads.
pub(super) struct Calls {
    members: Arc<Members>,
    desk: Arc<Desk>,
    metrics: Arc<Metrics>,
    refusals: Mutex<Option<Instant>>,
    stop: CancellationToken,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Refuses requests that do not say that they mean this API.
pub(super) fn header(metrics: Arc<Metrics>) -> impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone {
    move |request| {
        let (name, value) = HEADER;
        if request.metadata().get(name).is_some_and(|found| found == value) {
            return Ok(request);
        }
        metrics.answered(Answer::NoHeader);
        Err(Status::invalid_argument(format!("security header missing from request: {name} must be {value}")))
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Calls {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let admitted = self.admit(&request).await?;
        let shown = self.desk.open(&admitted.resident.member);
        Ok(answers(admitted, Certificates { shown, sent: None }, self.stop.clone()))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let admitted = self.admit(&request).await?;
        let told = Bundles { trusted: self.desk.trusted(), name: self.desk.trust_domain(), sent: None };
        Ok(answers(admitted, told, self.stop.clone()))
    }

    async fn fetch_jwtsvid(&self, _request: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        Err(self.not_offered())
    }

    async fn fetch_jwt_bundles(
        &self,
        _request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(self.not_offered())
    }

    async fn validate_jwtsvid(
        &self,
        _request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(self.not_offered())
    }
}

impl Calls {
    pub(super) fn new(members: Arc<Members>, desk: Arc<Desk>, metrics: Arc<Metrics>, stop: CancellationToken) -> Self {
        Self { members, desk, metrics, refusals: Mutex::default(), stop }
    }

    /// Who asks, if it may.
    async fn admit<T>(&self, request: &Request<T>) -> Result<Admitted, Status> {
        let caller = request.extensions().get::<Arc<Caller>>();
        let caller = Arc::clone(caller.ok_or_else(|| Status::internal("a connection without a caller"))?);
        let resident = match self.members.find(&caller).await {
            Ok(resident) => resident,
            Err(nobody) => return Err(self.refuse(&caller, &nobody)),
        };
        let Some(share) = self.members.stream(&resident) else {
            tracing::debug!(workload = %resident.member.name, pid = caller.pid(), "too many calls of the Workload API");
            self.metrics.answered(Answer::TooMany);
            return Err(Status::unavailable("too many calls at once; close some, or try again later"));
        };
        let (members, metrics) = (Arc::clone(&self.members), Arc::clone(&self.metrics));
        Ok(Admitted { caller, resident, members, metrics, _share: share })
    }

    fn refuse(&self, caller: &Caller, nobody: &Nobody) -> Status {
        let mut last = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= QUIET) {
            *last = Some(Instant::now());
            tracing::info!(pid = caller.pid(), why = %nobody, "no identity for a caller of the Workload API");
        }
        self.metrics.answered(Answer::NotEnrolled);
        no_identity()
    }

    fn not_offered(&self) -> Status {
        self.metrics.answered(Answer::NotOffered);
        Status::unimplemented("JWT-SVIDs are not offered here; identities are X.509 certificates: FetchX509SVID")
    }
}

/// The words are SPIRE's, for which clients look.
fn no_identity() -> Status {
    Status::permission_denied("no identity issued: the process is in no enrolled workload")
}

/// A caller that may ask, while it does.
struct Admitted {
    caller: Arc<Caller>,
    resident: Arc<Resident>,
    members: Arc<Members>,
    metrics: Arc<Metrics>,
    _share: Share,
}

impl Admitted {
    /// The process may have ended or moved since: then what comes is not for whoever has the connection now.
    async fn check(&self) -> Result<(), Status> {
        match self.members.find(&self.caller).await {
            Ok(found) if found.member == self.resident.member => Ok(()),
            _ => Err(self.refuse()),
        }
    }

    /// Returns when its workload is not enrolled any more.
    async fn left(&self) -> Status {
        self.members.left(&self.resident).await;
        self.refuse()
    }

    fn refuse(&self) -> Status {
        self.metrics.answered(Answer::NotEnrolled);
        no_identity()
    }
}

/// What is told in a stream, again with each change.
trait Told: Send + 'static {
    type Message: Send + 'static;

    /// Waits until there is something that was not told yet.
    fn next(&mut self, admitted: &Admitted) -> impl Future<Output = Result<Self::Message, Status>> + Send;
}

fn answers<T: Told>(admitted: Admitted, told: T, stop: CancellationToken) -> Response<Answers<T::Message>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(tell(admitted, told, sender, stop));
    Response::new(Box::pin(ReceiverStream::new(receiver)))
}

async fn tell<T: Told>(
    admitted: Admitted,
    mut told: T,
    sender: mpsc::Sender<Result<T::Message, Status>>,
    stop: CancellationToken,
) {
    loop {
        // The place first, so that what is then told is the newest.
        let place = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            place = sender.reserve() => place,
        };
        let Ok(place) = place else { return };
        let answer = tokio::select! {
            biased;
            () = stop.cancelled() => Err(Status::unavailable("the agent stops; try again")),
            () = sender.closed() => return,
            gone = admitted.left() => Err(gone),
            answer = told.next(&admitted) => answer,
        };
        let is_last = answer.is_err();
        place.send(answer);
        if is_last {
            return;
        }
    }
}

/// A workload's own certificate, and whom to trust.
struct Certificates {
    shown: watch::Receiver<Shown>,
    sent: Option<(Arc<Svid>, Arc<Trust>)>,
}

impl Told for Certificates {
    type Message = X509svidResponse;

    async fn next(&mut self, admitted: &Admitted) -> Result<X509svidResponse, Status> {
        let sent = self.sent.clone();
        // Revocation lists change far more often than bundles.
        let is_new = |svid: &Arc<Svid>, trust: &Trust| {
            !sent.as_ref().is_some_and(|(last, of)| Arc::ptr_eq(last, svid) && of.roots == trust.roots)
        };
        let shown = self.shown.wait_for(|shown| match shown {
            Shown::Pending => false,
            Shown::Valid(svid, trust) => is_new(svid, trust),
            Shown::Missing | Shown::Revoked => true,
        });
        let shown = shown.await.map(|shown| shown.clone());
        let (svid, trust) = match shown {
            Ok(Shown::Valid(svid, trust)) => (svid, trust),
            Ok(Shown::Revoked) => {
                admitted.metrics.answered(Answer::NoCertificate);
                return Err(Status::permission_denied("no identity issued: the certificate was revoked"));
            }
            Ok(Shown::Missing | Shown::Pending) | Err(_) => {
                admitted.metrics.answered(Answer::NoCertificate);
                return Err(Status::unavailable("no certificate can be had now; try again"));
            }
        };
        admitted.check().await?;
        let (member, pid) = (&admitted.resident.member, admitted.caller.pid());
        let message = X509svidResponse {
            svids: vec![X509svid {
                spiffe_id: member.identity.to_string(),
                x509_svid: svid.chain.clone(),
                x509_svid_key: svid.key.to_vec(),
                bundle: trust.roots.concat_der(),
                hint: String::new(),
            }],
            ..X509svidResponse::default()
        };
        tracing::info!(workload = %member.name, identity = %member.identity, pid, serial = %svid.serial, "certificate given to a workload");
        admitted.metrics.answered(Answer::Certificate);
        self.sent = Some((svid, trust));
        Ok(message)
    }
}

/// Whom to trust.
struct Bundles {
    trusted: Trusted,
    name: String,
    sent: Option<Arc<Trust>>,
}

impl Told for Bundles {
    type Message = X509BundlesResponse;

    async fn next(&mut self, admitted: &Admitted) -> Result<X509BundlesResponse, Status> {
        let mut trust = self.trusted.current();
        while self.sent.as_ref().is_some_and(|sent| sent.roots == trust.roots) {
            self.trusted.changed().await;
            trust = self.trusted.current();
        }
        admitted.check().await?;
        let (name, pid) = (&admitted.resident.member.name, admitted.caller.pid());
        tracing::info!(workload = %name, pid, roots = trust.roots.len(), "trust bundle given to a workload");
        admitted.metrics.answered(Answer::Bundle);
        let bundles = HashMap::from([(self.name.clone(), trust.roots.concat_der())]);
        self.sent = Some(trust);
        Ok(X509BundlesResponse { bundles, ..X509BundlesResponse::default() })
    }
}
