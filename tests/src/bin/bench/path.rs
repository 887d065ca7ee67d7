//! The paths that are compared.
//!
//! [`site`] makes the two nodes of a path and runs servers and clients on them. What a path is made of is in
//! [`sidecar`], with the certificates of [`credentials`], and in [`tunnel`]; [`application`] has the unmodified
//! servers, [`proof`] sees to it that what was measured is what the path is called, [`quiet`] that nothing else was, and
//! [`needed`] says what is not installed.

mod site;

mod application;
mod credentials;
mod sidecar;
mod tunnel;

mod memory;
mod needed;
mod processor;
mod proof;
pub(crate) mod quiet;

use std::fmt;

use clap::ValueEnum;
use enforcer_tests::config::{Offload, Path as Wanted};
use enforcer_tests::world::Options;

pub(crate) use self::application::Application;
pub(crate) use self::needed::{require, versions};
pub(crate) use self::processor::Time;
pub(crate) use self::site::Site;

/// How bytes get from one application to the other, in the order of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Path {
    /// In the clear, without agents.
    Plain,
    /// In the clear, from a workload to somewhere outside the mesh, which a rule lets it reach.
    Outside,
    /// Kernel TLS that the applications set up themselves with fixed keys, without agents: no encryption costs less.
    Floor,
    /// Kernel TLS on the applications' sockets, set up by agents.
    Direct,
    /// Through agents that write records themselves.
    Relay,
    /// Through agents whose sockets have kernel TLS.
    #[value(name = "relay-ktls")]
    RelayKernel,
    /// ESP of the kernel in transport mode, with keys that are fixed.
    Ipsec,
    /// A tunnel of the kernel's WireGuard.
    Wireguard,
    /// Through a pair of nginx that pass bytes on.
    Nginx,
    /// Through a pair of HAProxy that pass bytes on.
    Haproxy,
    /// Through a pair of Envoy that pass bytes on.
    Envoy,
    /// Through a pair of Envoy that pass requests of HTTP on.
    EnvoyHttp,
}

impl Path {
    /// Whether it cannot be measured on a kernel without TLS.
    pub(crate) fn needs_kernel_tls(self) -> bool {
        matches!(self, Path::Outside | Path::Floor | Path::Direct | Path::RelayKernel)
    }

    /// Whether there are agents, and so their programs in the kernel.
    pub(crate) fn has_agents(self) -> bool {
        self.options().is_some()
    }

    /// Whether bytes pass through a proxy beside each application that is none of ours.
    pub(crate) fn has_sidecars(self) -> bool {
        matches!(self, Path::Nginx | Path::Haproxy | Path::Envoy | Path::EnvoyHttp)
    }

    /// Whether the kernel encrypts whole packets, whatever connection they are of.
    pub(crate) fn encrypts_packets(self) -> bool {
        matches!(self, Path::Ipsec | Path::Wireguard)
    }

    /// How many times longer it is measured than the relay. Now and then a machine has something of its own to do; where
    /// a unit costs little, few units would not outweigh it.
    pub(crate) fn stretch(self) -> u32 {
        match self {
            Path::Plain | Path::Outside => 8,
            Path::Floor | Path::Direct | Path::Ipsec | Path::Wireguard => 2,
            Path::Relay | Path::RelayKernel | Path::Nginx | Path::Haproxy | Path::Envoy | Path::EnvoyHttp => 1,
        }
    }

    /// What its agents are told; nothing where there are none.
    fn options(self) -> Option<Options> {
        match self {
            Path::Outside => Some(Options { rules: OUTSIDE, ..Options::DIRECT }),
            Path::Direct => Some(Options::DIRECT),
            Path::Relay => Some(Options { offload: Offload::Off, path: Wanted::Relay, ..Options::STRICT }),
            Path::RelayKernel => Some(Options { offload: Offload::On, path: Wanted::Relay, ..Options::STRICT }),
            _ => None,
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Path::Plain => "plain TCP",
            Path::Outside => "outside the mesh",
            Path::Floor => "kTLS by hand (floor)",
            Path::Direct => "direct",
            Path::Relay => "relay, records in user space",
            Path::RelayKernel => "relay, records in the kernel",
            Path::Ipsec => "IPsec",
            Path::Wireguard => "WireGuard",
            Path::Nginx => "nginx pair",
            Path::Haproxy => "HAProxy pair",
            Path::Envoy => "Envoy pair, TCP",
            Path::EnvoyHttp => "Envoy pair, HTTP",
        })
    }
}

/// What the workload of the first node may reach outside the mesh, beside another rule that is for somewhere else.
const OUTSIDE: [&str; 2] = [
    "outbound: { deny: [{ addresses: [192.0.2.0/24] }], plaintext: [{ addresses: [10.78.0.4], ports: ['1000-65535'] }] }",
    "",
];
