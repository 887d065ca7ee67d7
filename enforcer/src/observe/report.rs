//! The JSON that the admin socket serves and `enforcer status` reads.
//!
//! Field names are an interface: add, never rename. Everything is text or numbers for people and scripts; what they
//! mean is defined by the types that they are made from.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::record::Direction;
use super::seen::{Fate, Sighting};
use crate::control::policy::Protocol;
use crate::kernel::probe::Abilities;

/// One open connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConnectionReport {
    /// Unique while the agent runs; later connections have higher ones.
    pub id: u64,
    /// `inbound` or `outbound`.
    pub direction: String,
    /// The workload's name.
    pub workload: String,
    /// The workload's identity.
    pub local: String,
    /// The peer's identity, once it is proved.
    pub peer: Option<String>,
    /// The end that opened the connection, as the wire shows it.
    pub source: SocketAddr,
    /// The program's own end, where the agent has opened the connection to the peer anew and the wire shows another one.
    #[serde(default)]
    pub application: Option<SocketAddr>,
    /// The end that it was opened to.
    pub destination: SocketAddr,
    /// `direct`, `relay`, `public`, `plain` or `refused`, once decided.
    pub path: Option<String>,
    /// Why this path.
    pub reason: Option<String>,
    /// The cipher suite.
    pub cipher: Option<String>,
    /// The key exchange.
    pub group: Option<String>,
    /// Serial number of the certificate that the workload has shown, hexadecimal.
    #[serde(default)]
    pub local_serial: Option<String>,
    /// Serial number of the peer's certificate, hexadecimal.
    pub peer_serial: Option<String>,
    /// `kernel`, or why the TLS records are made in user space.
    pub offload: Option<String>,
    /// The rule that decided; nothing where there is none for it.
    #[serde(default)]
    pub rule: Option<String>,
    /// The rule is under audit, and would refuse the connection if it were in force.
    #[serde(default)]
    pub audited: bool,
    /// Payload bytes from the workload to its peer.
    pub to_peer: u64,
    /// Payload bytes from the peer to the workload.
    pub from_peer: u64,
    /// Seconds since it opened.
    pub age_seconds: f64,
}

/// The agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusReport {
    /// The node's name.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// What the kernel can do.
    pub kernel: KernelReport,
    /// The enrolled workloads.
    pub workloads: Vec<WorkloadReport>,
    /// What control has told of revocations; nothing where it is not known, or nobody tells.
    #[serde(default)]
    pub revocation_lists: Option<ListsReport>,
    /// The configuration file.
    #[serde(default)]
    pub configuration: Option<ConfigurationReport>,
    /// What wanted to leave workloads without mutual TLS, and was refused, or let pass with a reason; the latest 4,096
    /// different things.
    #[serde(default)]
    pub plaintext: Vec<PlaintextReport>,
    /// Names of workloads that are left alone (`mode: off`).
    #[serde(default)]
    pub off: Vec<String>,
}

/// Something that wanted to leave a workload without mutual TLS.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlaintextReport {
    /// The workload's name.
    pub workload: String,
    /// `tcp`, `udp`, or the number of another protocol (IANA).
    pub protocol: String,
    /// Where to; nothing for other protocols.
    pub destination: Option<SocketAddr>,
    /// Whether it left.
    pub passed: bool,
    /// The label of the reason.
    pub reason: String,
    /// The rule that decides about it now; nothing where there is none for it.
    pub rule: Option<String>,
    /// How often.
    pub count: u64,
}

/// What was seen of connections in the last 24 hours.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SeenReport {
    /// The node's name.
    pub node: String,
    /// The names of the enrolled workloads; of others nothing is seen.
    pub workloads: Vec<String>,
    /// Since when connections are remembered, seconds since 1970.
    pub since: i64,
    /// How many sightings are not here because there was no more room for them.
    pub forgotten: u64,
    /// Whether destinations outside the mesh may have been forgotten for the same reason; nobody counts them.
    pub departures_are_full: bool,
    /// What was seen; each other end and port once.
    pub sightings: Vec<SightingReport>,
}

/// Connections of one workload with one other end, to one port; or what it has sent there in other protocols.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SightingReport {
    /// `inbound` or `outbound`.
    pub direction: String,
    /// The workload's name.
    pub workload: String,
    /// `tcp`, `udp`, or the number of another protocol (IANA).
    pub protocol: String,
    /// The other end's address; unspecified where it is not known.
    pub address: IpAddr,
    /// The port that was connected to; 0 where there is none.
    pub port: u16,
    /// The other end's identity, where it was proved.
    pub peer: Option<String>,
    /// The client has called a public name.
    pub public: bool,
    /// How many connections; of other protocols how many datagrams, calls or sockets.
    pub count: u64,
    /// How many connections are open.
    pub open: u64,
    /// When the first one was opened, seconds since 1970.
    pub first: i64,
    /// When the last one was there, seconds since 1970.
    pub last: i64,
    /// What would become of another one now.
    pub now: JudgementReport,
}

impl SightingReport {
    /// What was seen. `None`: it is none of this version.
    #[must_use]
    pub fn sighting(&self) -> Option<Sighting> {
        let directions = [Direction::Inbound, Direction::Outbound];
        Some(Sighting {
            direction: directions.into_iter().find(|direction| direction.label() == self.direction)?,
            workload: self.workload.as_str().into(),
            protocol: match self.protocol.as_str() {
                "tcp" => Protocol::Tcp,
                "udp" => Protocol::Udp,
                _ => Protocol::Other,
            },
            address: self.address,
            port: self.port,
            peer: self.peer.as_ref().map(|peer| peer.parse()).transpose().ok()?,
            is_public: self.public,
        })
    }
}

/// What becomes of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JudgementReport {
    /// `mutual-tls`, `public-tls`, `plaintext`, `left-alone` or `refused`.
    pub outcome: Fate,
    /// The label of the reason.
    pub reason: String,
    /// The rule that decides; nothing where there is none for it.
    pub rule: Option<String>,
    /// The rule is under audit, and would refuse it if it were in force.
    pub audited: bool,
}

/// The configuration that is in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConfigurationReport {
    /// Where it was read.
    pub file: String,
    /// Since when it is in force, seconds since 1970.
    pub since: i64,
    /// Why the file as it is now is not in force; nothing if it is.
    pub refused: Option<String>,
}

/// Revocation lists.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListsReport {
    /// When the first of them is in force no more, its grace included, seconds since 1970.
    pub until: i64,
    /// Whether that is over: what it is about is not accepted then.
    pub ended: bool,
}

/// The kernel, as far as it matters to an operator.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KernelReport {
    /// The release, as in `uname -r`.
    pub release: String,
    /// Why kernel TLS cannot be used; nothing if it can.
    pub kernel_tls_unable: Option<String>,
    /// What the relay needs and is not there; `enforcer doctor` says what follows.
    pub missing: Vec<String>,
}

impl From<&Abilities> for KernelReport {
    fn from(abilities: &Abilities) -> Self {
        Self {
            release: abilities.release.clone(),
            kernel_tls_unable: abilities.ktls().err().map(str::to_owned),
            missing: abilities.missing_for_relay().map(|ability| ability.name.to_owned()).collect(),
        }
    }
}

/// One enrolled workload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkloadReport {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub identity: String,
    /// `strict` or `permissive`.
    pub mode: String,
    /// `direct` where the peer can too, or the label of the reason why its connections are relayed.
    pub path: String,
    /// `kernel`, or why the TLS records are made in user space.
    pub offload: String,
    /// The same as a sentence.
    pub offload_explanation: String,
    /// The certificate in use, if there is a valid one.
    pub certificate: Option<CertificateReport>,
    /// What its programs have missed on direct connections.
    pub missed: Vec<MissedReport>,
    /// The names under which it serves clients without an identity.
    #[serde(default)]
    pub public: Vec<PublicReport>,
    /// How much of something it may have, and has.
    #[serde(default)]
    pub limits: Vec<LimitReport>,
}

/// What a workload may have of something, and has.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LimitReport {
    /// Of what: `connections`, `held`, `handshakes`, or `relay-memory` in octets.
    pub limit: String,
    /// How much it may have.
    pub most: u64,
    /// How much it has.
    pub taken: u64,
    /// How many connections were refused because of it.
    pub refused: u64,
}

/// A public name of a workload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PublicReport {
    /// The name.
    pub name: String,
    /// Its certificate, an expired one too.
    pub certificate: Option<CertificateReport>,
    /// Why there is none, or no newer one.
    pub failure: Option<String>,
}

/// Something that programs of a workload want of TCP and that a direct connection does not do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MissedReport {
    /// What: `msg-zerocopy`, `msg-more`.
    pub feature: String,
    /// How often it was seen since the workload was enrolled.
    pub count: u64,
    /// What follows, and what can be done, as a sentence.
    pub advice: String,
}

/// A certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CertificateReport {
    /// Serial number, hexadecimal.
    pub serial: String,
    /// End of its validity, seconds since 1970.
    pub expires: i64,
    /// Subject of the certificate that has signed it.
    #[serde(default)]
    pub signed_by: String,
    /// When the agent renews it, seconds since 1970; nothing where somebody else does.
    #[serde(default)]
    pub renewal: Option<i64>,
}
