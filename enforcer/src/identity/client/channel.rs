//! The way to control: HTTP/2 over mutual TLS, made again by itself when it is lost.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::identity::tls::{crypto_provider, server_name};
use crate::protocol::LONGEST_MESSAGE;
use crate::protocol::nodes_client::NodesClient;

/// For connecting and shaking hands.
const CONNECT: Duration = Duration::from_secs(5);
/// For one call.
const CALL: Duration = Duration::from_secs(20);
/// A way that carries nothing is asked for a sign of life after this, and given up after as much again.
const ALIVE: Duration = Duration::from_secs(5);

/// Calls to control.
pub(super) type Nodes = NodesClient<Channel>;

/// A way to control at `address`, which is not tried before the first call.
///
/// # Errors
///
/// rustls's, when TLS cannot be set up.
pub(super) fn open(
    address: &str,
    verifier: Arc<dyn ServerCertVerifier>,
    key: Option<Arc<CertifiedKey>>,
) -> Result<Nodes, rustls::Error> {
    let config = Arc::new(config(verifier, key)?);
    let target = address.to_owned();
    let connector = service_fn(move |_: Uri| {
        let (target, config) = (target.clone(), Arc::clone(&config));
        async move {
            let connecting = timeout(CONNECT, connect(&target, config));
            let stream = connecting.await.map_err(|late| io::Error::new(io::ErrorKind::TimedOut, late))??;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    // The name is for HTTP's sake; who is there is settled by the certificate.
    let endpoint = Endpoint::from_static("http://control")
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(ALIVE)
        .keep_alive_timeout(ALIVE)
        .keep_alive_while_idle(true);
    let channel = endpoint.connect_with_connector_lazy(connector);
    Ok(NodesClient::new(channel).max_decoding_message_size(LONGEST_MESSAGE))
}

/// A request with a deadline.
pub(super) fn within<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(CALL);
    request
}

async fn connect(address: &str, config: Arc<ClientConfig>) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(config).connect(server_name(), stream).await
}

fn config(
    verifier: Arc<dyn ServerCertVerifier>,
    key: Option<Arc<CertifiedKey>>,
) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match key {
        Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// Certificates as messages have them.
pub(super) fn certificates(octets: Vec<Vec<u8>>) -> Vec<CertificateDer<'static>> {
    octets.into_iter().map(CertificateDer::from).collect()
}
