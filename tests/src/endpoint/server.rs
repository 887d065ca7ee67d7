//! The accepting end.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};
use socket2::SockRef;

use super::ktls::{self, End};
use super::{Serve, ServerBehaviour, bulk, ends, measured, outcome, print, unsupported};

/// Listens, and returns when connections may be accepted.
pub(super) fn listen(serve: &Serve) -> Result<TcpListener> {
    let listener = TcpListener::bind(serve.listen).with_context(|| format!("listen on {}", serve.listen))?;
    // The listener of the standard library queues 128 connections; a parallel client opens more at once.
    SockRef::from(&listener).listen(4096).context("lengthen the queue")?;
    if serve.late {
        io::stdin().read_to_end(&mut Vec::new()).context("wait for the end of standard input")?;
    }
    Ok(listener)
}

/// Accepts the connections, each served on a thread unless the behaviour is about all of them, and prints a list of
/// outcomes in the order of acceptance.
pub(super) fn run(serve: Serve) -> Result<()> {
    match serve.behaviour {
        ServerBehaviour::Turns => measured::take_turns(&serve),
        ServerBehaviour::Keep => measured::keep(&serve),
        _ => on_threads(serve),
    }
}

fn on_threads(serve: Serve) -> Result<()> {
    let listener = listen(&serve)?;
    let serve = Arc::new(serve);
    let mut serving = Vec::new();
    for _ in 0..serve.connections {
        let (stream, peer) = listener.accept().context("accept")?;
        let serve = Arc::clone(&serve);
        serving.push(thread::spawn(move || {
            let [local, _] = ends(&stream);
            outcome(&[local, json!(peer.to_string())], converse(stream, &serve))
        }));
    }
    let outcomes =
        serving.into_iter().map(|served| served.join().map_err(|_panic| anyhow!("a server thread panicked")));
    print(&Value::Array(outcomes.collect::<Result<_>>()?));
    Ok(())
}

fn converse(mut stream: TcpStream, serve: &Serve) -> io::Result<Value> {
    stream.set_nodelay(true)?;
    if serve.ktls {
        ktls::install(&stream, End::Server)?;
    }
    let text = serve.content.text.as_bytes();
    match serve.behaviour {
        ServerBehaviour::Echo => echo(stream),
        ServerBehaviour::Banner => {
            stream.write_all(text)?;
            read_to_end(stream)
        }
        ServerBehaviour::Bulk => bulk::exchange(&stream, serve.content.bytes),
        ServerBehaviour::AnswerAtEnd => {
            let received = read_to_end(&stream)?;
            stream.write_all(text)?;
            Ok(received)
        }
        ServerBehaviour::EndFirst => {
            stream.write_all(text)?;
            stream.shutdown(Shutdown::Write)?;
            read_to_end(stream)
        }
        ServerBehaviour::Reset => {
            let received = stream.read(&mut [0; 1024])?;
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            Ok(json!({ "received": received }))
        }
        ServerBehaviour::Stall => {
            io::stdin().read_to_end(&mut Vec::new())?;
            bulk::collect(stream)
        }
        ServerBehaviour::Hear => read_to_end(stream),
        ServerBehaviour::Farewell => {
            stream.write_all(text)?;
            Ok(json!({ "sent": bulk::send(&stream, serve.content.bytes)? }))
        }
        ServerBehaviour::Drain => Ok(json!({ "received": measured::drain(&stream)? })),
        ServerBehaviour::Trade => measured::trade(&stream, serve.content.bytes),
        ServerBehaviour::Turns | ServerBehaviour::Keep => Err(unsupported()),
    }
}

fn echo(mut stream: TcpStream) -> io::Result<Value> {
    let mut buffer = [0; 16 * 1024];
    let mut received = 0;
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(json!({ "received": received }));
        }
        stream.write_all(&buffer[..length])?;
        received += length;
    }
}

/// What came until the other end ended its direction.
fn read_to_end(mut stream: impl Read) -> io::Result<Value> {
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    Ok(json!({ "received": text.len(), "text": String::from_utf8_lossy(&text) }))
}
