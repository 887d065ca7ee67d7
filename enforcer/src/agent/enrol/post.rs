//! The agent in a workload's network namespace: its listeners there, and the means to end connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use enforcer_ebpf::{DIRECTION_INBOUND, DIRECTION_OUTBOUND, ListenerKey, WorkloadValue};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::agent::Error;
use crate::connection::{Home, Listener};
use crate::control::snapshot::Workload;
use crate::kernel::bpf::Paths;
use crate::kernel::destroy::Destroyer;
use crate::kernel::netns::Namespace;
use crate::kernel::socket::{Side, listen};
use crate::observe::events::Direction;

/// A namespace with enrolled workloads.
#[derive(Clone)]
pub(super) struct Post {
    pub(super) home: Arc<Home>,
    /// Where outbound connections have to be sent.
    pub(super) value: WorkloadValue,
    /// Which paths its connections may take, or might have taken since its workloads were enrolled.
    pub(super) paths: Paths,
    /// Ends its listeners.
    pub(super) listening: CancellationToken,
}

/// A listener on which nobody accepts yet.
pub(in crate::agent) struct Listening {
    pub(super) key: ListenerKey,
    pub(super) socket: TcpListener,
    pub(in crate::agent) listener: Arc<Listener>,
    /// When to stop.
    pub(in crate::agent) closing: CancellationToken,
}

impl Listening {
    /// What to serve, on which socket, until when.
    pub(in crate::agent) fn into_parts(self) -> (Arc<Listener>, TcpListener, CancellationToken) {
        (self.listener, self.socket, self.closing)
    }
}

/// Takes post in a namespace for the workload that wants it first. Programs know nothing of it yet.
pub(super) fn take(
    namespace: Namespace,
    wanted: &Workload,
    closing: &CancellationToken,
) -> Result<(Post, Vec<Listening>), Error> {
    let path = || wanted.network.path();
    let looked = |cause| Error::Path { operation: "look at network namespace", path: path(), cause };
    let (id, destroyer) = (namespace.id().map_err(looked)?, Destroyer::open(&namespace).map_err(Error::Destroyer)?);
    let home = Arc::new(Home { namespace: Arc::new(namespace), id, destroyer });
    let value = WorkloadValue { port_v4: 0, port_v6: 0, direct: 0, loses_the_end: 0, egress: 0, others: 0 };
    let mut post = Post { home, value, paths: Paths::Relay, listening: closing.child_token() };
    let failed = |cause| Error::Listen { workload: wanted.name.clone(), cause };
    let mut listeners = Vec::new();
    for version in [4, 6] {
        for direction in [Direction::Outbound, Direction::Inbound] {
            match open(&mut post, version, direction) {
                Ok(listening) => listeners.push(listening),
                // A namespace without IPv6; without a listener the programs refuse that version.
                Err(error) if version == 6 => {
                    tracing::info!(workload = wanted.name, %error, "no IPv6 in the namespace");
                }
                Err(cause) => return Err(failed(cause)),
            }
        }
    }
    Ok((post, listeners))
}

fn open(post: &mut Post, version: u32, direction: Direction) -> io::Result<Listening> {
    let namespace = &post.home.namespace;
    let (side, number) = match direction {
        Direction::Outbound => (Side::Application, DIRECTION_OUTBOUND),
        Direction::Inbound => (Side::Peer, DIRECTION_INBOUND),
    };
    let socket = listen(namespace, version, side)?;
    let address = socket.local_addr()?;
    let listener = Arc::new(Listener { direction, address, namespace: Arc::clone(namespace) });
    let key = ListenerKey { netns: namespace.cookie(), version, direction: number };
    if direction == Direction::Outbound {
        remember(&mut post.value, address);
    }
    Ok(Listening { key, socket, listener, closing: post.listening.clone() })
}

fn remember(value: &mut WorkloadValue, address: SocketAddr) {
    match address {
        SocketAddr::V4(_) => value.port_v4 = u32::from(address.port()),
        SocketAddr::V6(_) => value.port_v6 = u32::from(address.port()),
    }
}
