//! The record of one connection: what is known when it opens, what it learns on its way, how it ended.
//!
//! Written once, at the end; the log event and the metrics both come from it, so they cannot disagree. Labels are
//! closed enums. No key, no payload and nothing that an unauthenticated peer says is in it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use enforcer_ebpf::Reason;
use rustls::{CipherSuite, NamedGroup};
use tracing::Level;
use tracing::field::display;

use crate::control::policy::Decision;
use crate::identity::{Identity, Serial};

/// What is known of a connection when it opens.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Who opened it.
    pub direction: Direction,
    /// The workload's name.
    pub workload: Arc<str>,
    /// The workload's identity.
    pub local: Identity,
    /// The end that opened the connection.
    pub source: SocketAddr,
    /// The end that it was opened to.
    pub destination: SocketAddr,
}

/// Which end opened the connection, as the workload sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The peer.
    Inbound,
    /// The workload.
    Outbound,
}

impl Direction {
    /// The label in logs and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// How a connection is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// Mutual TLS in the application's own socket.
    Direct,
    /// Mutual TLS, the agent in the middle.
    Relay,
    /// TLS under a public name, the agent in the middle; the client is nobody known.
    Public,
    /// In the clear, for a reason.
    Plain,
    /// Not at all.
    Refused,
}

impl Path {
    /// The label in logs and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::Public => "public",
            Self::Plain => "plain",
            Self::Refused => "refused",
        }
    }
}

/// What the handshake agreed on.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The record protection.
    pub cipher: Option<CipherSuite>,
    /// The key exchange.
    pub group: Option<NamedGroup>,
    /// Of the certificate of this node's workload, where it has shown one of its identity.
    pub local_serial: Option<Serial>,
    /// Of the peer's certificate.
    pub peer_serial: Option<Serial>,
}

impl Tls {
    /// The cipher suite's name in the IANA registry.
    #[must_use]
    pub fn cipher_label(&self) -> Option<&'static str> {
        self.cipher.map(|cipher| cipher.as_str().unwrap_or("unknown"))
    }

    /// The group's name in the IANA registry.
    #[must_use]
    pub fn group_label(&self) -> Option<&'static str> {
        self.group.map(|group| group.as_str().unwrap_or("unknown"))
    }
}

/// Where the TLS records of a connection are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Offloaded {
    /// In the kernel.
    Kernel,
    /// In user space, for this reason.
    UserSpace(UserSpace),
}

impl Offloaded {
    /// The label in logs and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::UserSpace(why) => why.label(),
        }
    }

    /// The same as a sentence for people.
    #[must_use]
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::Kernel => "offload is on",
            Self::UserSpace(why) => why.explanation(),
        }
    }
}

/// Why TLS records are made in user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UserSpace {
    /// The workload's `offload` is `off`.
    PolicyOff,
    /// The workload's `offload` is `auto`.
    RelayCheaper,
    /// This kernel has no kernel TLS for us.
    KernelUnable,
    /// The client has called a public name.
    PublicName,
}

impl UserSpace {
    /// The label in logs and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::PolicyOff => "policy-off",
            Self::RelayCheaper => "relay-cheaper",
            Self::KernelUnable => "kernel-unable",
            Self::PublicName => "public-name",
        }
    }

    /// The same as a sentence for people.
    #[must_use]
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::PolicyOff => "offload is off for this workload",
            Self::RelayCheaper => "auto in a relay means user space: it costs less",
            Self::KernelUnable => "offload is on, but this kernel cannot: see `enforcer doctor`",
            Self::PublicName => "a client of a public name may speak TLS 1.2",
        }
    }
}

/// Payload bytes carried so far, without TLS and TCP overhead. The relay counts, everybody may read.
#[derive(Debug, Default)]
pub struct Counters {
    /// From the workload to its peer.
    pub to_peer: AtomicU64,
    /// From the peer to the workload.
    pub from_peer: AtomicU64,
}

/// What a connection learns on its way; each step fills in its own part.
#[derive(Debug, Default)]
pub struct Progress {
    /// The end that the peer sees as having opened the connection, where the agent has opened it anew.
    pub source: Option<SocketAddr>,
    /// The path and why this one. `None`: not yet decided.
    pub decision: Option<(Path, Reason)>,
    /// The authenticated peer.
    pub peer: Option<Identity>,
    /// What the handshake agreed on.
    pub tls: Option<Tls>,
    /// How long the handshake took.
    pub handshake: Option<Duration>,
    /// Where the records are made.
    pub offloaded: Option<Offloaded>,
    /// What rules say of it.
    pub ruling: Option<Decision>,
}

/// A connection that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// What was known when it opened.
    pub opening: &'a Opening,
    /// What it learned.
    pub progress: &'a Progress,
    /// Why it ended.
    pub end: Reason,
    /// Payload bytes from the workload to its peer.
    pub to_peer: u64,
    /// Payload bytes from the peer to the workload.
    pub from_peer: u64,
    /// From open to end.
    pub duration: Duration,
}

impl Record<'_> {
    /// The path and why this one. What ended before a decision was refused, by what ended it.
    #[must_use]
    pub fn decision(&self) -> (Path, Reason) {
        self.progress.decision.unwrap_or((Path::Refused, self.end))
    }

    /// Writes the one log event. It is the access log, so it is at info although there is one per connection;
    /// `--log-level info,connection=off` turns it off. Only direct connections that ended in order are at debug: the
    /// agent has nothing to do with them in between, and a line would be a good part of what they cost it.
    pub(super) fn log(&self) {
        let Self { opening, progress, .. } = self;
        let (path, reason) = self.decision();
        let peer = progress.peer.as_ref().map(display);
        let tls = progress.tls.as_ref();
        let is_audited = progress.ruling.as_ref().is_some_and(Decision::is_audited);
        macro_rules! write {
            ($level:expr) => {
                tracing::event!(
                    target: "connection",
                    $level,
                    direction = opening.direction.label(),
                    workload = &*opening.workload,
                    local = %opening.local,
                    peer,
                    source = %progress.source.unwrap_or(opening.source),
                    destination = %opening.destination,
                    path = path.label(),
                    reason = reason.label(),
                    end = self.end.label(),
                    cipher = tls.and_then(Tls::cipher_label),
                    group = tls.and_then(Tls::group_label),
                    local_serial = tls.and_then(|tls| tls.local_serial).map(display),
                    peer_serial = tls.and_then(|tls| tls.peer_serial).map(display),
                    offload = progress.offloaded.map(Offloaded::label),
                    rule = progress.ruling.as_ref().and_then(|ruling| ruling.rule.as_deref()),
                    audit = is_audited.then_some("would-refuse"),
                    to_peer = self.to_peer,
                    from_peer = self.from_peer,
                    duration = self.duration.as_secs_f64(),
                    "ended"
                )
            };
        }
        match (path, self.end) {
            (Path::Direct, Reason::Closed) if !is_audited => write!(Level::DEBUG),
            _ => write!(Level::INFO),
        }
    }
}
