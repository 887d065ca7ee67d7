//! Where agents come in: TLS 1.3, with a node's certificate or, to join, without any.
//!
//! Who may come in is bounded before anything is read: connections at once, and the time for a handshake. A caller
//! with a certificate is a node of this trust domain, proved by the same judgement as everywhere; whether the certificate
//! is revoked is asked with every call.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::version::TLS13;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::super::domain::{node_of, nodes_of};
use super::Error;
use super::own::Own;
use crate::identity::trust::Trusted;
use crate::identity::verify::{Expected, Verifier};
use crate::identity::{Serial, proven, tls};
use crate::protocol;

/// Connections at once. Every node has one.
const CONNECTIONS: usize = 8192;
/// Handshakes at once: so many who say nothing keep nobody else out.
const HANDSHAKES: usize = 1024;
/// From accept to a finished handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// After an accept that failed for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Who calls.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) address: SocketAddr,
    /// The node's name and its certificate's serial number; `None` without a certificate.
    pub(super) node: Option<(String, String)>,
}

/// A connection of a caller.
pub(super) type Entered = protocol::Entered<TlsStream<TcpStream>, Caller, OwnedSemaphorePermit>;

/// How callers are judged.
pub(super) fn config(own: Arc<Own>, trusted: Trusted, trust_domain: &str) -> Result<ServerConfig, Error> {
    // Those who have no certificate yet may join, and nothing else.
    let verifier = Verifier::new(Expected::Below(nodes_of(trust_domain).into()), trusted).or_nobody();
    let mut config = ServerConfig::builder_with_provider(tls::crypto_provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(Error::Tls)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(own);
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Accepts callers until `stop`.
pub(super) fn open(
    listener: TcpListener,
    config: ServerConfig,
    stop: CancellationToken,
) -> mpsc::Receiver<Result<Entered, io::Error>> {
    let (sender, entered) = mpsc::channel(HANDSHAKES);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        let (places, turns) = (Arc::new(Semaphore::new(CONNECTIONS)), Arc::new(Semaphore::new(HANDSHAKES)));
        let accepting = async {
            // Semaphores that nobody closes.
            while let (Ok(place), Ok(turn)) =
                (Arc::clone(&places).acquire_owned().await, Arc::clone(&turns).acquire_owned().await)
            {
                match listener.accept().await {
                    Ok((stream, address)) => {
                        let (acceptor, sender) = (acceptor.clone(), sender.clone());
                        tokio::spawn(async move {
                            if let Some(entered) = enter(stream, address, (acceptor, place)).await {
                                drop(turn);
                                let _served = sender.send(Ok(entered)).await;
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept");
                        sleep(PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = accepting => {}
        }
    });
    entered
}

async fn enter(
    stream: TcpStream,
    address: SocketAddr,
    (acceptor, place): (TlsAcceptor, OwnedSemaphorePermit),
) -> Option<Entered> {
    let refused = |error: &dyn std::fmt::Display| tracing::info!(%address, %error, "refused");
    let stream = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            refused(&error);
            return None;
        }
        Err(late) => {
            refused(&late);
            return None;
        }
    };
    let node = match stream.get_ref().1.peer_certificates() {
        None => None,
        Some(chain) => Some(node(chain)?),
    };
    Some(Entered::new(stream, Caller { address, node }, place))
}

/// Which node the verifier has let in.
fn node(chain: &[CertificateDer<'_>]) -> Option<(String, String)> {
    let (identity, _) = proven(chain)?;
    Some((node_of(&identity)?.to_owned(), Serial::of(chain.first()?)?.to_string()))
}
