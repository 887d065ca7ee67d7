//! An authority that answers whatever it likes, octet by octet.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use rustls::pki_types::PrivatePkcs8KeyDer;
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::chain::Held;
use super::error::Error;
use super::http::{self, Told, address, check_directory, converse, other, received, retry_after};
use super::{account, order, pace, shelf};
use crate::control::snapshot::Acme;
use crate::fuzzing::{Input, key, run, signed};
use crate::identity::acme::Names;

const NAME: &str = "www.example.org";
/// As for all of an order.
const DEADLINE: Duration = Duration::from_secs(180);

/// All that is said until there is a certificate: one part for each answer.
pub(crate) fn conversation(data: &[u8]) {
    let answers = Input(data).parts().into_iter().map(<[u8]>::to_vec).collect();
    let told = Arc::new(Told::default());
    let client = Box::new(Answers { answers: Mutex::new(answers), told: Arc::clone(&told) });
    let (writer, _names) = Names::new();
    let acme = Acme {
        directory: "https://acme.example/dir".to_owned(),
        contact: vec!["mailto:a@example.org".to_owned()],
        roots: "t".into(),
    };
    let obtained = run(async {
        let ordering = async {
            let account = account::introduce(&acme, account_key(), client).await?;
            order::obtain(&account, NAME, (&writer, &told)).await
        };
        timeout(DEADLINE, ordering).await
    });
    match obtained {
        Ok(Ok(_obtained)) => {}
        Ok(Err(error)) => check(&error),
        Err(_late) => {}
    }
    assert!(told.last().is_none_or(|wait| wait <= pace::LONGEST_REQUEST));
}

/// A chain of certificates with good signatures.
pub(crate) fn chain(data: &[u8]) {
    let mut input = Input(data);
    let is_signed = input.octet().unwrap_or_default() & 1 != 0;
    let pem: String = if is_signed {
        let certificate = |content| pem::encode(&pem::Pem::new("CERTIFICATE", signed(content)));
        input.parts().into_iter().map(certificate).collect()
    } else {
        String::from_utf8_lossy(input.0).into_owned()
    };
    match Held::read(NAME, &pem, &key()) {
        Ok(held) => {
            assert!(is_plain(&held.signed_by));
            drop(held.check_validity(OffsetDateTime::now_utc()));
        }
        Err(unusable) => check(&unusable.into()),
    }
}

/// Parts of answers: what is refused, where things are, and when to come again.
pub(crate) fn document(data: &[u8]) {
    if let Ok(problem) = serde_json::from_slice(data) {
        check(&Error::of_problem(&problem));
    }
    if let Err(error) = check_directory(data) {
        check(&error.into());
    }
    if let Ok(value) = HeaderValue::from_bytes(data) {
        let wait = retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value)]), OffsetDateTime::UNIX_EPOCH);
        assert!(wait.is_none_or(|wait| wait <= pace::LONGEST_REQUEST));
    }
}

/// A file with a key and a chain.
pub(crate) fn shelf(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data) {
        drop(shelf::held(NAME, text));
    }
}

/// What is shown of somebody else's words can neither forge a line nor flood.
fn check(error: &Error) {
    let text = error.to_string();
    assert!(is_plain(&text) && text.len() < 4096, "{text:?}");
}

fn is_plain(text: &str) -> bool {
    text.chars().all(|character| character.is_ascii_graphic() || character == ' ')
}

/// ECDSA, as `instant-acme` wants it; the same for all.
fn account_key() -> PrivatePkcs8KeyDer<'static> {
    static KEY: std::sync::LazyLock<Vec<u8>> =
        std::sync::LazyLock::new(|| rcgen::KeyPair::generate().expect("a key is made").serialize_der());
    KEY.clone().into()
}

/// Answers one request after the other.
struct Answers {
    answers: Mutex<VecDeque<Vec<u8>>>,
    told: Arc<Told>,
}

impl HttpClient for Answers {
    fn request(
        &self,
        mut request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let answer = self.answers.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let told = Arc::clone(&self.told);
        Box::pin(async move {
            address(&mut request).map_err(other)?;
            let answer = answer.ok_or(http::Error::TimedOut).map_err(other)?;
            let answered = converse(request, Canned { answer, read: 0, is_asked: false, reader: None }).await;
            Ok(received(answered.map_err(other)?, &told))
        })
    }
}

/// The other end of a connection, which has its answer ready as soon as it is asked anything.
struct Canned {
    answer: Vec<u8>,
    read: usize,
    is_asked: bool,
    reader: Option<Waker>,
}

impl AsyncRead for Canned {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.is_asked {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let left = &self.answer[self.read..];
        let count = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..count]);
        self.read += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Canned {
    fn poll_write(mut self: Pin<&mut Self>, _cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        self.is_asked = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(octets.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
