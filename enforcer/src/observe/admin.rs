//! The admin socket: metrics, open connections, what was seen, status and readiness over HTTP, read only, on the loopback
//! only.
//!
//! There is no authentication, so any local user may read what is here; no key is. A client can neither hold the
//! agent nor grow its memory: at most [`CONNECTIONS`] at once, each for at most [`LIFETIME`], no request body is read.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::serve::Listener;
use axum::{Json, Router};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;

use super::events::Connections;
use super::metrics::Metrics;
use super::ready::Readiness;
use super::report::{ConnectionReport, SeenReport, StatusReport};
use crate::identity::request::blocking;

/// Clients at once. Further ones wait in the listener's backlog.
const CONNECTIONS: usize = 8;
/// From accept to close, requests and answers included.
const LIFETIME: Duration = Duration::from_secs(10);
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The admin socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address could be reached from other hosts.
    #[error("admin address {address} is not a loopback address: who can reach it is not asked who it is")]
    NotLoopback {
        /// What was configured.
        address: SocketAddr,
    },
    /// The operating system refuses.
    #[error("bind admin address {address}")]
    Bind {
        /// What was configured.
        address: SocketAddr,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

/// What is served.
pub struct State {
    /// The open connections.
    pub connections: Connections,
    /// The counts.
    pub metrics: Arc<Metrics>,
    /// Whether the agent has started.
    pub readiness: Readiness,
    /// What was seen; called at each request for it, where it may block.
    pub seen: Box<dyn Fn() -> SeenReport + Send + Sync>,
    /// Everything else; called at each request for it.
    pub status: Box<dyn Fn() -> StatusReport + Send + Sync>,
}

/// Takes the address; nothing is answered before [`Bound::serve`].
///
/// # Errors
///
/// [`Error`].
pub async fn bind(address: SocketAddr) -> Result<Bound, Error> {
    if !address.ip().to_canonical().is_loopback() {
        return Err(Error::NotLoopback { address });
    }
    let listener = TcpListener::bind(address).await.map_err(|cause| Error::Bind { address, cause })?;
    Ok(Bound { listener, lifetime: LIFETIME })
}

/// The admin socket, bound and not yet served.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    lifetime: Duration,
}

impl Bound {
    /// The address, with the port that was given if 0 was asked for.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`. Requests in flight are then dropped: nobody's shutdown waits for a client.
    pub async fn serve(self, state: State, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let listener = Limited { listener: self.listener, places, lifetime: self.lifetime };
        let serving = axum::serve(listener, router(state)).into_future();
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            ended = serving => tracing::error!(?ended, "admin socket is no longer served"),
        }
    }
}

fn router(state: State) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/connections", get(connections))
        .route("/seen", get(seen))
        .route("/status", get(status))
        .route("/ready", get(ready))
        .with_state(Arc::new(state))
}

type Shared = extract::State<Arc<State>>;

async fn metrics(extract::State(state): Shared) -> Result<impl IntoResponse, StatusCode> {
    let text = state.metrics.render().map_err(|_write| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(CONTENT_TYPE, OPENMETRICS)], text))
}

async fn connections(extract::State(state): Shared) -> Json<Vec<ConnectionReport>> {
    Json(state.connections.report())
}

async fn seen(extract::State(state): Shared) -> Json<SeenReport> {
    Json(blocking(move || (state.seen)()).await)
}

async fn status(extract::State(state): Shared) -> Json<StatusReport> {
    Json((state.status)())
}

async fn ready(extract::State(state): Shared) -> (StatusCode, String) {
    match state.readiness.missing().as_slice() {
        [] => (StatusCode::OK, "ready\n".to_owned()),
        missing => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", missing.join(", "))),
    }
}

/// A listener that takes a client only when there is a place for it.
struct Limited {
    listener: TcpListener,
    places: Arc<Semaphore>,
    lifetime: Duration,
}

impl Listener for Limited {
    type Io = Timed;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Timed, SocketAddr) {
        // The semaphore is never closed, so there is always a permit in the end.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (Timed { stream, deadline: Box::pin(sleep(self.lifetime)), _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A client that gets an error instead of bytes once its time is over, whatever it waits for.
struct Timed {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Timed {
    /// The stream, as long as there is time.
    fn in_time(&mut self, cx: &mut Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
        match self.deadline.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(Pin::new(&mut self.stream)),
        }
    }
}

impl AsyncRead for Timed {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().in_time(cx)?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Timed {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().in_time(cx)?.poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().in_time(cx)?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().in_time(cx)?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::observe::events::{Direction, Opening};
    use crate::observe::metrics::tests::unconnected;
    use crate::observe::report::KernelReport;

    fn state() -> State {
        let metrics = unconnected();
        State {
            connections: Connections::new(Arc::clone(&metrics)),
            metrics,
            readiness: Readiness::default(),
            seen: Box::new(|| SeenReport {
                node: "node-a".into(),
                workloads: Vec::new(),
                since: 1,
                forgotten: 2,
                departures_are_full: false,
                sightings: Vec::new(),
            }),
            status: Box::new(|| StatusReport {
                plaintext: Vec::new(),
                off: Vec::new(),
                node: "node-a".into(),
                version: "1.2.3".into(),
                kernel: KernelReport { release: "6.12".into(), kernel_tls_unable: None, missing: Vec::new() },
                workloads: Vec::new(),
                revocation_lists: None,
                configuration: None,
            }),
        }
    }

    async fn served(state: State) -> (SocketAddr, CancellationToken) {
        let bound = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = bound.address().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(bound.serve(state, stop.clone()));
        (address, stop)
    }

    async fn fetch(address: SocketAddr, path: &str) -> (String, String) {
        let mut client = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    #[tokio::test]
    async fn serves_what_it_is_given() {
        let state = state();
        let readiness = state.readiness.clone();
        let connections = state.connections.clone();
        let (address, _stop) = served(state).await;

        let pending = readiness.wait_for("listeners");
        let (head, body) = fetch(address, "/ready").await;
        assert!(head.starts_with("HTTP/1.1 503"), "{head}");
        assert_eq!(body, "waiting for listeners\n");
        drop(pending);
        assert!(fetch(address, "/ready").await.0.starts_with("HTTP/1.1 200"));

        let _entry = connections.open(Opening {
            direction: Direction::Inbound,
            workload: "web".into(),
            local: "spiffe://example.org/ns/default/sa/web".parse().unwrap(),
            source: "[fd00::1]:40000".parse().unwrap(),
            destination: "[fd00::2]:80".parse().unwrap(),
        });
        let (_, body) = fetch(address, "/connections").await;
        let open: Vec<ConnectionReport> = serde_json::from_str(&body).unwrap();
        assert_eq!((open.len(), open[0].source.to_string()), (1, "[fd00::1]:40000".to_owned()));
        assert_eq!(open[0].path, None);

        let (_, body) = fetch(address, "/status").await;
        assert_eq!(serde_json::from_str::<StatusReport>(&body).unwrap().node, "node-a");

        let (_, body) = fetch(address, "/seen").await;
        assert_eq!(serde_json::from_str::<SeenReport>(&body).unwrap().forgotten, 2);

        let (head, body) = fetch(address, "/metrics").await;
        assert!(head.contains(OPENMETRICS), "{head}");
        assert!(body.contains("enforcer_connections_open 1\n"), "{body}");
        assert!(fetch(address, "/else").await.0.starts_with("HTTP/1.1 404"));
    }

    #[tokio::test]
    async fn only_the_loopback_is_served() {
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "[::ffff:192.0.2.1]:0"] {
            let refused = bind(address.parse().unwrap()).await.unwrap_err();
            assert!(matches!(refused, Error::NotLoopback { .. }), "{refused}");
        }
        assert!(bind("[::1]:0".parse().unwrap()).await.is_ok());
    }

    #[tokio::test]
    async fn silent_clients_do_not_keep_others_out() {
        let mut bound = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        bound.lifetime = Duration::from_millis(200);
        let address = bound.address().unwrap();
        tokio::spawn(bound.serve(state(), CancellationToken::new()));
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        assert!(fetch(address, "/ready").await.0.starts_with("HTTP/1.1 200"));
        let mut rest = Vec::new();
        assert_eq!(silent[0].read_to_end(&mut rest).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn stops_although_a_client_is_connected() {
        let bound = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = bound.address().unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(bound.serve(state(), stop.clone()));
        let _client = TcpStream::connect(address).await.unwrap();
        stop.cancel();
        serving.await.unwrap();
    }
}
