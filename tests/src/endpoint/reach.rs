//! Tries what a program may reach at all: sockets of several kinds, to many destinations, and what the kernel says at once.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

#[derive(Debug, Args)]
pub(super) struct Reach {
    /// A file with an attempt in each line: `KIND ADDRESS:PORT`, where the kind is tcp, udp, udp-connected, icmp, raw, sctp
    /// or mptcp
    attempts: PathBuf,
}

/// One line of the file.
struct Attempt {
    kind: String,
    destination: SocketAddr,
}

impl FromStr for Attempt {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let (kind, destination) = line.split_once(' ').with_context(|| format!("no attempt: {line}"))?;
        Ok(Self { kind: kind.to_owned(), destination: destination.parse()? })
    }
}

/// Prints a list: for each attempt 0 when it was let pass, else the number of the error. What cannot go on for other
/// reasons was let pass too, and has its number.
pub(super) fn run(reach: &Reach) -> Result<()> {
    let text = fs::read_to_string(&reach.attempts).with_context(|| format!("read {}", reach.attempts.display()))?;
    let outcomes = text.lines().map(|line| outcome(&line.parse()?)).collect::<Result<Vec<i32>>>()?;
    super::print(&json!(outcomes));
    Ok(())
}

fn outcome(attempt: &Attempt) -> Result<i32> {
    Ok(match tried(attempt)? {
        Ok(()) => 0,
        // TCP is on its way.
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => 0,
        Err(error) => error.raw_os_error().context("an error without a number")?,
    })
}

fn tried(Attempt { kind, destination }: &Attempt) -> Result<std::io::Result<()>> {
    let to = SockAddr::from(*destination);
    let domain = Domain::for_address(*destination);
    let (icmp, other) = match destination {
        SocketAddr::V4(_) => (Protocol::ICMPV4, libc::IPPROTO_EGP),
        SocketAddr::V6(_) => (Protocol::ICMPV6, libc::IPPROTO_EGP),
    };
    let make = |kind, protocol| Socket::new(domain, kind, Some(protocol));
    Ok(match kind.as_str() {
        "tcp" => make(Type::STREAM.nonblocking(), Protocol::TCP).and_then(|socket| socket.connect(&to)),
        "udp" => make(Type::DGRAM, Protocol::UDP).and_then(|socket| socket.send_to(b"reach", &to).map(drop)),
        "udp-connected" => make(Type::DGRAM, Protocol::UDP).and_then(|socket| socket.connect(&to)),
        "icmp" => make(Type::DGRAM, icmp).map(drop),
        "raw" => make(Type::RAW, Protocol::from(other)).map(drop),
        "sctp" => make(Type::STREAM, Protocol::SCTP).map(drop),
        "mptcp" => make(Type::STREAM.nonblocking(), Protocol::MPTCP).and_then(|socket| socket.connect(&to)),
        unknown => anyhow::bail!("no kind: {unknown}"),
    })
}
