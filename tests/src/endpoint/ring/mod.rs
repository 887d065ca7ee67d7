//! Both ends once more, by io_uring: no call of this program ever waits on a socket, the kernel carries requests out.
//!
//! A receive is always under way before anything can have come, as in every server of this kind; sending and
//! receiving overlap. Connections are served one after the other.

mod queue;

use std::io::{self, ErrorKind};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use self::queue::{Done, Queue, Socket};
use super::bulk::{BLOCK, Checksum, Pattern};
use super::client::PING;
use super::{By, ClientBehaviour, Connect, Serve, ServerBehaviour, outcome, print, server, unsupported};

/// As `server::run`; the outcomes know no addresses, because a slot of a ring has none to ask for.
pub(super) fn serve(serve: &Serve) -> Result<()> {
    let listener = server::listen(serve)?;
    let mut outcomes = Vec::new();
    for _ in 0..serve.connections {
        let mut queue = Queue::new(matches!(serve.by, By::RingDirect)).context("make a ring")?;
        let socket = queue.accept(&listener).context("accept")?;
        outcomes.push(outcome(&NO_ENDS, answer(queue, &socket, serve)));
    }
    print(&Value::Array(outcomes));
    Ok(())
}

/// As `client::run`.
pub(super) fn connect(connect: &Connect) -> Result<()> {
    let mut queue = Queue::new(matches!(connect.by, By::RingDirect)).context("make a ring")?;
    print(&match queue.connect(connect.to) {
        Ok(socket) => outcome(&NO_ENDS, talk(queue, &socket, connect)),
        Err(error) => json!({ "error": format!("{:?}", error.kind()), "connected": false }),
    });
    Ok(())
}

const NO_ENDS: [Value; 2] = [Value::Null, Value::Null];

fn answer(queue: Queue, socket: &Socket, serve: &Serve) -> io::Result<Value> {
    match serve.behaviour {
        ServerBehaviour::Echo => echo(queue, socket),
        ServerBehaviour::Bulk => exchange(queue, socket, serve.content.bytes),
        _ => Err(unsupported()),
    }
}

fn talk(mut queue: Queue, socket: &Socket, connect: &Connect) -> io::Result<Value> {
    match connect.behaviour {
        ClientBehaviour::PingPong => {
            for _ in 0..connect.rounds {
                send_all(&mut queue, socket, vec![b'p'; PING])?;
                let mut missing = PING;
                while missing > 0 {
                    let pong = receive(&mut queue, socket, missing)?;
                    if pong.is_empty() || pong.iter().any(|byte| *byte != b'p') {
                        return Err(ErrorKind::InvalidData.into());
                    }
                    missing -= pong.len();
                }
            }
            Ok(json!({ "rounds": connect.rounds }))
        }
        ClientBehaviour::Bulk => exchange(queue, socket, connect.content.bytes),
        _ => Err(unsupported()),
    }
}

fn echo(mut queue: Queue, socket: &Socket) -> io::Result<Value> {
    let mut received = 0;
    loop {
        let bytes = receive(&mut queue, socket, BLOCK)?;
        if bytes.is_empty() {
            return Ok(json!({ "received": received }));
        }
        received += bytes.len();
        send_all(&mut queue, socket, bytes)?;
    }
}

/// Sends `bytes` bytes and receives as many; one request of each kind is under way until its part is done.
fn exchange(mut queue: Queue, socket: &Socket, bytes: usize) -> io::Result<Value> {
    let (mut pattern, mut sent, mut checksum_sent) = (Pattern(0), 0, Checksum::default());
    let (mut received, mut checksum_received) = (0, Checksum::default());
    queue.receive(socket, bytes.min(BLOCK))?;
    queue.send(socket, pattern.next_block(bytes.min(BLOCK)))?;
    while sent < bytes || received < bytes {
        match queue.wait()? {
            Done::Received(block) if block.is_empty() => return Err(ErrorKind::UnexpectedEof.into()),
            Done::Received(block) => {
                checksum_received.add(&block);
                received += block.len();
                if received < bytes {
                    queue.receive(socket, (bytes - received).min(BLOCK))?;
                }
            }
            Done::Sent(0, _) => return Err(ErrorKind::WriteZero.into()),
            Done::Sent(length, mut block) => {
                checksum_sent.add(&block[..length]);
                sent += length;
                block.drain(..length);
                if block.is_empty() {
                    block = pattern.next_block((bytes - sent).min(BLOCK));
                }
                if !block.is_empty() {
                    queue.send(socket, block)?;
                }
            }
            Done::Opened(_) => return Err(ErrorKind::Other.into()),
        }
    }
    Ok(json!({ "sent": checksum_sent.text(), "received": received, "checksum": checksum_received.text() }))
}

fn send_all(queue: &mut Queue, socket: &Socket, mut bytes: Vec<u8>) -> io::Result<()> {
    while !bytes.is_empty() {
        queue.send(socket, bytes)?;
        match queue.wait()? {
            Done::Sent(0, _) => return Err(ErrorKind::WriteZero.into()),
            Done::Sent(length, rest) => bytes = rest[length..].to_vec(),
            Done::Received(_) | Done::Opened(_) => return Err(ErrorKind::Other.into()),
        }
    }
    Ok(())
}

fn receive(queue: &mut Queue, socket: &Socket, at_most: usize) -> io::Result<Vec<u8>> {
    queue.receive(socket, at_most)?;
    match queue.wait()? {
        Done::Received(bytes) => Ok(bytes),
        Done::Sent(..) | Done::Opened(_) => Err(ErrorKind::Other.into()),
    }
}
