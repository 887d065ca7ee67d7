//! The agents: one CA for both nodes, a configuration for each, and starting, replacing and removing them.

use anyhow::{Context, Result};

use super::World;
use super::apps::{PORTS, SLICE};
use crate::vagrant::node::Node;

/// Where `enforcer ca` and the agent keep the CA that both nodes share.
const STATE: &str = "/var/lib/enforcer";
/// The same for a CA that only `node-a` knows.
const OTHER_STATE: &str = "/var/lib/enforcer-other";

/// Who issues the certificates of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Authority {
    /// The CA that both nodes share.
    Shared,
    /// Another one, of the same trust domain.
    Other,
}

impl Authority {
    fn state(self) -> &'static str {
        match self {
            Authority::Shared => STATE,
            Authority::Other => OTHER_STATE,
        }
    }

    fn config(self) -> &'static str {
        match self {
            Authority::Shared => "/etc/enforcer/agent.yaml",
            Authority::Other => "/etc/enforcer/agent-other.yaml",
        }
    }
}

/// Makes the CA on `node-a`, hands `node-b` its part, and starts both agents.
pub(super) fn start(world: &World<'_>) -> Result<()> {
    let init = |state: &str| format!("enforcer ca init --trust-domain example.org --state-dir {state}");
    world.a.check(&init(STATE)).context("make the CA")?;
    world.a.check(&init(OTHER_STATE)).context("make the other CA")?;
    let part = world.a.check(&format!(
        "enforcer ca issue --node {} --state-dir {STATE} --out /run/suite/state >/dev/null
         tar -C /run/suite/state -cz . | base64",
        world.b
    ))?;
    world.b.write("/run/suite/state", String::from_utf8(part)?.trim_end())?;
    world.b.check(&format!("install -d -m 0700 {STATE}; base64 -d /run/suite/state | tar -C {STATE} -xz"))?;

    for (node, peer) in [(&world.a, &world.b), (&world.b, &world.a)] {
        for authority in [Authority::Shared, Authority::Other] {
            node.write(authority.config(), &config(node, peer, authority))?;
        }
        restart(node, Authority::Shared)?;
    }
    Ok(())
}

/// Starts the agent of `node`, in place of the one that may run, and waits until it is ready.
pub(super) fn restart(node: &Node<'_>, authority: Authority) -> Result<()> {
    node.check(&format!(
        "systemctl stop enforcer 2>/dev/null || true
         systemctl reset-failed enforcer 2>/dev/null || true
         systemd-run --quiet --unit=enforcer enforcer agent --config {}",
        authority.config()
    ))?;
    let ready = node.wait_until(
        "the agent to be ready",
        "curl -sf http://127.0.0.1:15000/ready || ! systemctl is-active --quiet enforcer",
    );
    let log = node.check("journalctl --unit=enforcer --lines=20 --output=cat --no-pager")?;
    ready
        .and_then(|()| node.check("systemctl is-active enforcer").map(drop))
        .with_context(|| format!("the agent of {node} says: {}", String::from_utf8_lossy(&log)))
}

/// Removes what an earlier run may have left: agents, their programs and their CA.
pub(super) fn remove(world: &World<'_>) -> Result<()> {
    for node in [&world.a, &world.b] {
        node.check(&format!(
            "systemctl stop enforcer 2>/dev/null || true
             systemctl reset-failed enforcer 2>/dev/null || true
             if [ -e {config} ]; then enforcer uninstall --config {config}; fi
             rm -rf {STATE} {OTHER_STATE} /etc/enforcer/*.yaml",
            config = Authority::Shared.config()
        ))?;
    }
    Ok(())
}

/// The configuration of the agent on `node`: its enrolled slice, and the other node.
fn config(node: &Node<'_>, peer: &Node<'_>, authority: Authority) -> String {
    format!(
        "kind: Node
spec:
  name: {node}
  trustDomain: example.org
  stateDirectory: {state}
---
kind: Workload
metadata: {{ name: apps }}
spec:
  identity: spiffe://example.org/ns/default/sa/{node}
  cgroup: /sys/fs/cgroup/{SLICE}
  network: {{ pid: 1 }}
  ports: {PORTS:?}
  offload: on
---
kind: Peer
metadata: {{ name: {peer} }}
spec:
  addresses: [\"{ipv4}\", \"{ipv6}\"]
  identity: spiffe://example.org/ns/default/sa/{peer}
---
kind: MtlsPolicy
metadata: {{ name: default }}
spec:
  mode: strict",
        state = authority.state(),
        ipv4 = peer.ipv4,
        ipv6 = peer.ipv6,
    )
}
