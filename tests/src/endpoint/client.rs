//! The connecting end.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use socket2::{Domain, SockRef, Socket, Type};

use super::bulk::{self, Checksum, Pattern};
use super::ktls::{self, End};
use super::stopwatch::Stopwatch;
use super::{ClientBehaviour, Connect, ends, load, measured, outcome, print, unsupported};

/// What nobody answers within this time is taken for a hang.
const HANG: Duration = Duration::from_secs(60);

/// After this long without a byte accepted, a flood counts as stalled.
const STALLED: Duration = Duration::from_secs(1);

/// What `ping-pong` sends, unless it is told otherwise.
pub(super) const PING: usize = 64;

/// Of Linux's `send`: more is to come. Nobody's crate here has a name for it.
const MSG_MORE: i32 = 0x8000;

/// Does as told, once or several times, and prints what came of it.
pub(super) fn run(connect: &Connect) -> Result<()> {
    if connect.times == 1 {
        print(&once(connect)?);
        return Ok(());
    }
    let outcomes = (0..connect.times).map(|_| {
        pause(Duration::from_millis(connect.every));
        once(connect)
    });
    let outcomes = outcomes.collect::<Result<_>>()?;
    print(&Value::Array(outcomes));
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "it is told to come at this pace")]
fn pause(pause: Duration) {
    std::thread::sleep(pause);
}

/// Connects, does as told, and gives the outcome with the milliseconds it took.
fn once(connect: &Connect) -> Result<Value> {
    let start = Instant::now();
    let mut outcome = match connect.behaviour {
        ClientBehaviour::Parallel => json!({ "details": parallel(connect)? }),
        ClientBehaviour::Visit => json!({ "details": measured::visit(connect)? }),
        ClientBehaviour::Volley => json!({ "details": load::volley(connect)? }),
        ClientBehaviour::Get => json!({ "details": load::get(connect)? }),
        ClientBehaviour::RedisGet => json!({ "details": load::redis_get(connect)? }),
        ClientBehaviour::Hold => json!({ "details": measured::hold(connect)? }),
        _ => match open(connect) {
            Ok(stream) => outcome(&ends(&stream), converse(&stream, connect)),
            Err(error) => json!({ "error": format!("{:?}", error.kind()), "connected": false }),
        },
    };
    outcome["milliseconds"] = json!(start.elapsed().as_secs_f64() * 1e3);
    Ok(outcome)
}

pub(super) fn open(connect: &Connect) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(connect.to), Type::STREAM, None)?;
    if let Some(from) = connect.from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    socket.connect_timeout(&connect.to.into(), HANG)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(HANG))?;
    if connect.ktls {
        ktls::install(&stream, End::Client)?;
    }
    Ok(stream)
}

fn converse(mut stream: &TcpStream, connect: &Connect) -> io::Result<Value> {
    let text = connect.content.text.as_bytes();
    match connect.behaviour {
        ClientBehaviour::PingPong => ping_pong(stream, connect),
        ClientBehaviour::Read => {
            stream.write_all(text)?;
            read_to_end(stream)
        }
        ClientBehaviour::Bulk => bulk::exchange(stream, connect.content.bytes),
        ClientBehaviour::EndFirst => {
            stream.write_all(text)?;
            stream.shutdown(Shutdown::Write)?;
            read_to_end(stream)
        }
        ClientBehaviour::AnswerAtEnd => {
            let received = read_to_end(stream)?;
            stream.write_all(text)?;
            Ok(received)
        }
        ClientBehaviour::Reset => {
            stream.write_all(text)?;
            stream.read_exact(&mut vec![0; text.len()])?;
            SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
            Ok(Value::Null)
        }
        ClientBehaviour::Garbage => {
            stream.write_all(&Pattern(connect.content.bytes as u64).next_block(4096))?;
            read_to_end(stream)
        }
        ClientBehaviour::Flood => flood(stream, connect.content.bytes),
        ClientBehaviour::Leave => Ok(Value::Null),
        ClientBehaviour::Tell => {
            stream.write_all(text)?;
            Ok(json!({ "sent": bulk::send(stream, connect.content.bytes)? }))
        }
        ClientBehaviour::TellMore => {
            stream.read_exact(&mut vec![0; text.len()])?;
            tell_more(stream, text)
        }
        ClientBehaviour::Collect => bulk::collect(stream),
        ClientBehaviour::Pour => measured::pour(stream, connect.content.bytes),
        ClientBehaviour::Trade => measured::trade(stream, connect.content.bytes),
        ClientBehaviour::Parallel
        | ClientBehaviour::Visit
        | ClientBehaviour::Volley
        | ClientBehaviour::Get
        | ClientBehaviour::RedisGet
        | ClientBehaviour::Hold => Err(unsupported()),
    }
}

fn ping_pong(mut stream: &TcpStream, connect: &Connect) -> io::Result<Value> {
    let (ping, mut pong) = (vec![b'p'; connect.size], vec![0; connect.size]);
    let stopwatch = Stopwatch::start();
    for _ in 0..connect.rounds {
        stream.write_all(&ping)?;
        stream.read_exact(&mut pong)?;
    }
    let mut details = stopwatch.read();
    details["rounds"] = json!(connect.rounds);
    Ok(details)
}

/// The kernel may keep everything back until the close.
fn tell_more(stream: &TcpStream, text: &[u8]) -> io::Result<Value> {
    for character in text.chunks(1) {
        let sent = SockRef::from(stream).send_with_flags(character, MSG_MORE)?;
        if sent != character.len() {
            return Err(ErrorKind::WriteZero.into());
        }
    }
    Ok(json!({ "sent": text.len() }))
}

/// Sends until the other end takes no more, prints how far it went, then goes on to the end.
fn flood(mut stream: &TcpStream, bytes: usize) -> io::Result<Value> {
    stream.set_write_timeout(Some(STALLED))?;
    let (mut pattern, mut checksum) = (Pattern(0), Checksum::default());
    let (mut sent, mut stalled) = (0, false);
    while sent < bytes {
        let block = pattern.next_block((bytes - sent).min(64 * 1024));
        let mut rest = block.as_slice();
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(length) => rest = &rest[length..],
                Err(error) if error.kind() == ErrorKind::WouldBlock && !stalled => {
                    print(&json!({ "stalled_after": sent + block.len() - rest.len() }));
                    stalled = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        checksum.add(&block);
        sent += block.len();
    }
    Ok(json!({ "sent": sent, "checksum": checksum.text() }))
}

/// Opens all connections of a wave before it uses the first, and closes none before it has used the last of all.
fn parallel(connect: &Connect) -> Result<Value> {
    let mut streams = Vec::new();
    while streams.len() < connect.connections {
        let wave = connect.wave.min(connect.connections - streams.len());
        streams.extend(use_wave(connect, streams.len()..streams.len() + wave)?);
    }
    Ok(json!({ "connections": streams.len() }))
}

fn use_wave(connect: &Connect, numbers: Range<usize>) -> Result<Vec<TcpStream>> {
    let open = |number| open(connect).with_context(|| format!("open connection {number}"));
    let streams = numbers.clone().map(open).collect::<Result<Vec<_>>>()?;
    for (number, mut stream) in numbers.clone().zip(&streams) {
        stream.write_all(greeting(number).as_bytes()).with_context(|| format!("write to connection {number}"))?;
    }
    // The test may wait for this before it lets the server go on.
    print(&json!({ "written": streams.len() }));
    for (number, mut stream) in numbers.zip(&streams) {
        let mut answer = vec![0; greeting(number).len()];
        stream.read_exact(&mut answer).with_context(|| format!("read from connection {number}"))?;
        ensure!(answer == greeting(number).as_bytes(), "connection {number} got the bytes of another");
    }
    Ok(streams)
}

fn greeting(number: usize) -> String {
    format!("this is connection {number:06}")
}

fn read_to_end(mut stream: &TcpStream) -> io::Result<Value> {
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    Ok(json!({ "received": text.len(), "text": String::from_utf8_lossy(&text) }))
}
