//! Accepting pair sessions, from anybody who can reach the address.
//!
//! So all of it is bounded: handshakes at once and their time, and the sessions of each identity that has proved to be
//! a registered peer. Whoever comes when all turns are taken waits in the kernel's backlog. An identity may be on many
//! nodes, so its sessions are bounded twice: few from one agent for one workload, many in all; the oldest goes first.

mod places;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::handshake::{Beginning, DEADLINE, Failed, as_server};
use super::lifetime::live;
use super::sessions::{Host, Sessions, cause};
use super::start;
use crate::connection::bonds::Bond;
use crate::connection::serve::recover;
pub(super) use places::Places;

/// Handshakes at once. Each is somebody who has proved nothing yet.
pub(super) const HANDSHAKES: usize = 64;

impl<H: Host> Sessions<H> {
    /// Accepts sessions until `closing`. Those that were accepted go on.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, closing: CancellationToken) {
        let turns = Arc::new(Semaphore::new(HANDSHAKES));
        let next = async || (Arc::clone(&turns).acquire_owned().await, listener.accept().await);
        loop {
            let (turn, accepted) = tokio::select! {
                biased;
                () = closing.cancelled() => return,
                next = next() => next,
            };
            match (turn, accepted) {
                (Ok(turn), Ok((stream, source))) => {
                    self.tasks.spawn(Arc::clone(&self).answer(stream, source, turn));
                }
                (Ok(_turn), Err(error)) => recover(&error).await,
                // Nobody closes it.
                (Err(_closed), _) => return,
            }
        }
    }

    async fn judge(&self, stream: TcpStream, bond: &Bond) -> Result<Beginning, Failed> {
        let peers = self.host.peers();
        let begin = as_server(stream, &self.store, &peers, |local| self.host.takes(local));
        self.lanes.accepted.in_turns(begin).await?.bind(bond)?.greet().await
    }

    /// Takes one connection from its first octet to the end of its session.
    async fn answer(self: Arc<Self>, stream: TcpStream, source: SocketAddr, turn: OwnedSemaphorePermit) {
        let bond = self.bonds.bond();
        let begun = tokio::select! {
            biased;
            () = self.stop.cancelled() => return,
            begun = timeout(DEADLINE, self.judge(stream, &bond)) => begun.unwrap_or(Err(Failed::Late)),
        };
        drop(turn);
        let Beginning { stream, pair, facts } = match begun {
            Ok(beginning) => beginning,
            Err(error) => {
                tracing::debug!(%source, %error, cause = cause(&error), "pair session refused");
                return;
            }
        };
        let place = self.places.take(&pair, source.ip(), &self.stop);
        let (local, remote) = (&pair.local, &pair.remote);
        tracing::debug!(%local, %remote, %source, "pair session accepted");
        // It lives as long as the other agent wants: this one holds it until then.
        let started = start(stream, Arc::clone(&facts), |handle| self.host.ends(&pair, handle.downgrade()));
        let (_held, session) = match started {
            Ok(started) => started,
            Err(error) => {
                tracing::error!(%local, %remote, %source, %error, cause = cause(&error), "no keys from a pair session");
                return;
            }
        };
        let unwanted = async {
            tokio::select! {
                () = place.unwanted().cancelled() => {}
                () = self.unwanted(&pair, Some(facts.takes)) => {}
            }
        };
        let ended = live(session, facts.expires, (unwanted, &bond)).await;
        tracing::debug!(%local, %remote, %source, %ended, cause = cause(&ended), "accepted pair session ended");
    }
}
