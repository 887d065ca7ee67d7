//! Random policies and attempts: what the kernel lets pass is what the agent's own function says.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use enforcer::control::file::parse;
use enforcer::control::policy::{Departure, Policy, Protocol};
use enforcer::control::snapshot::{Snapshot, Speaks};
use enforcer_tests::config::identity;
use enforcer_tests::ground::{B, Ground, LEGACY};
use enforcer_tests::peer::reach;
use enforcer_tests::place::Place;
use enforcer_tests::random::Random;
use enforcer_tests::world::{Options, World};

/// Workloads, each with policies of its own; and attempts of each.
const WORKLOADS: usize = 20;
const ATTEMPTS: usize = 500;
/// Another one gives other policies and attempts. Fixed, so that what failed fails again.
const SEED: u64 = 0x5eed_0005;

/// Few, so that rules meet, and attempts meet rules.
const PORTS: [u16; 8] = [1, 52, 53, 80, 443, 8000, 8050, 65535];
const RANGES: [&str; 4] = ["\"1-79\"", "\"80-8000\"", "\"8001-65535\"", "\"50-60\""];
const KINDS: [&str; 3] = ["tcp", "udp", "udp-connected"];

pub(super) fn kernel_and_agent_decide_alike() -> Result<()> {
    let mut random = Random::of_seed(SEED);
    let ground = Ground::create()?;
    let places = (0..WORKLOADS).map(|number| ground.beside_a(&format!("w{number}"))).collect::<Result<Vec<_>>>()?;
    let objects: String =
        places.iter().enumerate().map(|(number, place)| objects(number, place, &mut random)).collect();
    let world = World::arranged(ground, Options::STRICT, None, |a, _b| {
        a.ports = vec![1];
        a.more = objects;
    })?;
    let snapshot = parse(world.a.config.to_string(), "agent.yaml")?;
    let mut passed = 0;
    for (number, place) in places.iter().enumerate() {
        let policy = policy_of(&snapshot, &format!("w{number}"))?;
        let attempts: Vec<_> = (0..ATTEMPTS).map(|_| attempt(&mut random)).collect();
        let outcomes = reach(place, &attempts)?;
        for (&(kind, to), outcome) in attempts.iter().zip(outcomes) {
            let passes = expected(&snapshot, &policy, (kind, to));
            let describe = || format!("{kind} to {to} gave {outcome}, expected {passes}, under {policy:#?}");
            ensure!((outcome != i64::from(libc::EPERM)) == passes, "{}", describe());
            passed += usize::from(passes);
        }
    }
    // A generator that makes everything pass, or nothing, shows nothing.
    let all = WORKLOADS * ATTEMPTS;
    ensure!(passed > all / 10 && passed < all * 9 / 10, "{passed} of {all} passed");
    Ok(())
}

fn policy_of(snapshot: &Snapshot, workload: &str) -> Result<std::sync::Arc<Policy>> {
    let workload = snapshot.workloads().iter().find(|wanted| wanted.name == workload).context("no such workload")?;
    Ok(snapshot.policy_of(workload))
}

fn expected(snapshot: &Snapshot, policy: &Policy, (kind, to): (&str, SocketAddr)) -> bool {
    let protocol = if kind == "tcp" { Protocol::Tcp } else { Protocol::Udp };
    let peer = snapshot.peer_of(to.ip());
    let to_peer = peer.is_some_and(|peer| !matches!(peer.speaks, Speaks::Plaintext));
    policy.beyond(&Departure { protocol, address: to.ip(), port: to.port(), to_peer }).0.passes()
}

/// A workload with two policies; the second one may be under audit.
fn objects(number: usize, place: &Place, random: &mut Random) -> String {
    let network = place.namespace.as_ref().map(|namespace| namespace.path()).unwrap_or_default();
    let mut text = format!(
        "---\nkind: Workload\nmetadata: {{ name: w{number} }}\nspec: {{ identity: '{}', cgroup: {}, network: {{ path: {} }}, \
         ports: [{}] }}\n",
        identity(&format!("w{number}")),
        place.cgroup.path().display(),
        network.display(),
        number + 2,
    );
    let mode = random.of(&["strict", "permissive"]);
    let audit = random.of(&["", "audit: true, "]);
    for (name, head) in [("one", format!("mode: {mode}, ")), ("two", audit.to_string())] {
        let selector = format!("selector: {{ workloads: [w{number}] }}");
        let outbound = outbound(random);
        // Writing to a string does not fail.
        let _written = write!(
            text,
            "---\nkind: MtlsPolicy\nmetadata: {{ name: w{number}-{name} }}\nspec: {{ {head}{selector}, outbound: {{ {outbound} }} }}\n"
        );
    }
    text
}

fn outbound(random: &mut Random) -> String {
    let mut lists = Vec::new();
    for (list, most) in [("deny", 2), ("allow", 2), ("plaintext", 4)] {
        let rules: Vec<String> = (0..random.below(most + 1)).map(|_| rule(list, random)).collect();
        if !rules.is_empty() {
            lists.push(format!("{list}: [{}]", rules.join(", ")));
        }
    }
    // A policy without rules would be refused.
    if lists.is_empty() { "deny: [{ addresses: [10.99.0.1] }]".to_owned() } else { lists.join(", ") }
}

fn rule(list: &str, random: &mut Random) -> String {
    let mut fields = Vec::new();
    if random.below(4) > 0 {
        fields.push(format!("addresses: ['{}']", prefix(random)));
    }
    if fields.is_empty() || random.below(2) == 0 {
        let ports = if random.below(2) == 0 { random.of(&PORTS).to_string() } else { random.of(&RANGES).to_string() };
        fields.push(format!("ports: [{ports}]"));
    }
    if list == "plaintext" {
        match random.below(4) {
            0 => fields.push("protocols: [udp]".to_owned()),
            1 => fields.push("protocols: [tcp, udp]".to_owned()),
            2 => fields.push("protocols: [udp], toPeers: true".to_owned()),
            _ => {}
        }
    } else if random.below(8) == 0 {
        // Of somebody who proves something, so never of these.
        fields.push("namespaces: [default]".to_owned());
    }
    format!("{{ {} }}", fields.join(", "))
}

fn prefix(random: &mut Random) -> String {
    let address = address(random);
    match address {
        IpAddr::V4(v4) => {
            let bits = u32::from(small(random.below(33)));
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            format!("{}/{bits}", Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let bits = u32::from(small(random.below(129)));
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            format!("{}/{bits}", Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

/// Near each other.
fn address(random: &mut Random) -> IpAddr {
    let [third, fourth] = [random.below(3), random.below(4)].map(small);
    match random.below(2) {
        0 => Ipv4Addr::new(10, 99, third, fourth).into(),
        _ => Ipv6Addr::new(0xfd99, 0, 0, u16::from(third), 0, 0, 0, u16::from(fourth)).into(),
    }
}

fn small(number: usize) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

fn attempt(random: &mut Random) -> (&'static str, SocketAddr) {
    let kind = random.of(&KINDS);
    // TCP to a peer is mutual TLS.
    let address = match random.below(8) {
        0 if kind != "tcp" => random.of(&[B[0], B[1], LEGACY[0], LEGACY[1]]),
        _ => address(random),
    };
    (kind, SocketAddr::new(address, random.of(&PORTS)))
}
