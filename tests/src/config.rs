//! The configuration file of an agent, as a suite wants it.
//!
//! The text is put together by hand and not with the agent's own types: what the suites write is what a user
//! writes.

use std::fmt;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::clock::Clock;

/// The trust domain of every world.
pub const TRUST_DOMAIN: &str = "example.org";

/// Whom every node may ask for names; there is nobody.
pub const RESOLVER: &str = "10.77.255.53";

/// The SPIFFE ID of an account in the namespace `default`.
pub fn identity(account: &str) -> String {
    identity_in(TRUST_DOMAIN, account)
}

/// The same in another trust domain.
pub fn identity_in(trust_domain: &str, account: &str) -> String {
    format!("spiffe://{trust_domain}/ns/default/sa/{account}")
}

/// What a node refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Everything that is not mutual TLS.
    Strict,
    /// Nothing that its peer cannot do.
    Permissive,
}

/// Who writes the TLS records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Offload {
    /// The agent decides.
    Auto,
    /// The kernel.
    On,
    /// The agent.
    Off,
}

/// Which path connections take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Path {
    /// The agents decide.
    Auto,
    /// Direct, or none.
    Direct,
    /// Through the agents.
    Relay,
}

/// How a peer speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// Through an agent.
    Enforcer,
    /// Mutual TLS of its own.
    Mtls,
    /// No TLS at all.
    Plaintext,
}

/// A peer as the registry of a node has it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its name, and the account of its identity.
    pub account: &'static str,
    /// That of its identity.
    pub trust_domain: &'static str,
    /// Where it is.
    pub addresses: Vec<IpAddr>,
    /// How it speaks.
    pub speaks: Speaks,
    /// Where the agent of its node takes pair sessions.
    pub agent: Option<SocketAddr>,
}

/// One more workload.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Its name, and the account of its identity.
    pub account: String,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// Its network namespace.
    pub network: PathBuf,
    /// The ports that are intercepted; empty means every port.
    pub ports: Vec<u16>,
}

/// The whole file.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name of the node, and the account of its one workload.
    pub account: &'static str,
    /// Whether that workload is in the file.
    pub is_enrolled: bool,
    /// Others beside it.
    pub workloads: Vec<Workload>,
    /// That of its identity.
    pub trust_domain: &'static str,
    /// Other trust domains, each with a file that has its bundle.
    pub federation: Vec<(&'static str, PathBuf)>,
    /// Where its CA lives.
    pub state: PathBuf,
    /// Where its programs are pinned.
    pub bpf: PathBuf,
    /// Its admin socket.
    pub admin: SocketAddr,
    /// Where it takes pair sessions.
    pub pair: SocketAddr,
    /// The cgroup of the workload.
    pub cgroup: PathBuf,
    /// The network namespace of the workload.
    pub network: PathBuf,
    /// The ports that are intercepted; empty means every port.
    pub ports: Vec<u16>,
    /// Who writes the TLS records.
    pub offload: Offload,
    /// What is refused.
    pub mode: Mode,
    /// Which path connections take.
    pub path: Path,
    /// What they are encrypted with, if that is not left to the agent.
    pub cipher: Option<&'static str>,
    /// The fields of a policy with rules; empty where there is none.
    pub rules: &'static str,
    /// Who else there is.
    pub peers: Vec<Peer>,
    /// A cgroup below which only workloads have sockets.
    pub guard: Option<PathBuf>,
    /// Objects beside these, as they stand in a file, each with `---` before it.
    pub more: String,
    /// Where its certificates come from, if not from its own CA.
    pub control: Option<Membership>,
    /// The socket of a SPIFFE Workload API.
    pub workload_api: PathBuf,
    /// On which side of it the agent is.
    pub side: Side,
    /// What the agent goes by, if not by the machine's clock; not in the file.
    pub clock: Option<Clock>,
    /// Under which names the workload serves clients without an identity.
    pub public: Option<Public>,
}

/// Public names, and who certifies them.
#[derive(Debug, Clone)]
pub struct Public {
    /// The URL of the ACME directory.
    pub directory: String,
    /// A file with the roots that it is trusted by.
    pub roots: PathBuf,
    /// The names.
    pub names: &'static [&'static str],
    /// The ports.
    pub ports: Vec<u16>,
}

/// A side of the SPIFFE Workload API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Workloads ask the agent for certificates of their own.
    Offers,
    /// The agent asks somebody else for its certificates.
    Asks,
}

/// How a node comes to its control.
#[derive(Debug, Clone)]
pub struct Membership {
    /// Where control is.
    pub address: SocketAddr,
    /// A file with a token.
    pub token: PathBuf,
    /// For so many minutes after its end a revocation list is in force, if that is said.
    pub grace: Option<u32>,
}

impl fmt::Display for Config {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.node(out)?;
        if self.is_enrolled {
            self.workload(out)?;
        }
        self.workloads.iter().try_for_each(|workload| write!(out, "---\n{workload}"))?;
        self.peers.iter().try_for_each(|peer| write!(out, "---\n{peer}"))?;
        let mode = match self.mode {
            Mode::Strict => "strict",
            Mode::Permissive => "permissive",
        };
        let path = match self.path {
            Path::Auto => "auto",
            Path::Direct => "direct",
            Path::Relay => "relay",
        };
        write!(out, "---\nkind: MtlsPolicy\nmetadata: {{ name: default }}\nspec:\n  mode: {mode}\n  path: {path}\n")?;
        out.write_str(&self.more)?;
        if self.rules.is_empty() {
            return Ok(());
        }
        write!(out, "---\nkind: MtlsPolicy\nmetadata: {{ name: rules }}\nspec: {{ {} }}\n", self.rules)
    }
}

impl Config {
    fn node(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "kind: Node\nspec:")?;
        writeln!(out, "  name: node-{}", self.account)?;
        writeln!(out, "  trustDomain: {}", self.trust_domain)?;
        writeln!(out, "  stateDirectory: {}", self.state.display())?;
        writeln!(out, "  bpfDirectory: {}", self.bpf.display())?;
        writeln!(out, "  admin: {}", self.admin)?;
        writeln!(out, "  pair: {}", self.pair)?;
        // Not those of whichever machine this is.
        writeln!(out, "  resolvers: [\"{RESOLVER}\"]")?;
        self.guard.iter().try_for_each(|guard| writeln!(out, "  guard: [{}]", guard.display()))?;
        let socket = self.workload_api.display();
        match self.side {
            Side::Offers => writeln!(out, "  workloadApi: {socket}"),
            Side::Asks => writeln!(out, "  identitySource: {{ workloadApi: \"unix://{socket}\" }}"),
        }?;
        if let Some(Membership { address, token, grace }) = &self.control {
            let grace = grace.map(|minutes| format!(", graceMinutes: {minutes}")).unwrap_or_default();
            writeln!(out, "  control: {{ address: \"{address}\", tokenFile: {}{grace} }}", token.display())?;
        }
        if !self.federation.is_empty() {
            writeln!(out, "  federation:")?;
        }
        for (trust_domain, bundle) in &self.federation {
            writeln!(out, "    {trust_domain}: {}", bundle.display())?;
        }
        if let Some(Public { directory, roots, .. }) = &self.public {
            let roots = roots.display();
            writeln!(out, "  acme: {{ directory: \"{directory}\", termsOfServiceAgreed: true, roots: {roots} }}")?;
        }
        self.cipher.iter().try_for_each(|cipher| writeln!(out, "  cipher: {cipher}"))
    }

    fn workload(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "---\nkind: Workload\nmetadata: {{ name: {} }}\nspec:", self.account)?;
        writeln!(out, "  identity: {}", identity_in(self.trust_domain, self.account))?;
        writeln!(out, "  cgroup: {}", self.cgroup.display())?;
        writeln!(out, "  network: {{ path: {} }}", self.network.display())?;
        if !self.ports.is_empty() {
            writeln!(out, "  ports: {:?}", self.ports)?;
        }
        if let Some(Public { names, ports, .. }) = &self.public {
            writeln!(out, "  public: {{ names: {names:?}, ports: {ports:?} }}")?;
        }
        let offload = match self.offload {
            Offload::Auto => "auto",
            Offload::On => "on",
            Offload::Off => "off",
        };
        writeln!(out, "  offload: {offload}")
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { account, cgroup, network, ports } = self;
        writeln!(out, "kind: Workload\nmetadata: {{ name: {account} }}\nspec:\n  identity: {}", identity(account))?;
        writeln!(out, "  cgroup: {}\n  network: {{ path: {} }}", cgroup.display(), network.display())?;
        if ports.is_empty() { Ok(()) } else { writeln!(out, "  ports: {ports:?}") }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut addresses = String::new();
        for address in &self.addresses {
            write!(addresses, "{}\"{address}\"", if addresses.is_empty() { "" } else { ", " })?;
        }
        writeln!(out, "kind: Peer\nmetadata: {{ name: {} }}\nspec:\n  addresses: [{addresses}]", self.account)?;
        let identity = identity_in(self.trust_domain, self.account);
        match self.speaks {
            Speaks::Enforcer => writeln!(out, "  identity: {identity}"),
            Speaks::Mtls => writeln!(out, "  identity: {identity}\n  speaks: mtls"),
            Speaks::Plaintext => writeln!(out, "  speaks: plaintext"),
        }?;
        self.agent.iter().try_for_each(|agent| writeln!(out, "  agent: \"{agent}\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_a_peer_with_and_without_an_identity() {
        let mut peer = Peer {
            account: "db",
            trust_domain: TRUST_DOMAIN,
            addresses: vec!["10.0.0.2".parse().unwrap()],
            speaks: Speaks::Enforcer,
            agent: Some("[fd00::7]:15443".parse().unwrap()),
        };
        assert!(peer.to_string().contains("identity: spiffe://example.org/ns/default/sa/db"));
        assert!(peer.to_string().contains("agent: \"[fd00::7]:15443\""));
        peer.speaks = Speaks::Plaintext;
        peer.agent = None;
        assert!(!peer.to_string().contains("identity") && !peer.to_string().contains("agent"));
    }
}
