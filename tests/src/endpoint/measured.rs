//! What the bench asks of both ends: as little work of their own as can be, and a stopwatch beside it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::bulk::BLOCK;
use super::client::{self, PING};
use super::ktls::{self, End};
use super::stopwatch::Stopwatch;
use super::{Connect, Serve, print, server};

/// Of a thread that does nothing.
const STACK: usize = 64 * 1024;

/// Connects, sends 64 bytes, waits for them to come back and closes; again and again.
pub(super) fn visit(connect: &Connect) -> Result<Value> {
    for number in 0..connect.idle_threads {
        let idle = thread::Builder::new().stack_size(STACK);
        idle.spawn(|| {
            loop {
                thread::park()
            }
        })
        .with_context(|| format!("start idle thread {number}"))?;
    }
    let stopwatch = Stopwatch::start();
    for number in 0..connect.rounds {
        visit_once(connect).with_context(|| format!("visit {number}"))?;
    }
    Ok(stopwatch.read())
}

fn visit_once(connect: &Connect) -> io::Result<()> {
    let mut stream = TcpStream::connect(connect.to)?;
    stream.set_nodelay(true)?;
    if connect.ktls {
        ktls::install(&stream, End::Client)?;
    }
    stream.write_all(&[b'p'; PING])?;
    stream.read_exact(&mut [0; PING])
}

/// Serves visitors one after the other.
pub(super) fn take_turns(serve: &Serve) -> Result<()> {
    let listener = server::listen(serve)?;
    for number in 0..serve.connections {
        host(&listener, serve).with_context(|| format!("visitor {number}"))?;
    }
    print(&json!({ "served": serve.connections }));
    Ok(())
}

fn host(listener: &TcpListener, serve: &Serve) -> io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    if serve.ktls {
        ktls::install(&stream, End::Server)?;
    }
    let mut buffer = [0; PING];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

/// Sends so many bytes, and stops the watch when the other end has taken the last one.
pub(super) fn pour(stream: &TcpStream, bytes: usize) -> io::Result<Value> {
    let stopwatch = Stopwatch::start();
    send(stream, bytes)?;
    stream.shutdown(Shutdown::Write)?;
    drain(stream)?;
    Ok(stopwatch.read())
}

/// Sends so many bytes and receives as many, at the same time, and stops the watch when both are done.
pub(super) fn trade(stream: &TcpStream, bytes: usize) -> io::Result<Value> {
    let stopwatch = Stopwatch::start();
    let (sent, received) = thread::scope(|scope| {
        let sending = scope.spawn(|| send(stream, bytes));
        let received = drain(stream.take(bytes as u64));
        (sending.join().unwrap_or_else(|_| Err(ErrorKind::Other.into())), received)
    });
    sent?;
    if received? < bytes {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(stopwatch.read())
}

fn send(mut stream: &TcpStream, bytes: usize) -> io::Result<()> {
    let block = vec![b'p'; BLOCK];
    let mut left = bytes;
    while left > 0 {
        let length = left.min(BLOCK);
        stream.write_all(&block[..length])?;
        left -= length;
    }
    Ok(())
}

/// Reads to the end and looks at nothing.
pub(super) fn drain(mut stream: impl Read) -> io::Result<usize> {
    let (mut block, mut received) = (vec![0; BLOCK], 0);
    loop {
        match stream.read(&mut block)? {
            0 => return Ok(received),
            length => received += length,
        }
    }
}

/// Opens connections, says and hears a byte on each, and holds them until standard input ends.
pub(super) fn hold(connect: &Connect) -> Result<Value> {
    let mut held = Vec::new();
    for number in 0..connect.connections {
        let mut stream = client::open(connect).with_context(|| format!("open connection {number}"))?;
        stream.write_all(b"p").with_context(|| format!("write to connection {number}"))?;
        stream.read_exact(&mut [0]).with_context(|| format!("read from connection {number}"))?;
        held.push(stream);
    }
    until_told(&held)
}

/// Accepts connections, hears and says a byte on each, and holds them until standard input ends.
pub(super) fn keep(serve: &Serve) -> Result<()> {
    let listener = server::listen(serve)?;
    let mut held = Vec::new();
    for number in 0..serve.connections {
        let (mut stream, _) = listener.accept().context("accept")?;
        if serve.ktls {
            ktls::install(&stream, End::Server).context("set up kernel TLS")?;
        }
        stream.read_exact(&mut [0]).with_context(|| format!("read from connection {number}"))?;
        stream.write_all(b"p").with_context(|| format!("write to connection {number}"))?;
        held.push(stream);
    }
    until_told(&held).map(drop)
}

/// Whoever counts waits for the line.
fn until_told(held: &[TcpStream]) -> Result<Value> {
    let told = json!({ "held": held.len() });
    print(&told);
    io::stdin().read_to_end(&mut Vec::new()).context("wait for the end of standard input")?;
    Ok(told)
}
