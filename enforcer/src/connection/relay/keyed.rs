//! Keys from a pair session in place of a handshake in the connection: what the relay does when the other end is, or may
//! be, an application's own socket.
//!
//! The other agent sees an offer or an answer like any other; that the socket here is the agent's own is nobody's
//! business. So an agent that relays for one of its workloads, whatever the reason, and an agent that does not, still
//! find each other.

use std::net::SocketAddr;
use std::time::Instant;

use enforcer_ebpf::Reason;
use rustls::CipherSuite;
use tokio::net::TcpStream;

use super::offload::Session;
use crate::connection::bonds::Bond;
use crate::connection::direct::{Offers, Put};
use crate::connection::pair::{Connection, Facts, Keys, Pair, Takes, TrafficKey};
use crate::connection::{Expected, Request};
use crate::kernel::ktls;
use crate::observe::events::{Entry, Offloaded};

/// To whom a connection has to be offered.
pub(super) struct Addressee<'a> {
    offers: &'a Offers,
    whose: Pair,
    agent: SocketAddr,
}

/// The agent of the other end, if it wants connections offered.
///
/// # Errors
///
/// [`Reason::PeerRefused`], where that agent wants none.
pub(super) async fn wants_offer<'a>(
    offers: &'a Offers,
    request: &Request,
    expected: &Expected,
) -> Result<Option<Addressee<'a>>, Reason> {
    let Some(agent) = expected.agent else { return Ok(None) };
    let whose = Pair { local: request.workload.identity.clone(), remote: expected.identity.clone() };
    let takes = offers.takes(&whose, agent).await?;
    Ok((takes == Takes::Direct).then_some(Addressee { offers, whose, agent }))
}

/// Offers a connection that the relay has opened.
pub(super) async fn offer(
    stream: TcpStream,
    Addressee { offers, whose, agent }: Addressee<'_>,
    (bond, record): (&Bond, &Entry),
) -> Result<Session, Reason> {
    let started = Instant::now();
    let ends = || Ok(Connection { source: stream.local_addr()?, destination: stream.peer_addr()? });
    let connection = ends().map_err(lost)?;
    attach(&stream)?;
    let install = |keys: &Keys| install(&stream, &keys.forward, &keys.back);
    let agreed = offers.agree((&whose, agent), (connection, bond), None, install).await?;
    record.handshake_took(started.elapsed());
    settle(stream, &whose, (agreed.session.facts(), agreed.suite), record)
}

/// Takes an offer for a connection that the relay has accepted. The caller answers it.
pub(super) fn take(stream: TcpStream, request: &Request, put: &Put, record: &Entry) -> Result<Session, Reason> {
    if put.pair.local != request.workload.identity {
        return Err(Reason::PeerIdentityMismatch);
    }
    request.bond.tie(&put.facts.serials())?;
    attach(&stream)?;
    let keys = &put.offered.keys;
    install(&stream, &keys.back, &keys.forward)?;
    settle(stream, &put.pair, (&put.facts, keys.back.suite), record)
}

fn attach(stream: &TcpStream) -> Result<(), Reason> {
    ktls::attach(stream).map_err(|error| {
        tracing::debug!(%error, "record layer not attached");
        // Without kernel TLS an agent cannot be the other end of an application's own socket.
        if ktls::is_missing(&error) { Reason::KernelUnable } else { Reason::PeerClosedInHandshake }
    })
}

fn install(stream: &TcpStream, send: &TrafficKey, receive: &TrafficKey) -> Result<(), Reason> {
    let installed = ktls::send_with(stream, &send.into()).and_then(|()| ktls::receive_with(stream, &receive.into()));
    installed.map_err(|error| {
        tracing::warn!(%error, "connection not given its keys");
        Reason::Internal
    })
}

fn settle(
    stream: TcpStream,
    whose: &Pair,
    (facts, suite): (&Facts, CipherSuite),
    record: &Entry,
) -> Result<Session, Reason> {
    record.authenticated(&whose.remote, facts.tls(suite));
    record.offloaded(Offloaded::Kernel);
    Session::keyed(stream).map_err(lost)
}

fn lost(error: std::io::Error) -> Reason {
    tracing::debug!(%error, "connection lost before it was open");
    Reason::PeerReset
}
