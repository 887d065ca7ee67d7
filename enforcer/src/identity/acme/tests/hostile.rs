//! An authority that sends whatever it likes: nothing panics, hangs or grows.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::super::chain::{provider, server};
use super::super::error::{Again, Error};
use super::super::http::Told;
use super::super::shelf::Shelf;
use super::super::{account, pace};
use super::{authority, leaf};
use crate::control::snapshot::Acme;
use rcgen::KeyPair;
use rustls::pki_types::PrivatePkcs8KeyDer;

/// Answers each request, whatever it is, with these octets and as many others as are wanted. What came of an attempt to
/// open an account there, and how long it wants to be left alone.
async fn answered(answer: String, more: usize) -> (Error, Option<u64>) {
    let (issuer, root) = authority();
    let key = KeyPair::generate().unwrap();
    let certificate = leaf("127.0.0.1", |_| {}).signed_by(&key, &issuer).unwrap();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let key = CertifiedKey::from_der(vec![certificate.der().clone()], key.into(), &provider()).unwrap();
    let config: Arc<ServerConfig> = Arc::new(server(key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let directory = format!("https://{}/dir", listener.local_addr().unwrap());
    let answer = answer.replace("HERE", &directory);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = TlsAcceptor::from(Arc::clone(&config)).accept(stream).await else { continue };
            let _asked = stream.read(&mut [0; 4096]).await;
            let _answered = stream.write_all(answer.as_bytes()).await;
            for _ in 0..more / 1024 {
                if stream.write_all(&[b'x'; 1024]).await.is_err() {
                    break;
                }
            }
            let _ended = stream.shutdown().await;
        }
    });
    let state = tempfile::tempdir().unwrap();
    let roots = state.path().join("roots.pem");
    std::fs::write(&roots, root).unwrap();
    let acme = Acme { directory, contact: Vec::new(), roots };
    let told = Arc::new(Told::default());
    let shelf = Shelf::open(state.path(), &acme.directory).unwrap();
    let error = account::open(&acme, &shelf, &told).await.map(drop).unwrap_err();
    (error, told.last().map(|wait| wait.as_secs()))
}

fn http(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_refused() {
    for body in ["", "x", "[]", "{}", "null", r#"{"newNonce":"no URL at all","newAccount":"HERE","newOrder":"HERE"}"#] {
        let (error, _) = answered(http("200 OK", "", body), 0).await;
        assert!(matches!(error, Error::Unexpected(_)), "{body}: {error}");
        assert_eq!(error.again(), Again::Later);
    }
    let deep = "[".repeat(60_000);
    assert!(matches!(answered(http("200 OK", "", &deep), 0).await.0, Error::Unexpected(_)));
}

#[tokio::test]
async fn an_answer_has_an_end() {
    let endless = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_owned();
    let (error, _) = answered(endless, 1 << 20).await;
    assert!(error.to_string().contains("at most 65536 octets"), "{error}");
    let (error, _) = answered("HTTP/1.1 200 OK\r\nX: ".to_owned(), 1 << 20).await;
    assert!(matches!(error, Error::Unreachable(_)), "{error}");
    let (error, _) = answered("SSH-2.0-no-HTTP\r\n".to_owned(), 0).await;
    assert!(matches!(error, Error::Unreachable(_)), "{error}");
    let (error, _) = answered(String::new(), 0).await;
    assert!(matches!(error, Error::Unreachable(_)), "{error}");
}

#[tokio::test]
async fn a_refusal_is_told_and_its_wish_is_kept_within_bounds() {
    let body = r#"{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many\nof you","newNonce":"HERE",
                   "newAccount":"HERE","newOrder":"HERE"}"#;
    // The directory can be read, and everything else refuses.
    let headers = "Replay-Nonce: \"x\r\nRetry-After: 18446744073709551615\r\n";
    let (error, wait) = answered(http("200 OK", headers, body), 0).await;
    assert!(matches!(error, Error::Unexpected(_)), "no account's URL: {error}");
    assert_eq!(wait, Some(pace::LONGEST_REQUEST.as_secs()));
    let (error, wait) = answered(http("429 Too Many Requests", "Retry-After: 77\r\n", body), 0).await;
    assert_eq!(wait, Some(77));
    assert_eq!(error.again(), Again::Later, "{error}");
}
