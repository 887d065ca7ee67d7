//! Requests over connections that stay open, and a stopwatch beside them.
//!
//! One thread asks on every connection, then hears every answer, then asks again: what overlaps is the same every time.
//! Answers are read to their end and looked at, as any client would.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Connect;
use super::client;
use super::stopwatch::Stopwatch;

/// Of the page that is asked for.
const PAGE: usize = 1024;

const REQUEST: &[u8] =
    b"GET /page HTTP/1.1\r\nHost: server.mesh.internal\r\nUser-Agent: endpoint\r\nAccept: */*\r\n\r\n";

/// What is stored in redis and asked for again.
const VALUE: [u8; 64] = [b'v'; 64];

/// Sends bytes and waits for them to come back.
pub(super) fn volley(connect: &Connect) -> Result<Value> {
    let (ping, mut pong) = (vec![b'p'; connect.size], vec![0; connect.size]);
    in_step(connect, &ping, |stream| stream.read_exact(&mut pong))
}

/// Gets a page over HTTP/1.1 and keeps the connection.
pub(super) fn get(connect: &Connect) -> Result<Value> {
    let mut buffer = vec![0; 16 * 1024];
    in_step(connect, REQUEST, |stream| hear_page(stream, &mut buffer))
}

/// Gets a value of 64 bytes from redis, so many times with one write.
pub(super) fn redis_get(connect: &Connect) -> Result<Value> {
    let mut stream = client::open(connect).context("connect to redis")?;
    stream.write_all(&[b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$64\r\n", &VALUE[..], b"\r\n"].concat())?;
    expect(&mut stream, b"+OK\r\n", &mut [0; 5]).context("store the value")?;
    drop(stream);
    let ask = b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n".repeat(connect.pipeline);
    let answer = [b"$64\r\n", &VALUE[..], b"\r\n"].concat().repeat(connect.pipeline);
    let mut buffer = vec![0; answer.len()];
    in_step(connect, &ask, |stream| expect(stream, &answer, &mut buffer))
}

fn in_step(connect: &Connect, ask: &[u8], mut hear: impl FnMut(&mut TcpStream) -> io::Result<()>) -> Result<Value> {
    let open = |number| client::open(connect).with_context(|| format!("open connection {number}"));
    let mut streams = (0..connect.connections).map(open).collect::<Result<Vec<_>>>()?;
    let stopwatch = Stopwatch::start();
    for round in 0..connect.rounds {
        for stream in &mut streams {
            stream.write_all(ask).with_context(|| format!("ask in round {round}"))?;
        }
        for stream in &mut streams {
            hear(stream).with_context(|| format!("hear the answer of round {round}"))?;
        }
    }
    let mut details = stopwatch.read();
    details["rounds"] = json!(connect.rounds);
    Ok(details)
}

/// Reads as many bytes as are expected, which shall be these.
fn expect(stream: &mut TcpStream, expected: &[u8], buffer: &mut [u8]) -> io::Result<()> {
    stream.read_exact(buffer)?;
    if buffer == expected { Ok(()) } else { Err(unexpected(buffer)) }
}

/// Reads one response, which shall be the page.
fn hear_page(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    let mut length = 0;
    loop {
        let read = stream.read(&mut buffer[length..])?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        length += read;
        let response = &buffer[..length];
        match page_length(response).map_err(|()| unexpected(response))? {
            Some(whole) if whole == length => return Ok(()),
            Some(whole) if whole < length => return Err(unexpected(response)),
            _ => {}
        }
    }
}

/// How long the whole response is, once its head has come; an error if it is not the page, over a connection that stays.
fn page_length(response: &[u8]) -> Result<Option<usize>, ()> {
    let Some(end) = response.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&response[..end]).map_err(drop)?;
    let mut lines = head.split("\r\n");
    let is_good = lines.next().is_some_and(|status| status.starts_with("HTTP/1.1 200"));
    let (mut content, mut stays) = (None, true);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            content = value.trim().parse::<usize>().ok();
        } else if name.eq_ignore_ascii_case("connection") {
            stays = !value.trim().eq_ignore_ascii_case("close");
        }
    }
    if is_good && stays && content == Some(PAGE) { Ok(Some(end + 4 + PAGE)) } else { Err(()) }
}

fn unexpected(answer: &[u8]) -> io::Error {
    let shown = &answer[..answer.len().min(200)];
    io::Error::new(ErrorKind::InvalidData, format!("unexpected: {}", shown.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_length_once_its_head_is_there() {
        let head = b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: 1024\r\n\r\n";
        assert_eq!(page_length(head), Ok(Some(head.len() + PAGE)));
        assert_eq!(page_length(&[head.as_slice(), b"abc"].concat()), Ok(Some(head.len() + PAGE)));
        assert_eq!(page_length(&head[..head.len() - 1]), Ok(None));
    }

    #[test]
    fn what_is_not_the_page_is_an_error() {
        for head in [
            "HTTP/1.1 404 Not Found\r\nContent-Length: 1024\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1023\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1024\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            page_length(head.as_bytes()).unwrap_err();
        }
    }
}
