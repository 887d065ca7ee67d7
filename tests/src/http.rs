//! Just enough HTTP to ask an agent's admin socket on this host.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result};

use crate::wait;

/// The status code and body of `GET path`.
pub fn get(server: SocketAddr, path: &str) -> Result<(u16, String)> {
    let limit = wait::patience();
    let mut connection = TcpStream::connect_timeout(&server, limit).with_context(|| format!("connect to {server}"))?;
    connection.set_read_timeout(Some(limit))?;
    write!(connection, "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).with_context(|| format!("read the answer to {path} from {server}"))?;
    parse(&answer).with_context(|| format!("{server} did not answer in HTTP: {answer}"))
}

/// Splits an answer that ends with the connection; chunks are left as they are.
fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_status_and_body() {
        let answer = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nnot";
        assert_eq!(parse(answer), Some((503, "not".to_owned())));
    }

    #[test]
    fn refuses_what_is_not_http() {
        assert_eq!(parse("SSH-2.0-OpenSSH"), None);
    }
}
