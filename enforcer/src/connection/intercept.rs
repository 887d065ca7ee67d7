//! What an accepted connection was meant to be: whose it is, between which ends, and who is registered there.

use std::net::SocketAddr;
use std::sync::Arc;

use enforcer_ebpf::Reason;
use tokio::net::TcpStream;

use super::bonds::Bond;
use super::choose::{Choice, Wants, choose};
use super::picture::Picture;
use super::public::Public;
use super::serve::{Listener, Path};
use super::workload::Workload;
use crate::control::policy::{Attempt, Decision};
use crate::control::snapshot::WantedPath;
use crate::kernel::netns::Namespace;
use crate::observe::events::Direction;

/// A connection of a workload, before anything is decided.
pub struct Request {
    /// Whose it is.
    pub workload: Arc<Workload>,
    /// The workload's network namespace.
    pub namespace: Arc<Namespace>,
    /// Who opened it. Outbound this is the application's end, which is on the loopback if it did not choose.
    pub source: SocketAddr,
    /// Where it was meant to go.
    pub destination: SocketAddr,
    /// To the certificates under which it is carried, once they are known.
    pub bond: Bond,
}

impl Request {
    /// What rules say of it, and what follows.
    #[must_use]
    pub fn judge(&self, picture: &Picture, direction: Direction) -> (Decision, Choice) {
        self.judge_for(picture, direction, picture.wants(&self.workload))
    }

    /// The same of one that is on its path already: whatever path is wanted now, that one goes on.
    #[must_use]
    pub fn judge_again(&self, picture: &Picture, direction: Direction) -> (Decision, Choice) {
        let wants = Wants { path: WantedPath::Auto, ..picture.wants(&self.workload) };
        self.judge_for(picture, direction, wants)
    }

    fn judge_for(&self, picture: &Picture, direction: Direction, wants: Wants) -> (Decision, Choice) {
        let address = self.other_end(direction).ip();
        let peer = picture.peer_of(address);
        let identity = peer.and_then(|peer| peer.speaks.identity());
        let attempt = Attempt { direction, identity, address, port: self.destination.port() };
        let policy = picture.policy_of(&self.workload);
        let decision = policy.decide(&attempt);
        let wants = Wants { mode: policy.mode_at(direction, self.destination.port()), ..wants };
        let choice = choose(direction, wants, peer).ruled(decision.verdict);
        (decision, choice)
    }

    /// What the workload offers to everybody, if this connection may be meant for that.
    #[must_use]
    pub fn public(&self, picture: &Picture, direction: Direction) -> Option<&Public> {
        let public = self.workload.public.as_deref().filter(|_| direction == Direction::Inbound);
        let peer = picture.peer_of(self.other_end(direction).ip());
        public.filter(|public| public.may_be_called(self.destination.port(), peer))
    }

    fn other_end(&self, direction: Direction) -> SocketAddr {
        if direction == Direction::Outbound { self.destination } else { self.source }
    }
}

/// Finds out. `None`: no program sent it here, somebody has connected to the listener; it is reset and counted.
pub(super) fn intercept(
    path: &Path,
    picture: &Picture,
    (listener, accepted): (&Listener, &TcpStream),
) -> Option<Request> {
    let request = match listener.direction {
        Direction::Outbound => outbound(path, picture, (listener, accepted)),
        Direction::Inbound => inbound(path, picture, (listener, accepted)),
    };
    if request.is_none() {
        path.connections.refused(listener.direction, Reason::NotRedirected);
    }
    request
}

fn outbound(path: &Path, picture: &Picture, (listener, accepted): (&Listener, &TcpStream)) -> Option<Request> {
    let source = accepted.peer_addr().ok()?;
    let redirect = path.flows.take(listener.namespace.cookie(), source)?;
    Some(Request {
        workload: Arc::clone(picture.workload_of(redirect.cgroup)?),
        namespace: Arc::clone(&listener.namespace),
        source,
        destination: SocketAddr::from(redirect.destination),
        bond: path.bonds.bond(),
    })
}

/// No address was rewritten on the way here, so the socket itself knows both ends.
fn inbound(path: &Path, picture: &Picture, (listener, accepted): (&Listener, &TcpStream)) -> Option<Request> {
    let (source, destination) = (accepted.peer_addr().ok()?, accepted.local_addr().ok()?);
    if destination == listener.address {
        return None;
    }
    Some(Request {
        workload: Arc::clone(picture.workload_at(listener.namespace.cookie(), destination.port())?),
        namespace: Arc::clone(&listener.namespace),
        source,
        destination,
        bond: path.bonds.bond(),
    })
}
