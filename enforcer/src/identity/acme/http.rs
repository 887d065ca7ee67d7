//! How an authority is spoken to: HTTP/1.1 over TLS, one connection for each request, bounded in size and time.
//!
//! Its certificate is verified against the roots that the configuration names. No proxy is used, and no redirection is
//! followed: ACME has none (RFC 8555 6.1).
//!
//! What `instant-acme` would stumble over is kept from it: it takes the URLs of a directory for valid, whatever the status,
//! and adds what `Retry-After` says to the time of day.

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::Bytes;
use hyper::header::{HOST, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::chain::{LONGEST, provider};
use super::pace::LONGEST_REQUEST;

/// From looking up the host's name to the last octet of the answer.
const DEADLINE: Duration = Duration::from_secs(20);
/// Octets of an answer's header.
const LONGEST_HEADER: usize = 64 * 1024;

/// The authority could not be asked, or does not answer in HTTP.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// A URL is not one that may be used.
    #[error("`{0}` is no https URL")]
    Url(String),
    /// The host cannot be reached.
    #[error("connect to {host}")]
    Connect {
        /// Host and port.
        host: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The host does not prove who it is.
    #[error("shake hands with {host}")]
    Handshake {
        /// Host and port.
        host: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// No HTTP.
    #[error("exchange HTTP messages")]
    Exchange(#[source] hyper::Error),
    /// The answer is too long, or was cut off.
    #[error("read answer of at most {LONGEST} octets")]
    Body(#[source] Box<dyn StdError + Send + Sync>),
    /// The directory cannot be used.
    #[error("the directory has no https URL for `{0}`")]
    Directory(&'static str),
    /// Nothing in time.
    #[error("no answer within {DEADLINE:?}")]
    TimedOut,
}

impl Error {
    /// True when something has come back.
    pub(super) fn is_answer(&self) -> bool {
        matches!(self, Self::Url(_) | Self::Directory(_))
    }
}

/// How long an authority wants to be left alone, as it has said in its last answer.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<Option<Duration>>);

impl Told {
    /// What it has said last; at most a day.
    pub(super) fn last(&self) -> Option<Duration> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, wait: Option<Duration>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = wait;
    }
}

/// A client of one authority.
pub(super) struct Https {
    tls: TlsConnector,
    told: Arc<Told>,
}

impl Https {
    /// Trusts these roots.
    pub(super) fn new(roots: RootCertStore, told: Arc<Told>) -> Result<Self, rustls::Error> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), told })
    }
}

impl HttpClient for Https {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let (tls, told) = (self.tls.clone(), Arc::clone(&self.told));
        Box::pin(async move {
            let exchanged = timeout(DEADLINE, exchange(request, tls)).await.unwrap_or(Err(Error::TimedOut));
            Ok(received(exchanged.map_err(other)?, &told))
        })
    }
}

/// An answer as `instant-acme` may see it.
pub(super) fn received(answer: Response<Bytes>, told: &Told) -> BytesResponse {
    let (mut parts, body) = answer.into_parts();
    told.note(retry_after(&parts.headers, OffsetDateTime::now_utc()));
    parts.headers.remove(RETRY_AFTER);
    BytesResponse { parts, body: Box::new(body) }
}

pub(super) fn other(error: Error) -> instant_acme::Error {
    instant_acme::Error::Other(Box::new(error))
}

async fn exchange(mut request: Request<BodyWrapper<Bytes>>, tls: TlsConnector) -> Result<Response<Bytes>, Error> {
    let (host, port) = address(&mut request)?;
    // The host of a URL has brackets around an IPv6 address; a server's name has not.
    let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let host = format!("{host}:{port}");
    let connected = TcpStream::connect((name.as_str(), port)).await;
    let stream = connected.map_err(|cause| Error::Connect { host: host.clone(), cause })?;
    let name = ServerName::try_from(name).map_err(|_no_name| Error::Url(host.clone()))?;
    let stream = tls.connect(name, stream).await.map_err(|cause| Error::Handshake { host, cause })?;
    converse(request, stream).await
}

/// Writes into a request whom it goes to; that one's host and port.
pub(super) fn address(request: &mut Request<BodyWrapper<Bytes>>) -> Result<(String, u16), Error> {
    let (host, port) = target(request.uri())?;
    let header = request.uri().authority().map_or_else(|| format!("{host}:{port}"), ToString::to_string);
    let header = HeaderValue::from_str(&header).map_err(|_no_text| Error::Url(header))?;
    request.headers_mut().insert(HOST, header);
    *request.uri_mut() = request.uri().path_and_query().cloned().map_or_else(Uri::default, Uri::from);
    Ok((host, port))
}

/// One request, and its answer.
pub(super) async fn converse<S>(request: Request<BodyWrapper<Bytes>>, stream: S) -> Result<Response<Bytes>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let is_directory = request.method() == Method::GET;
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_buf_size(LONGEST_HEADER);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(Error::Exchange)?;
    let answering = async {
        let response = sender.send_request(request).await.map_err(Error::Exchange)?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, LONGEST).collect().await.map_err(Error::Body)?.to_bytes();
        Ok(Response::from_parts(parts, body))
    };
    tokio::pin!(answering, connection);
    // The connection is driven as long as there is an answer to come, and is dropped then.
    let response = tokio::select! {
        response = &mut answering => response,
        ended = &mut connection => {
            ended.map_err(Error::Exchange)?;
            answering.await
        }
    }?;
    if !is_directory {
        return Ok(response);
    }
    if !response.status().is_success() {
        // An error is no directory, whatever it looks like; nobody but us looks at the status.
        return Ok(response.map(|_body| Bytes::new()));
    }
    check_directory(response.body())?;
    Ok(response)
}

/// Host and port of an `https` URL.
fn target(url: &Uri) -> Result<(String, u16), Error> {
    match (url.scheme_str(), url.host()) {
        (Some("https"), Some(host)) if !host.is_empty() => Ok((host.to_owned(), url.port_u16().unwrap_or(443))),
        _ => Err(Error::Url(url.to_string())),
    }
}

/// The resources without which nothing can be asked for (RFC 8555 7.1.1).
pub(super) fn check_directory(body: &[u8]) -> Result<(), Error> {
    // What is no JSON at all is refused by whoever reads it.
    let Ok(directory) = serde_json::from_slice::<serde_json::Value>(body) else { return Ok(()) };
    for resource in ["newNonce", "newAccount", "newOrder"] {
        let url = directory.get(resource).and_then(serde_json::Value::as_str).and_then(|url| url.parse().ok());
        if url.is_none_or(|url| target(&url).is_err()) {
            return Err(Error::Directory(resource));
        }
    }
    Ok(())
}

/// What `Retry-After` says (RFC 9110 10.2.3): seconds or a date, and a day at most.
pub(super) fn retry_after(headers: &HeaderMap, now: OffsetDateTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a number can have are more than a day.
        text.parse().map_or(LONGEST_REQUEST, Duration::from_secs)
    } else {
        let then = OffsetDateTime::parse(text, &Rfc2822).ok()?;
        Duration::try_from(then - now).unwrap_or_default()
    };
    Some(wait.min(LONGEST_REQUEST))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[test]
    fn an_authority_may_say_when_to_come_again() {
        let now = datetime!(2026-01-01 00:00 UTC);
        let told = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(text).unwrap())]);
            retry_after(&headers, now).map(|wait| wait.as_secs())
        };
        for (text, expected) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("99999999999", Some(86_400)),
            ("18446744073709551615", Some(86_400)),
            ("999999999999999999999999999", Some(86_400)),
            ("Thu, 01 Jan 2026 00:01:00 GMT", Some(60)),
            ("Wed, 31 Dec 1999 23:59:59 GMT", Some(0)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(86_400)),
            ("-1", None),
            ("", None),
            ("soon", None),
        ] {
            assert_eq!(told(text), expected, "{text:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn a_directory_with_anything_but_https_is_refused() {
        let directory = |nonce: &str| {
            format!(r#"{{"newNonce":"{nonce}","newAccount":"https://a/b","newOrder":"https://a.example:1/c"}}"#)
        };
        assert!(check_directory(directory("https://a/n").as_bytes()).is_ok());
        for nonce in ["", "http://a/n", "https://", "https:///n", "https://a b/n", "file:///etc/passwd", "/n"] {
            let refused = check_directory(directory(nonce).as_bytes());
            assert!(matches!(refused, Err(Error::Directory("newNonce"))), "{nonce:?}");
        }
        assert!(check_directory(b"[]").is_err() && check_directory(b"no JSON").is_ok());
    }

    #[tokio::test]
    async fn an_error_is_no_directory_whatever_it_looks_like() {
        let (near, mut far) = duplex(4096);
        let body = r#"{"newNonce":"https:/ /n","newAccount":"https://a/a","newOrder":"https://a/o"}"#;
        let answer = format!("HTTP/1.1 503 Busy\r\nRetry-After: 5\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let answering = async {
            far.read_u8().await.unwrap();
            far.write_all(answer.as_bytes()).await.unwrap();
        };
        let request = Request::builder().uri("/directory").body(BodyWrapper::default()).unwrap();
        let (answered, ()) = tokio::join!(converse(request, near), answering);
        let answered = answered.unwrap();
        assert_eq!((answered.status().as_u16(), answered.body().len()), (503, 0));
        assert!(retry_after(answered.headers(), OffsetDateTime::UNIX_EPOCH).is_some());
    }
}
