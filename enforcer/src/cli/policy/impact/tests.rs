//! What an agent with the example's configuration has seen, under others.

use super::*;
use crate::connection::foresee::Judge;
use crate::control::file::parse;
use crate::observe::report::SightingReport;

const EXAMPLE: &str = include_str!("../../../../examples/agent.yaml");
const DB: Option<&str> = Some("spiffe://example.org/ns/default/sa/db");
const ORDERS: Option<&str> = Some("spiffe://partner.example/ns/api/sa/orders");

/// The example with another text in place of one of its own.
fn with(old: &str, new: &str) -> Snapshot {
    assert!(EXAMPLE.contains(old), "{old}");
    parse(EXAMPLE.replacen(old, new, 1), "agent.yaml").unwrap()
}

/// One connection that has ended and one that is open, as an agent with the example's configuration judges them.
fn sighting((direction, workload): (&str, &str), address: &str, port: u16, peer: Option<&str>) -> SightingReport {
    let nothing = JudgementReport { outcome: Fate::Refused, reason: String::new(), rule: None, audited: false };
    let sighting = SightingReport {
        direction: direction.to_owned(),
        workload: workload.to_owned(),
        protocol: "tcp".to_owned(),
        address: address.parse().unwrap(),
        port,
        peer: peer.map(str::to_owned),
        public: false,
        count: 2,
        open: 1,
        first: 10,
        last: 20,
        now: nothing,
    };
    let now = Judge::of(&with("", "")).judge(&sighting.sighting().unwrap()).into();
    SightingReport { now, ..sighting }
}

fn seen() -> SeenReport {
    let sightings = vec![
        sighting(("inbound", "web"), "10.0.0.2", 443, DB),
        sighting(("inbound", "web"), "10.1.0.9", 443, DB),
        sighting(("inbound", "cache"), "192.0.2.10", 6379, ORDERS),
        sighting(("outbound", "web"), "10.0.0.2", 5432, DB),
        sighting(("outbound", "web"), "198.51.100.80", 443, None),
        sighting(("outbound", "web"), "198.51.100.81", 443, None),
    ];
    let (node, workloads) = ("node-a".to_owned(), vec!["web".to_owned(), "cache".to_owned()]);
    SeenReport { node, workloads, since: 0, forgotten: 0, departures_are_full: false, sightings }
}

/// Change, workload, other end, port, and the rule or reason for it.
type Changed<'a> = (Change, &'a str, &'a str, u16, &'a str);

fn changed(impact: &Impact) -> Vec<Changed<'_>> {
    let changed = impact.pairs.iter().filter(|pair| pair.change != Change::None);
    changed
        .map(|Pair { change, between, .. }| {
            let why = between.then.rule.as_ref().unwrap_or(&between.then.reason);
            (*change, between.workload.as_str(), between.other.as_str(), between.port, why.as_str())
        })
        .collect()
}

#[test]
fn each_change_is_found_and_nothing_else() {
    let (db, orders) = (DB.unwrap(), ORDERS.unwrap());
    let cases: [(&str, &str, &[Changed<'_>]); 6] = [
        ("", "", &[]),
        (
            "addresses: [10.1.7.0/24]",
            "addresses: [10.1.0.0/16]",
            &[(Change::Refused, "web", db, 443, "shop/inbound.deny/not-from-the-guests")],
        ),
        (
            "[198.51.100.80]",
            "[198.51.100.81]",
            &[
                (Change::Refused, "web", "198.51.100.80", 443, "egress-refused"),
                (Change::Admitted, "web", "198.51.100.81", 443, "shop/outbound.plaintext/payments"),
            ],
        ),
        ("  audit: true", "  # audit: true", &[(Change::Refused, "cache", orders, 6379, "try-out/inbound.allow")]),
        ("ports: [6379]", "ports: [6380]", &[(Change::Exposed, "cache", orders, 6379, "port-not-taken")]),
        ("agent: 192.0.2.7 ", "#", &[]),
    ];
    for (old, new, expected) in cases {
        let impact = Impact::of(seen(), &with(old, new)).unwrap();
        assert_eq!(changed(&impact), expected, "{old} -> {new}");
    }
}

#[test]
fn what_is_alike_is_counted_together() {
    let impact = Impact::of(seen(), &with("", "")).unwrap();
    assert_eq!(impact.unchanged, Sum { pairs: 5, connections: 12, open: 6 });
    let both: Vec<_> = impact.pairs.iter().filter(|pair| pair.addresses.len() == 2).collect();
    assert!(both.len() == 1 && both[0].connections == 4 && both[0].between.port == 443, "{both:?}");
    // Its rule is under audit.
    assert_eq!(impact.audited, Sum { pairs: 1, connections: 2, open: 1 });

    let impact = Impact::of(seen(), &with("addresses: [10.1.7.0/24]", "addresses: [10.1.0.0/16]")).unwrap();
    assert_eq!(impact.refused, Sum { pairs: 1, connections: 2, open: 1 });
    assert_eq!(impact.pairs[0].addresses, ["10.1.0.9".parse().unwrap()].into());
    assert_eq!(impact.unchanged, Sum { pairs: 5, connections: 10, open: 5 });
}

#[test]
fn the_text_says_what_by_which_rule_and_what_is_missing() {
    let mut seen = seen();
    (seen.forgotten, seen.departures_are_full) = (7, true);
    seen.workloads.pop();
    let text = Impact::of(seen, &with("[198.51.100.80]", "[198.51.100.81]")).unwrap().text().unwrap();
    for part in [
        "Would be refused:\n\nSOURCE  DESTINATION    PORT  CONNECTIONS  OPEN  LAST SEEN  NOW",
        "web     198.51.100.80  443   2            1     now        plaintext (shop/outbound.plaintext/payments)  \
         refused (egress-refused)\n",
        "Are refused now, and would pass:\n",
        "\nALL TOGETHER                     PAIRS  CONNECTIONS  OPEN\n\
         would be refused                 1      2            1\n\
         would not be encrypted any more  0      0            0\n\
         are refused now, and would pass  1      2            1\n\
         go on, or are refused as before  3      8            4\n\
         would pass only under audit      1      2            1\n\nSeen since 1970-01-01T00:00:00Z.\n",
        "Nothing was seen of workloads that are not enrolled now: cache.\n",
        "This is not all: connections of up to 7 pairs had to be forgotten",
        "some may be forgotten.\n",
    ] {
        assert!(text.contains(part), "{part}\nnot in:\n{text}");
    }
    assert!(!text.contains("not be encrypted any more:"), "{text}");
    let whole = Impact::of(self::seen(), &with("", "")).unwrap().text().unwrap();
    assert!(!whole.contains("Nothing was seen") && !whole.contains("not be all"), "{whole}");
}

#[test]
fn an_agent_of_another_version_is_not_believed() {
    let mut seen = seen();
    seen.sightings[0].direction = "sideways".to_owned();
    assert!(Impact::of(seen, &with("", "")).is_err());
}
