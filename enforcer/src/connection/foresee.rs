//! What would become of a connection: the agent's own decisions, without an agent and without a connection. `enforcer explain`
//! asks for one, and `enforcer policy impact` for everything that was [seen](crate::observe::seen).
//!
//! Pure. Each end decides for itself: what is said here is what the end says whose configuration it is.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use enforcer_ebpf::Reason;

use super::choose::{Choice, Means, Wants, choose, refused};
use super::public::may_be_called;
use crate::control::policy::{Attempt, Decision, Departure, Outcome, Policy, Protocol, Refusal, Verdict};
use crate::control::snapshot::{Peer, Snapshot, Workload};
use crate::identity::Identity;
use crate::observe::events::Direction;
use crate::observe::report::JudgementReport;
use crate::observe::seen::{Fate, Sighting};

/// A fate, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreseen {
    /// What becomes of it.
    pub fate: Fate,
    /// The label of the reason: that of a [`Reason`], or why it is left alone.
    pub reason: &'static str,
    /// The rule that decides; `None`: there is none for it.
    pub rule: Option<Arc<str>>,
    /// The rule is under audit, and would refuse it.
    pub audited: bool,
}

impl From<Foreseen> for JudgementReport {
    fn from(Foreseen { fate, reason, rule, audited }: Foreseen) -> Self {
        Self { outcome: fate, reason: reason.to_owned(), rule: rule.map(|rule| rule.to_string()), audited }
    }
}

/// The other end, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub struct Other<'a> {
    /// What the registry has there.
    pub peer: Option<&'a Peer>,
    /// What it must prove to be.
    pub identity: Option<&'a Identity>,
    /// Where it is. Where that is not known, rules that name addresses do not match, but for those that name all.
    pub address: Option<IpAddr>,
}

/// What becomes of a connection of a workload with this policy, which is opened to `port`.
#[must_use]
pub fn foresee(policy: &Policy, direction: Direction, other: &Other<'_>, port: u16) -> Foreseen {
    if direction == Direction::Outbound
        && other.peer.is_none()
        && let Some(address) = other.address
    {
        return leaves(policy, &Departure { protocol: Protocol::Tcp, address, port, to_peer: false });
    }
    let Decision { verdict, rule } = decide(policy, direction, other, port);
    let wants = Wants { mode: policy.mode_at(direction, port), path: policy.path, means: Means::Direct };
    let has_agent = other.peer.is_some_and(|peer| peer.agent.is_some());
    let choice = match choose(direction, wants, other.peer) {
        // With an agent at the other end it need not come to the relay.
        Choice::Refuse(Reason::DirectImpossible) if has_agent => Choice::Plain(Reason::PeerEnrolled),
        choice => choice,
    };
    let is_mutual = has_agent || matches!(choice, Choice::Relay(..));
    let choice = choice.ruled(verdict);
    let (fate, reason) = match &choice {
        Choice::Refuse(reason) => (Fate::Refused, *reason),
        Choice::Plain(reason) if !is_mutual => (Fate::Plaintext, *reason),
        _ if has_agent => (Fate::MutualTls, Reason::PeerEnrolled),
        _ => (Fate::MutualTls, choice.reason()),
    };
    Foreseen { fate, reason: reason.label(), rule, audited: matches!(verdict, Verdict::Audited(_)) }
}

fn decide(policy: &Policy, direction: Direction, other: &Other<'_>, port: u16) -> Decision {
    let address = other.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    policy.decide(&Attempt { direction, identity: other.identity, address, port })
}

/// What becomes of something that wants to leave without mutual TLS.
fn leaves(policy: &Policy, departure: &Departure) -> Foreseen {
    let (outcome, rule) = policy.beyond(departure);
    Foreseen {
        fate: if outcome.passes() { Fate::Plaintext } else { Fate::Refused },
        reason: outcome.reason().label(),
        rule,
        audited: outcome == Outcome::Audited,
    }
}

/// A configuration, by which what was seen is judged.
pub struct Judge<'a> {
    snapshot: &'a Snapshot,
    workloads: HashMap<&'a str, &'a Workload>,
    off: HashSet<&'a str>,
}

impl<'a> Judge<'a> {
    /// By this one.
    #[must_use]
    pub fn of(snapshot: &'a Snapshot) -> Self {
        let workloads = snapshot.workloads().iter().map(|workload| (workload.name.as_str(), workload)).collect();
        Self { snapshot, workloads, off: snapshot.off().iter().map(|workload| workload.name.as_str()).collect() }
    }

    /// What becomes of the same thing, if this configuration is in force.
    #[must_use]
    pub fn judge(&self, seen: &Sighting) -> Foreseen {
        let Some(workload) = self.workloads.get(&*seen.workload) else {
            return left_alone(if self.off.contains(&*seen.workload) { "mode-off" } else { "not-enrolled" });
        };
        let is_taken = workload.ports.as_ref().is_none_or(|ports| ports.contains(&seen.port));
        if seen.direction == Direction::Inbound && !is_taken {
            return left_alone("port-not-taken");
        }
        let policy = self.snapshot.policy_of(workload);
        let peer = self.snapshot.peer_of(seen.address);
        let identity = peer.and_then(|peer| peer.speaks.identity());
        if seen.protocol != Protocol::Tcp {
            let Sighting { protocol, address, port, .. } = *seen;
            return leaves(&policy, &Departure { protocol, address, port, to_peer: identity.is_some() });
        }
        let other = Other { peer, identity, address: Some(seen.address) };
        if seen.is_public
            && workload.public.as_ref().is_some_and(|public| may_be_called(&public.ports, seen.port, peer))
        {
            return called(decide(&policy, seen.direction, &other, seen.port));
        }
        let foreseen = foresee(&policy, seen.direction, &other, seen.port);
        let is_other = seen.peer.as_ref().is_some_and(|proved| identity.is_some_and(|expected| expected != proved));
        match foreseen.fate {
            // Whoever was there does not prove what would be expected.
            Fate::MutualTls if is_other => Foreseen {
                fate: Fate::Refused,
                reason: Reason::PeerIdentityMismatch.label(),
                rule: None,
                audited: false,
            },
            _ => foreseen,
        }
    }
}

/// Of a client that calls a public name only rules that deny are asked.
fn called(Decision { verdict, rule }: Decision) -> Foreseen {
    let denied = Verdict::Refused(Refusal::Denied);
    let (fate, reason) = match verdict == denied {
        true => (Fate::Refused, refused(Refusal::Denied)),
        false => (Fate::PublicTls, Reason::PublicName),
    };
    let audited = verdict == Verdict::Audited(Refusal::Denied);
    let rule = rule.filter(|_| audited || fate == Fate::Refused);
    Foreseen { fate, reason: reason.label(), rule, audited }
}

fn left_alone(reason: &'static str) -> Foreseen {
    Foreseen { fate: Fate::LeftAlone, reason, rule: None, audited: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::file::parse;

    const NODE: &str = "kind: Node
spec:
  name: node-a
  trustDomain: example.org
  stateDirectory: /var/lib/enforcer
  resolvers: [10.0.0.53]
  acme: { directory: 'https://acme.example/directory', termsOfServiceAgreed: true }
---
kind: Peer
metadata: { name: db }
spec: { addresses: [10.0.0.2], identity: 'spiffe://example.org/db' }
---
";
    const WEB: &str = "kind: Workload
metadata: { name: web }
spec: { identity: 'spiffe://example.org/web', cgroup: /sys/fs/cgroup/web, network: { path: /run/netns/a }, ports: [80, 443], \
                       public: { names: [www.example.org], ports: [443] } }
---
kind: MtlsPolicy
metadata: { name: all }
spec: { mode: MODE, inbound: { deny: [{ addresses: [10.9.0.0/16] }] }, \
                       outbound: { plaintext: [{ addresses: [10.8.0.0/16], protocols: [udp] }] } }
";

    fn sighting(direction: Direction, address: &str, port: u16) -> Sighting {
        Sighting {
            direction,
            workload: "web".into(),
            protocol: Protocol::Tcp,
            address: address.parse().unwrap(),
            port,
            peer: None,
            is_public: false,
        }
    }

    fn judged(configuration: &str, seen: &Sighting) -> (Fate, &'static str) {
        let snapshot = parse(format!("{NODE}{configuration}"), "agent.yaml").unwrap();
        let Foreseen { fate, reason, .. } = Judge::of(&snapshot).judge(seen);
        (fate, reason)
    }

    #[test]
    fn everything_that_was_seen_is_judged_as_the_agent_would() {
        use Direction::{Inbound, Outbound};
        let strict = &WEB.replace("MODE", "strict");
        let from_db = sighting(Inbound, "10.0.0.2", 80);
        let proved = |name: &str| Sighting { peer: name.parse().ok(), ..from_db.clone() };
        let public = |address| Sighting { is_public: true, ..sighting(Inbound, address, 443) };
        let datagram = |address| Sighting { protocol: Protocol::Udp, ..sighting(Outbound, address, 514) };
        let cases = [
            (strict, from_db.clone(), (Fate::MutualTls, "peer-without-agent")),
            (strict, proved("spiffe://example.org/db"), (Fate::MutualTls, "peer-without-agent")),
            (strict, proved("spiffe://example.org/else"), (Fate::Refused, "peer-identity-mismatch")),
            (strict, sighting(Inbound, "10.0.0.3", 80), (Fate::Refused, "strict-unknown-source")),
            (strict, sighting(Inbound, "10.0.0.3", 8080), (Fate::LeftAlone, "port-not-taken")),
            (strict, public("10.0.0.3"), (Fate::PublicTls, "public-name")),
            (strict, public("10.9.0.3"), (Fate::Refused, "policy-denied")),
            // A peer with an agent is never public.
            (strict, public("10.0.0.2"), (Fate::MutualTls, "peer-without-agent")),
            (strict, sighting(Outbound, "10.0.0.2", 1), (Fate::MutualTls, "peer-without-agent")),
            (strict, sighting(Outbound, "10.8.0.2", 1), (Fate::Refused, "egress-refused")),
            (strict, datagram("10.8.0.2"), (Fate::Plaintext, "plaintext-allowed")),
            (strict, datagram("10.0.0.2"), (Fate::Refused, "egress-refused")),
            (&WEB.replace("MODE", "permissive"), from_db.clone(), (Fate::MutualTls, "peer-without-agent")),
            (
                &WEB.replace("MODE", "permissive"),
                sighting(Inbound, "10.0.0.3", 80),
                (Fate::Plaintext, "permissive-unknown-source"),
            ),
            (&WEB.replace("MODE", "off"), from_db.clone(), (Fate::LeftAlone, "mode-off")),
            (&String::new(), from_db.clone(), (Fate::LeftAlone, "not-enrolled")),
        ];
        for (configuration, seen, expected) in cases {
            assert_eq!(judged(configuration, &seen), expected, "{seen:?} under {configuration}");
        }
    }
}
