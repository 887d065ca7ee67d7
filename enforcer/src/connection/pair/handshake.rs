//! The beginning of a pair session: mutual TLS between two agents in the names of two workloads.
//!
//! The client reaches the other agent and asks for the workload by its pseudonym; the server takes that workload's
//! certificate and lets registered peers in. In TLS 1.3 a client is done before the server has judged it, so the server
//! says one octet, the greeting, when it has: a client that was refused learns it here, with its reason, and not from
//! an offer that is lost. The greeting says how connections to the workload are taken.
//!
//! Everything that reads here reads from somebody unknown. rustls bounds what it keeps of a handshake; whoever calls
//! [`as_server`] bounds its time and the number of them.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use enforcer_ebpf::Reason;
use rustls::server::Acceptor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, TlsStream};

use super::{Facts, Pair, Takes};
use crate::connection::bonds::Bond;
use crate::identity::store::{Credentials, Store};
use crate::identity::tls::Alpn;
use crate::identity::{self, Identity, Serial, reason_of_io};
use crate::kernel::socket;

/// From the first packet to the greeting.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);

impl Takes {
    /// What the server says when it has judged the client.
    const fn greeting(self) -> u8 {
        match self {
            Self::Direct => 1,
            Self::Relayed => 2,
        }
    }
}

/// A finished handshake.
pub(super) struct Beginning {
    pub(super) stream: TlsStream<TcpStream>,
    /// Who has proved to be at its ends.
    pub(super) pair: Pair,
    /// What else was settled.
    pub(super) facts: Arc<Facts>,
}

/// There is no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// No TCP connection.
    #[error("reach agent")]
    Unreachable(#[source] io::Error),
    /// It took too long.
    #[error("shake hands within {DEADLINE:?}")]
    Late,
    /// The handshake, or the connection under it, failed.
    #[error("shake hands")]
    Handshake(#[source] io::Error),
    /// The client asks for a workload that is none of ours, or does not speak our protocol.
    #[error("find workload that is asked for")]
    Unknown,
    /// The other end is no agent, or not one of this kind.
    #[error("find agent at the other end")]
    NoAgent,
    /// It was revoked since the handshake looked at it.
    #[error("use certificate of one end, which is revoked")]
    Revoked,
    /// Our side is at fault.
    #[error("make configuration of handshake")]
    Config(#[source] rustls::Error),
}

impl Failed {
    /// Its number, for those who wait for a session.
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::Unreachable(_) => Reason::PeerAgentUnreachable,
            Self::Late => Reason::HandshakeTimeout,
            Self::Handshake(error) => reason_of_io(error),
            Self::NoAgent => Reason::PeerIncompatible,
            Self::Revoked => Reason::CertificateRevoked,
            Self::Unknown | Self::Config(_) => Reason::Internal,
        }
    }
}

/// Opens a connection to an agent and shakes hands for `remote`, within the deadline.
pub(super) async fn as_client(
    credentials: &Credentials,
    remote: &Identity,
    agent: SocketAddr,
) -> Result<Beginning, Failed> {
    let deadline = Instant::now() + DEADLINE;
    let connected = timeout_at(deadline, TcpStream::connect(agent)).await;
    let stream = connected.unwrap_or_else(|elapsed| Err(elapsed.into())).map_err(Failed::Unreachable)?;
    timeout_at(deadline, ask(stream, credentials, remote)).await.unwrap_or(Err(Failed::Late))
}

async fn ask(stream: TcpStream, credentials: &Credentials, remote: &Identity) -> Result<Beginning, Failed> {
    socket::prepare_session(&stream).map_err(Failed::Handshake)?;
    let config = credentials.client_config(remote, Alpn::Pair).map_err(Failed::Config)?;
    let connect = TlsConnector::from(config).connect(identity::pair::server_name(remote), stream);
    let mut stream = connect.await.map_err(Failed::Handshake)?;
    // A server that ignores the protocol's name is no agent, whatever certificate it has.
    if stream.get_ref().1.alpn_protocol().is_none() {
        return Err(Failed::NoAgent);
    }
    let greeting = stream.read_u8().await.map_err(Failed::Handshake)?;
    let takes = [Takes::Direct, Takes::Relayed].into_iter().find(|takes| takes.greeting() == greeting);
    Beginning::of(TlsStream::Client(stream), credentials, takes.ok_or(Failed::NoAgent)?)
}

/// Shakes hands with whoever has connected. The caller sets the deadline, and greets.
pub(super) async fn as_server(
    stream: TcpStream,
    store: &Store,
    peers: &Arc<HashSet<Identity>>,
    takes: impl FnOnce(&Identity) -> Takes,
) -> Result<Beginning, Failed> {
    socket::prepare_session(&stream).map_err(Failed::Handshake)?;
    let asked = LazyConfigAcceptor::new(Acceptor::default(), stream).await.map_err(Failed::Handshake)?;
    let Some(credentials) = identity::pair::asked_for(store, &asked.client_hello()) else {
        // It cannot succeed: what counts is the alert.
        let refused = asked.into_stream(identity::pair::refusal().map_err(Failed::Config)?).await;
        return Err(refused.err().map_or(Failed::NoAgent, |_alert| Failed::Unknown));
    };
    let config = identity::pair::server_config(&credentials, Arc::clone(peers)).map_err(Failed::Config)?;
    let stream = asked.into_stream(config).await.map_err(Failed::Handshake)?;
    Beginning::of(TlsStream::Server(stream), &credentials, takes(&credentials.identity))
}

impl Beginning {
    fn of(stream: TlsStream<TcpStream>, credentials: &Credentials, takes: Takes) -> Result<Self, Failed> {
        let (_, session) = stream.get_ref();
        let certificates = session.peer_certificates().unwrap_or_default();
        let (remote, end) = identity::proven(certificates).ok_or(Failed::NoAgent)?;
        let pair = Pair { local: credentials.identity.clone(), remote };
        let facts = Arc::new(Facts {
            group: session.negotiated_key_exchange_group().map(|group| group.name()),
            local_serial: credentials.serial,
            peer_serial: certificates.first().and_then(Serial::of).ok_or(Failed::NoAgent)?,
            expires: end.min(credentials.not_after),
            takes,
        });
        Ok(Self { stream, pair, facts })
    }

    /// Ties what is made of it to both certificates.
    pub(super) fn bind(self, bond: &Bond) -> Result<Self, Failed> {
        bond.tie(&self.facts.serials()).map_err(|_revoked| Failed::Revoked)?;
        Ok(self)
    }

    /// Tells the client that it is believed.
    pub(super) async fn greet(mut self) -> Result<Self, Failed> {
        let greet = async {
            self.stream.write_u8(self.facts.takes.greeting()).await?;
            self.stream.flush().await
        };
        greet.await.map_err(Failed::Handshake)?;
        Ok(self)
    }
}
