//! What an accepted connection was meant to be: whose it is, between which ends, and who is registered there.

use std::net::SocketAddr;
use std::sync::Arc;

use enforcer_ebpf::Reason;
use tokio::net::TcpStream;

use super::bonds::Bond;
use super::choose::{Choice, choose};
use super::public::Public;
use super::serve::{Listener, Path};
use super::workload::Workload;
use crate::control::policy::{Attempt, Decision};
use crate::control::snapshot::Peer;
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
    /// What the registry knows of the other end.
    pub peer: Option<Peer>,
    /// To the certificates under which it is carried, once they are known.
    pub bond: Bond,
}

impl Request {
    /// What rules say of it, and what follows.
    #[must_use]
    pub fn judge(&self, direction: Direction) -> (Decision, Choice) {
        let decision = self.workload.policy().decide(&self.attempt(direction));
        let choice = choose(direction, self.workload.wants(direction, self.destination.port()), self.peer.as_ref())
            .ruled(decision.verdict);
        (decision, choice)
    }

    fn attempt(&self, direction: Direction) -> Attempt<'_> {
        let other = if direction == Direction::Outbound { self.destination } else { self.source };
        let identity = self.peer.as_ref().and_then(|peer| peer.speaks.identity());
        Attempt { direction, identity, address: other.ip(), port: self.destination.port() }
    }

    /// What the workload offers to everybody, if this connection may be meant for that.
    #[must_use]
    pub fn public(&self, direction: Direction) -> Option<&Public> {
        let public = self.workload.public.as_ref().filter(|_| direction == Direction::Inbound);
        public.filter(|public| public.may_be_called(self.destination.port(), self.peer.as_ref()))
    }
}

/// Finds out. `None`: no program sent it here, somebody has connected to the listener; it is reset and counted.
pub(super) fn intercept(path: &Path, listener: &Listener, accepted: &TcpStream) -> Option<Request> {
    let request = match listener.direction {
        Direction::Outbound => outbound(path, listener, accepted),
        Direction::Inbound => inbound(path, listener, accepted),
    };
    if request.is_none() {
        path.connections.refused(listener.direction, Reason::NotRedirected);
    }
    request
}

fn outbound(path: &Path, listener: &Listener, accepted: &TcpStream) -> Option<Request> {
    let source = accepted.peer_addr().ok()?;
    let redirect = path.flows.take(listener.place.namespace.cookie(), source)?;
    let destination = SocketAddr::from(redirect.destination);
    Some(Request {
        workload: Arc::clone(path.by_cgroup.get(&redirect.cgroup)?),
        namespace: Arc::clone(&listener.place.namespace),
        source,
        destination,
        peer: path.snapshot.peer_of(destination.ip()).cloned(),
        bond: path.bonds.bond(),
    })
}

/// No address was rewritten on the way here, so the socket itself knows both ends.
fn inbound(path: &Path, listener: &Listener, accepted: &TcpStream) -> Option<Request> {
    let (source, destination) = (accepted.peer_addr().ok()?, accepted.local_addr().ok()?);
    if destination == listener.address {
        return None;
    }
    Some(Request {
        workload: Arc::clone(listener.place.workload_at(destination.port())?),
        namespace: Arc::clone(&listener.place.namespace),
        source,
        destination,
        peer: path.snapshot.peer_of(source.ip()).cloned(),
        bond: path.bonds.bond(),
    })
}
