//! The calls of agents. Who calls is known from the connection; what they may is the domain's to say.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateSigningRequestDer;
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::super::domain::{Asker, Domain, Trust};
use super::super::{Issued, LONGEST_REQUEST};
use super::door::Caller;
use super::limits::Turns;
use super::status;
use crate::protocol::nodes_server::Nodes as Calls;
use crate::protocol::{self, Certificate, InForce, IssueRequest, JoinRequest, RenewRequest};

/// How long a node may leave what it is told unread.
const UNREAD: Duration = Duration::from_secs(30);
/// Turns of all that have no certificate together.
const STRANGERS: &str = "";

/// What answers agents.
#[derive(Clone)]
pub(super) struct Nodes {
    pub(super) domain: Arc<Domain>,
    pub(super) told: watch::Receiver<Arc<Trust>>,
    pub(super) turns: Arc<Turns>,
    pub(super) stop: CancellationToken,
}

type Told = Pin<Box<dyn Stream<Item = Result<protocol::Trust, Status>> + Send>>;

#[tonic::async_trait]
impl Calls for Nodes {
    type WatchStream = Told;

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<Certificate>, Status> {
        let who = Asker::Stranger(caller(&request)?.address);
        self.turn(STRANGERS)?;
        let JoinRequest { secret, request } = request.into_inner();
        let issued = self.domain.join(&secret, &signing_request(request)?, &who).await;
        self.answer(issued.map_err(|error| status(&error))?).await
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Certificate>, Status> {
        let (node, who) = self.node(&request).await?;
        let csr = signing_request(request.into_inner().request)?;
        let issued = self.domain.renew(&node, &csr, &who).await;
        self.answer(issued.map_err(|error| status(&error))?).await
    }

    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<Certificate>, Status> {
        let (node, who) = self.node(&request).await?;
        let IssueRequest { request, identity } = request.into_inner();
        let csr = signing_request(request)?;
        let identity = identity.parse().map_err(|cause| Status::invalid_argument(format!("identity: {cause}")))?;
        let issued = self.domain.issue((&node, &identity), &csr, &who).await;
        self.answer(issued.map_err(|error| status(&error))?).await
    }

    async fn watch(&self, request: Request<Streaming<InForce>>) -> Result<Response<Told>, Status> {
        let caller = caller(&request)?.clone();
        let (node, _) = self.node(&request).await?;
        let (sender, receiver) = mpsc::channel(1);
        let watching = Watching { nodes: self.clone(), node, serial: caller.node.map(|(_, serial)| serial), sender };
        tokio::spawn(watching.run(request.into_inner()));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl Nodes {
    /// The node that calls, if its certificate is not revoked and it has a turn.
    async fn node<T>(&self, request: &Request<T>) -> Result<(String, Asker), Status> {
        let Caller { address, node } = caller(request)?;
        let (node, serial) =
            node.as_ref().ok_or_else(|| Status::unauthenticated("this call needs a node's certificate: join first"))?;
        // Turns are kept by name: only names of the configuration have some.
        self.domain.check_known(node).map_err(|error| status(&error))?;
        self.turn(node)?;
        self.domain.check_node(node, serial).await.map_err(|error| status(&error))?;
        Ok((node.clone(), Asker::Node(node.clone(), *address)))
    }

    fn turn(&self, who: &str) -> Result<(), Status> {
        if self.turns.take(who, Instant::now()) {
            return Ok(());
        }
        Err(Status::resource_exhausted("too many requests; wait a moment"))
    }

    async fn answer(&self, issued: Issued) -> Result<Response<Certificate>, Status> {
        let roots = self.domain.roots().await.map_err(|error| status(&error))?;
        Ok(Response::new(Certificate {
            chain: issued.chain.iter().map(|certificate| certificate.to_vec()).collect(),
            roots: roots.iter().map(|root| root.to_vec()).collect(),
            issuer: issued.issuer,
        }))
    }
}

/// A node that listens.
struct Watching {
    nodes: Nodes,
    node: String,
    serial: Option<String>,
    sender: mpsc::Sender<Result<protocol::Trust, Status>>,
}

impl Watching {
    async fn run(self, mut said: Streaming<InForce>) {
        let mut told = self.nodes.told.clone();
        told.mark_changed();
        loop {
            tokio::select! {
                biased;
                () = self.nodes.stop.cancelled() => return,
                () = self.sender.closed() => return,
                changed = told.changed() => {
                    let trust = Arc::clone(&told.borrow_and_update());
                    if changed.is_err() || !self.tell(&trust).await {
                        return;
                    }
                }
                said = said.message() => match said {
                    Ok(Some(said)) => if !self.hear(said).await { return },
                    Ok(None) | Err(_) => return,
                },
            }
        }
    }

    /// False: there is nobody any more.
    async fn tell(&self, trust: &Trust) -> bool {
        let serial = self.serial.as_deref().unwrap_or_default();
        if let Err(error) = self.nodes.domain.check_node(&self.node, serial).await {
            let _gone = self.sender.send_timeout(Err(status(&error)), UNREAD).await;
            return false;
        }
        let message = protocol::Trust {
            version: trust.version,
            roots: trust.roots.iter().map(|root| root.to_vec()).collect(),
            revocation_lists: trust.lists.iter().map(|list| list.to_vec()).collect(),
            issuer: trust.issuer.clone(),
        };
        self.sender.send_timeout(Ok(message), UNREAD).await.is_ok()
    }

    async fn hear(&self, said: InForce) -> bool {
        if self.nodes.turn(&self.node).is_err() || !may_be_true(&said, self.nodes.told.borrow().version) {
            return false;
        }
        let InForce { version, issuer } = said;
        match self.nodes.domain.in_force(&self.node, version, &issuer).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(node = self.node, %error, "cannot write down what a node has in force");
                false
            }
        }
    }
}

/// Whether a node can have in force what it says: nothing that it was not told. It is kept for each node.
fn may_be_true(said: &InForce, told: u64) -> bool {
    /// Octets of an authority's id; ours have 8.
    const LONGEST: usize = 64;
    said.version <= told && said.issuer.len() <= LONGEST
}

fn caller<T>(request: &Request<T>) -> Result<&Caller, Status> {
    request.extensions().get::<Caller>().ok_or_else(|| Status::internal("a connection without a caller"))
}

fn signing_request(der: Vec<u8>) -> Result<CertificateSigningRequestDer<'static>, Status> {
    if der.len() > LONGEST_REQUEST {
        return Err(Status::invalid_argument(format!("a certificate request has at most {LONGEST_REQUEST} octets")));
    }
    Ok(CertificateSigningRequestDer::from(der))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_says_of_itself_is_bounded_before_it_is_kept() {
        let said = |version, issuer: &str| may_be_true(&InForce { version, issuer: issuer.to_owned() }, 7);
        assert!(said(7, "") && said(0, "0a1b2c3d"));
        assert!(!said(8, ""), "it was not told that yet");
        assert!(!said(7, &"x".repeat(100)), "no authority has such an id");
    }
}
