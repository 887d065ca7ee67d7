//! The calls of operators, over a socket in control's state directory that only its owner may open.

use std::collections::HashMap;
use std::sync::Arc;

use time::{Duration, OffsetDateTime};
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};

use super::super::domain::{Asker, Domain, Error, Issuance, Revocation, Slot, Step, Target};
use super::lasting::Lasting;
use super::status;
use crate::identity::Identity;
use crate::protocol::operator_server::Operator as Calls;
use crate::protocol::revoke_request::What;
use crate::protocol::{
    AdmitRequest, Admitted, Authorities, Authority, CreateTokenRequest, ImportRequest, Issued, ListRequest, Listing,
    NodeState, RequestRequest, RevokeRequest, Revoked, RotateRequest, ShowRequest, Token, UpstreamRequest,
    rotate_request,
};

/// A token lives at most so long.
const LONGEST_TOKEN: Duration = Duration::days(7);

/// What answers operators.
pub(super) struct Operator {
    domain: Arc<Domain>,
    lasting: Lasting,
}

#[tonic::async_trait]
impl Calls for Operator {
    async fn create_token(&self, request: Request<CreateTokenRequest>) -> Result<Response<Token>, Status> {
        let who = asker(&request);
        let CreateTokenRequest { node, lifetime_seconds } = request.into_inner();
        let life = Duration::seconds(lifetime_seconds.into());
        if life.is_zero() || life > LONGEST_TOKEN {
            return Err(Status::invalid_argument("a token lives for 1 second to 7 days"));
        }
        let (token, expires) = self.domain.create_token(&node, life, &who).await.map_err(|error| status(&error))?;
        Ok(Response::new(Token { token: token.to_string(), expires }))
    }

    async fn revoke(&self, request: Request<RevokeRequest>) -> Result<Response<Revoked>, Status> {
        let who = asker(&request);
        let RevokeRequest { what, reason } = request.into_inner();
        let target = match what.ok_or_else(|| Status::invalid_argument("nothing to revoke is named"))? {
            What::Serial(serial) => Target::Serial(serial.to_ascii_lowercase()),
            What::Identity(identity) => Target::Identity(parsed(&identity)?.to_string()),
            What::Node(node) => Target::Node(node),
        };
        let reason = reason.parse().map_err(Status::invalid_argument)?;
        let revoked = self.domain.revoke(&target, reason, &who).await.map_err(|error| status(&error))?;
        let slots = self.domain.slots().await.map_err(|error| status(&error))?;
        let certificates = revoked.iter().map(|issuance| shown(issuance, None, &slots.slots)).collect();
        Ok(Response::new(Revoked { certificates }))
    }

    async fn admit(&self, request: Request<AdmitRequest>) -> Result<Response<Admitted>, Status> {
        let who = asker(&request);
        let identity = parsed(&request.into_inner().identity)?;
        let changed = self.domain.admit(identity.as_str(), &who).await.map_err(|error| status(&error))?;
        Ok(Response::new(Admitted { changed }))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<Listing>, Status> {
        let ListRequest { revoked_only } = request.into_inner();
        let (issued, revoked) = self.journal().await?;
        let slots = self.domain.slots().await.map_err(|error| status(&error))?;
        let certificates = issued.iter().filter_map(|issuance| {
            let death = revoked.get(&issuance.serial);
            (death.is_some() || !revoked_only).then(|| shown(issuance, death, &slots.slots))
        });
        Ok(Response::new(Listing { certificates: certificates.collect() }))
    }

    async fn show(&self, _request: Request<ShowRequest>) -> Result<Response<Authorities>, Status> {
        self.authorities().await
    }

    async fn rotate(&self, request: Request<RotateRequest>) -> Result<Response<Authorities>, Status> {
        let who = asker(&request);
        let RotateRequest { step, force } = request.into_inner();
        let step = match rotate_request::Step::try_from(step) {
            Ok(rotate_request::Step::Prepare) => Step::Prepare,
            Ok(rotate_request::Step::Activate) => Step::Activate,
            Ok(rotate_request::Step::Retire) => Step::Retire,
            Ok(rotate_request::Step::Unspecified) | Err(_) => {
                return Err(Status::invalid_argument("no step of a rotation is named"));
            }
        };
        self.to_the_end(|domain| async move { domain.rotate(step, force, &who).await }).await?;
        self.authorities().await
    }

    async fn request(&self, request: Request<RequestRequest>) -> Result<Response<UpstreamRequest>, Status> {
        let who = asker(&request);
        let pem = self.to_the_end(|domain| async move { domain.request(&who).await }).await?;
        Ok(Response::new(UpstreamRequest { pem }))
    }

    async fn import(&self, request: Request<ImportRequest>) -> Result<Response<Authorities>, Status> {
        let who = asker(&request);
        let ImportRequest { chain } = request.into_inner();
        self.to_the_end(|domain| async move { domain.import(&chain, &who).await }).await?;
        self.authorities().await
    }
}

impl Operator {
    /// For the operators of this domain.
    pub(super) fn new(domain: Arc<Domain>) -> Self {
        Self { domain, lasting: Lasting::default() }
    }

    /// What makes keys, or counts on those that were made.
    async fn to_the_end<T, F>(&self, work: impl FnOnce(Arc<Domain>) -> F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let done = self.lasting.run(work(Arc::clone(&self.domain))).await;
        done.map_err(|lost| {
            tracing::error!(%lost, "what an operator has asked for was not done");
            Status::internal("control has failed at it; its log says how")
        })?
        .map_err(|error| status(&error))
    }

    /// What has not ended, and what of it is revoked, by serial number.
    async fn journal(&self) -> Result<(Vec<Issuance>, HashMap<String, Revocation>), Status> {
        let now = OffsetDateTime::now_utc();
        let mut issued = self.domain.issued().await.map_err(|error| status(&error))?;
        issued.retain(|issuance| !issuance.is_over(now));
        let revoked = self.domain.revoked().await.map_err(|error| status(&error))?;
        Ok((issued, revoked.into_iter().map(|revoked| (revoked.serial.clone(), revoked)).collect()))
    }

    async fn authorities(&self) -> Result<Response<Authorities>, Status> {
        let slots = self.domain.slots().await.map_err(|error| status(&error))?;
        let (issued, revoked) = self.journal().await?;
        let nodes = self.domain.nodes().await.map_err(|error| status(&error))?;
        let trust_version = self.domain.version().await.map_err(|error| status(&error))?;
        let authorities = slots.slots.iter().map(|slot| authority(slot, &issued, &revoked)).collect();
        let state = |name: &String| NodeState {
            name: name.clone(),
            expires: expiry(name, self.domain.trust_domain(), &issued, &revoked),
            trust_version: nodes.iter().find(|node| node.name == *name).map_or(0, |node| node.version),
        };
        Ok(Response::new(Authorities {
            trust_domain: self.domain.trust_domain().to_owned(),
            authorities,
            nodes: self.domain.placements().keys().map(state).collect(),
            trust_version,
        }))
    }
}

/// When the last certificate of a node ends; 0: it has none.
fn expiry(node: &str, trust_domain: &str, issued: &[Issuance], revoked: &HashMap<String, Revocation>) -> i64 {
    let Ok(identity) = super::super::domain::node_identity(trust_domain, node) else { return 0 };
    let own = issued.iter().filter(|issuance| issuance.name == identity.as_str());
    own.filter(|issuance| !revoked.contains_key(&issuance.serial)).map(|own| own.not_after).max().unwrap_or_default()
}

fn authority(slot: &Slot, issued: &[Issuance], revoked: &HashMap<String, Revocation>) -> Authority {
    let der = |pem: &str| pem::parse(pem).map(pem::Pem::into_contents).unwrap_or_default();
    let live = issued.iter().filter(|issuance| issuance.slot == slot.id && !revoked.contains_key(&issuance.serial));
    Authority {
        id: slot.id.clone(),
        state: slot.state.label().to_owned(),
        root: der(&slot.root),
        intermediate: slot.intermediates.first().map(|newest| der(&newest.certificate)).unwrap_or_default(),
        live: u32::try_from(live.count()).unwrap_or(u32::MAX),
    }
}

fn shown(issuance: &Issuance, death: Option<&Revocation>, slots: &[Slot]) -> Issued {
    let slot = slots.iter().find(|slot| slot.id == issuance.slot);
    let state = slot.map_or("retired", |slot| slot.state.label());
    Issued {
        serial: issuance.serial.clone(),
        name: issuance.name.clone(),
        node: issuance.node.clone(),
        not_before: issuance.not_before,
        not_after: issuance.not_after,
        authority: format!("{} ({state})", issuance.slot),
        revoked: death.map(|death| death.reason.label().to_owned()).unwrap_or_default(),
        revoked_at: death.map(|death| death.at).unwrap_or_default(),
    }
}

fn parsed(identity: &str) -> Result<Identity, Status> {
    identity.parse().map_err(|cause| Status::invalid_argument(format!("identity {identity:?}: {cause}")))
}

fn asker<T>(request: &Request<T>) -> Asker {
    let credentials = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
    let (uid, pid) = credentials.map_or((u32::MAX, None), |credentials| (credentials.uid(), credentials.pid()));
    Asker::Operator { uid, pid }
}
