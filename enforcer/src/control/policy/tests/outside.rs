//! What may leave without mutual TLS: a table, from which the function, the loader and what programs look up are tested.

use enforcer_ebpf::{EGRESS_REFUSE, RANGES, Terms};
use ipnet::IpNet;

use super::*;

/// Protocol, address, port; whether an enrolled peer has the address.
const DEPARTURES: [(Protocol, &str, u16, bool); 10] = [
    (Protocol::Tcp, "192.0.2.1", 443, false),
    (Protocol::Tcp, "192.0.2.1", 80, false),
    (Protocol::Tcp, "10.9.0.1", 443, false),
    (Protocol::Tcp, "2001:db8::1", 443, false),
    (Protocol::Udp, "192.0.2.1", 443, false),
    (Protocol::Udp, "10.0.0.2", 443, true),
    // The resolver.
    (Protocol::Udp, "10.0.0.53", 53, true),
    (Protocol::Tcp, "10.0.0.53", 53, false),
    (Protocol::Udp, "::ffff:192.0.2.1", 80, false),
    (Protocol::Other, "0.0.0.0", 0, false),
];

/// A policy, and what becomes of each departure: `p` passes by a rule, `P` by the mode, `A` as it would be refused by rules
/// under audit alone; `r` refused, `d` denied, `n` not allowed.
const TABLE: [(&str, &str); 24] = [
    ("mode: strict", "rrrrrrpprr"),
    ("mode: permissive", "PPPPPPppPP"),
    ("outbound: { plaintext: [{ addresses: [192.0.2.0/24] }] }", "pprrrrpprr"),
    ("outbound: { plaintext: [{ addresses: [192.0.2.0/24], ports: [443] }] }", "prrrrrpprr"),
    ("outbound: { plaintext: [{ addresses: [192.0.2.0/24], protocols: [udp] }] }", "rrrrprpppr"),
    ("outbound: { plaintext: [{ addresses: [0.0.0.0/0], protocols: [tcp, udp] }] }", "ppprprpppr"),
    ("outbound: { plaintext: [{ addresses: ['::/0'] }] }", "rrrprrpprr"),
    ("outbound: { plaintext: [{ ports: [443] }] }", "prpprrpprr"),
    ("outbound: { plaintext: [{ ports: ['400-500'], protocols: [udp], toPeers: true }] }", "rrrrpppprr"),
    ("outbound: { plaintext: [{ protocols: [other] }] }", "rrrrrrpprp"),
    ("outbound: { plaintext: [{ protocols: [udp] }] }", "rrrrprpppr"),
    ("outbound: { plaintext: [{ addresses: [10.0.0.0/8], protocols: [udp] }] }", "rrrrrrpprr"),
    // Deny rules come first, also for what is there by default.
    ("outbound: { deny: [{ ports: [53] }] }", "rrrrrrddrr"),
    (
        "outbound: { deny: [{ addresses: [192.0.2.1] }], plaintext: [{ addresses: [192.0.2.0/24], protocols: [tcp, udp] }] }",
        "ddrrdrppdr",
    ),
    ("outbound: { deny: [{ namespaces: [shop] }], plaintext: [{ ports: [443] }] }", "prpprrpprr"),
    ("mode: permissive, outbound: { deny: [{ ports: [443] }] }", "dPddddppPP"),
    // Allow rules are about what the mode lets pass.
    ("mode: permissive, outbound: { allow: [{ ports: [443] }] }", "PnPPPPppnP"),
    ("outbound: { allow: [{ ports: [80] }], plaintext: [{ ports: [443] }] }", "prpprrpprr"),
    ("mode: permissive, outbound: { allow: [{ namespaces: [shop] }] }", "nnnnnnppnP"),
    // Strict egress is tried where a policy under audit has rules for it.
    ("audit: true, outbound: { plaintext: [{ ports: [443] }] }", "pAppAAppAA"),
    ("audit: true, outbound: { plaintext: [{ protocols: [other] }] }", "AAAAAAppAp"),
    ("audit: true, outbound: { deny: [{ addresses: [192.0.2.0/24] }] }", "rrrrrrpprr"),
    ("mode: permissive, audit: true, outbound: { deny: [{ addresses: [192.0.2.0/24] }] }", "AAPPAPppAP"),
    ("mode: permissive, audit: true, outbound: { allow: [{ ports: [443] }] }", "PAPPPPppAP"),
];

fn with_resolver(spec: &str) -> Arc<Policy> {
    let base = base().replace("stateDirectory: /s", "stateDirectory: /s, resolvers: [10.0.0.53]");
    let text = format!("{base}{}", policy(spec));
    web(&parse(&text, "test.yaml").unwrap_or_else(|error| panic!("{error}\nin\n{text}")))
}

fn letter(outcome: Outcome) -> char {
    match outcome {
        Outcome::Passes => 'p',
        Outcome::Audited => 'A',
        Outcome::Permissive => 'P',
        Outcome::Refused => 'r',
        Outcome::Denied => 'd',
        Outcome::NotAllowed => 'n',
    }
}

/// As programs do it.
fn looked_up(policy: &Policy, departure: &Departure) -> u8 {
    let kind = match (departure.protocol, departure.to_peer) {
        (Protocol::Tcp, _) => 0,
        (Protocol::Udp, false) => 1,
        (Protocol::Udp, true) => 2,
        (Protocol::Other, _) => return policy.others().0.action(),
    };
    let address = IpNet::from(departure.address.to_canonical());
    let holding = policy.terms.iter().filter(|(prefix, _)| prefix.contains(&address));
    let Some((_, terms)) = holding.max_by_key(|(prefix, _)| prefix.prefix_len()) else { return EGRESS_REFUSE };
    within(terms, kind, departure.port)
}

fn within(terms: &Terms, kind: usize, port: u16) -> u8 {
    let ranges = terms.ranges.iter().take(terms.count.into());
    let mut holding =
        ranges.filter(|range| range.kinds & (1 << kind) != 0 && (range.first..=range.last).contains(&port));
    holding.next().map_or(terms.usual[kind], |range| range.action)
}

#[test]
fn what_may_leave_is_decided_and_looked_up_as_the_table_says() {
    for (spec, expected) in TABLE {
        let policy = with_resolver(spec);
        let mut found = String::new();
        for (protocol, address, port, to_peer) in DEPARTURES {
            let departure = Departure { protocol, address: address.parse().unwrap(), port, to_peer };
            let (outcome, _) = policy.beyond(&departure);
            assert_eq!(looked_up(&policy, &departure), outcome.action(), "{spec}: {departure:?}");
            found.push(letter(outcome));
        }
        assert_eq!(found, expected, "{spec}");
    }
}

#[test]
fn the_rule_that_lets_pass_or_refuses_is_named() {
    let spec = "outbound: { deny: [{ name: never, addresses: [192.0.2.9] }], \
                plaintext: [{ ports: [80] }, { name: api, addresses: [192.0.2.0/24] }] }";
    let policy = with_resolver(spec);
    let cases = [
        ("192.0.2.1", 80, Some("p/outbound.plaintext/1")),
        ("192.0.2.1", 81, Some("p/outbound.plaintext/api")),
        ("192.0.2.9", 80, Some("p/outbound.deny/never")),
        ("10.0.0.53", 53, Some("built-in/outbound.plaintext/resolvers")),
        ("10.0.0.53", 54, None),
    ];
    for (address, port, expected) in cases {
        let departure = Departure { protocol: Protocol::Tcp, address: address.parse().unwrap(), port, to_peer: false };
        assert_eq!(policy.beyond(&departure).1.as_deref(), expected, "{address}:{port}");
    }
}

#[test]
fn ports_may_have_another_mode() {
    let spec = "mode: strict, ports: [{ ports: [80], mode: permissive }, { ports: ['1-100'], mode: strict }]";
    let policy = with_resolver(spec);
    let modes = [(Direction::Inbound, 80), (Direction::Inbound, 81), (Direction::Outbound, 80)];
    let found = modes.map(|(direction, port)| policy.mode_at(direction, port));
    assert_eq!(found, [Mode::Permissive, Mode::Strict, Mode::Strict]);
}

#[test]
fn a_workload_may_be_left_alone() {
    let snapshot = loaded(&policy("mode: off"));
    assert!(snapshot.workloads().is_empty());
    assert_eq!(snapshot.off().iter().map(|workload| workload.name.as_str()).collect::<Vec<_>>(), ["web"]);
}

#[test]
fn what_programs_have_no_room_for_is_refused() {
    let ports = |many: usize| -> String {
        let ports: Vec<String> = (0..many).map(|number| (2 * number + 1).to_string()).collect();
        format!("outbound: {{ plaintext: [{{ ports: [{}] }}] }}", ports.join(", "))
    };
    assert_eq!(usize::from(with_resolver(&ports(RANGES)).terms[0].1.count), RANGES);
    let text = format!("{}{}", base(), policy(&ports(RANGES + 1)));
    let problem = parse(&text, "test.yaml").map(drop).unwrap_err().to_string();
    assert!(problem.starts_with("test.yaml:9:") && problem.contains("no room for more"), "{problem}");
    // Neighbours take one range.
    assert_eq!(with_resolver("outbound: { plaintext: [{ ports: [1, 2, '3-9'] }] }").terms[0].1.count, 1);
}

#[test]
fn rules_that_cannot_mean_anything_are_refused_where_they_are_written() {
    let cases = [
        ("inbound: { plaintext: [{ ports: [80] }] }", "unknown field \"plaintext\""),
        ("outbound: { plaintext: [{}] }", "the rule names nothing"),
        ("outbound: { plaintext: [] }", "the list is empty"),
        ("outbound: { plaintext: [{ identities: [web] }] }", "unknown field \"identities\""),
        ("outbound: { plaintext: [{ ports: [80], protocols: [icmp] }] }", "is not a choice"),
        ("outbound: { plaintext: [{ ports: [80], protocols: [other] }] }", "nobody is asked where these go"),
        ("outbound: { plaintext: [{ ports: [80], toPeers: true }] }", "toPeers without UDP"),
        ("outbound: { plaintext: [{ name: x, ports: [80] }, { name: x, ports: [81] }] }", "a second rule \"x\""),
        ("ports: [{ ports: [80], mode: off }]", "is not a choice"),
        ("ports: [{ ports: [80] }]", "no field \"mode\""),
        ("ports: [{ mode: strict }]", "no field \"ports\""),
        ("ports: [{ ports: [8080], mode: strict }]", "no workload of the policy takes connections here"),
        ("ports: [80]", "expected the fields of ports with a mode"),
    ];
    for (spec, expected) in cases {
        let text = format!("{}{}", base(), policy(spec));
        let problem = parse(&text, "test.yaml").map(drop).unwrap_err().to_string();
        assert!(problem.contains(expected) && problem.starts_with("test.yaml:10:"), "{spec}: {problem}");
        assert_eq!(problem.lines().count(), 1, "{spec}: {problem}");
    }
}
