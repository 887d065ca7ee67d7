//! When it is proved, and what keeps it from being so.

use super::*;
use crate::cli::verify::{show, subject};
use crate::wire::Side;
use crate::wire::tests::build::{Wire, client_hello, data, ends, record, server_hello};

const TEXT: &str = "enforcer-verify-0123456789";

fn about() -> Subject {
    subject::tests::subject("web", "db:80").unwrap()
}

fn relayed() -> Wire {
    let mut wire = Wire::opened();
    wire.sends(Side::Client, &client_hello())
        .sends(Side::Server, &[server_hello(Some(0x0304), 0x1301), record(20, &[1]), data(900)].concat())
        .sends(Side::Client, &[record(20, &[1]), data(80), data(60)].concat())
        .sends(Side::Server, &data(50))
        .ends();
    wire
}

fn direct() -> Wire {
    let mut wire = Wire::opened();
    wire.sends(Side::Client, &data(60)).sends(Side::Server, &data(50)).ends();
    wire
}

/// What the agent says of such a connection.
fn report(path: &str) -> ConnectionReport {
    let json = serde_json::json!({
        "id": 7, "direction": "outbound", "workload": "web",
        "local": "spiffe://example.org/ns/default/sa/web", "peer": "spiffe://example.org/ns/default/sa/db",
        "source": ends().client, "destination": ends().server,
        "path": path, "reason": "peer-enrolled",
        "cipher": "TLS13_AES_128_GCM_SHA256", "group": "X25519",
        "local_serial": "0a", "peer_serial": "0b", "offload": if path == "direct" { "kernel" } else { "relay-cheaper" },
        "to_peer": 0, "from_peer": 0, "age_seconds": 0.5,
    });
    serde_json::from_value(json).unwrap()
}

fn observed(wire: Wire, report: ConnectionReport) -> Observation {
    let steps = vec![Step::Connected(ends().client), Step::Sent(TEXT.len()), Step::Answered(9)];
    let (ends, report, text) = (Some(ends()), Some(report), TEXT.to_owned());
    Observation { packets: wire.packets, ends, report, steps, text, ..Observation::default() }
}

fn verdict(observation: &Observation) -> (Verdict, Vec<&'static str>) {
    let subject = about();
    let answer = conclude(&subject, observation);
    assert!(serde_json::to_string(&answer).is_ok());
    assert!(show::text(&answer).is_ok());
    (answer.verdict, answer.reasons.iter().map(|reason| reason.code).collect())
}

#[test]
fn what_both_show_and_say_alike_is_proved() {
    assert_eq!(verdict(&observed(relayed(), report("relay"))), (Verdict::Proved, vec![]));
    assert_eq!(verdict(&observed(direct(), report("direct"))), (Verdict::Proved, vec![]));
    // A relay whose other end may be direct.
    let keyed = ConnectionReport { offload: Some("kernel".into()), ..report("relay") };
    assert_eq!(verdict(&observed(direct(), keyed)), (Verdict::Proved, vec![]));

    let (subject, observation) = (about(), observed(relayed(), report("relay")));
    let text = show::text(&conclude(&subject, &observation)).unwrap();
    for part in [
        "PROVED: web and db speak mutual TLS 1.3; nothing of it is in the clear.\n",
        "10.0.0.1:40000 -> 10.0.0.2:80 (opened to verify it)",
        "outbound, relay (peer-enrolled)",
        "db            spiffe://example.org/ns/default/sa/db, certificate 0b",
        "X25519",
        "agent, wire",
        "web -> db     ",
        "1 handshake, 1 change_cipher_spec, 2 application_data",
    ] {
        assert!(text.contains(part), "{part} not in:\n{text}");
    }
}

#[test]
fn what_the_agent_says_and_the_wire_does_not_show_is_disproved() {
    let contradiction = (Verdict::Disproved, vec!["contradiction"]);
    assert_eq!(verdict(&observed(relayed(), report("direct"))), contradiction);
    assert_eq!(verdict(&observed(direct(), report("relay"))), contradiction);
    let cipher = ConnectionReport { cipher: Some("TLS13_AES_256_GCM_SHA384".into()), ..report("relay") };
    assert_eq!(verdict(&observed(relayed(), cipher)), contradiction);
    let group = ConnectionReport { group: Some("X25519MLKEM768".into()), ..report("relay") };
    assert_eq!(verdict(&observed(relayed(), group)), contradiction);

    let mut plain = Wire::opened();
    plain.sends(Side::Client, TEXT.as_bytes()).sends(Side::Server, b"HTTP/1.1 400 Bad Request\r\n").ends();
    let (found, codes) = verdict(&observed(plain.clone(), report("relay")));
    assert_eq!((found, codes), (Verdict::Disproved, vec!["marker-seen", "not-tls", "not-tls", "contradiction"]));
    let says_so = ConnectionReport { peer: None, ..report("plain") };
    let (found, codes) = verdict(&observed(plain.clone(), says_so));
    assert_eq!(found, Verdict::Disproved);
    assert!(codes.contains(&"in-the-clear") && !codes.contains(&"contradiction"), "{codes:?}");

    let (subject, observation) = (about(), observed(plain, report("relay")));
    let text = show::text(&conclude(&subject, &observation)).unwrap();
    assert!(text.contains("db -> web, octet 0: no TLS record begins here"), "{text}");
    assert!(text.contains("48 54 54 50 2f") && text.contains("|HTTP/1.1 400 Bad"), "{text}");
}

#[test]
fn somebody_else_is_disproved() {
    let somebody = "spiffe://example.org/ns/default/sa/else".to_owned();
    let peer = ConnectionReport { peer: Some(somebody.clone()), ..report("relay") };
    assert_eq!(verdict(&observed(relayed(), peer)), (Verdict::Disproved, vec!["wrong-identity"]));
    let local = ConnectionReport { local: somebody, ..report("direct") };
    assert_eq!(verdict(&observed(direct(), local)), (Verdict::Disproved, vec!["wrong-identity"]));
    assert_eq!(verdict(&observed(relayed(), report("public"))), (Verdict::Disproved, vec!["no-identity"]));
}

#[test]
fn two_records_of_one_connection_must_agree() {
    let other = |peer_serial: &str| {
        let (own, peer) = (report("relay").local, report("relay").peer.unwrap());
        let local_serial = Some("0b".into());
        let (peer_serial, direction) = (Some(peer_serial.to_owned()), "inbound".into());
        Some(ConnectionReport { local: peer, peer: Some(own), local_serial, peer_serial, direction, ..report("relay") })
    };
    let alike = Observation { other_end: other("0a"), ..observed(relayed(), report("relay")) };
    assert_eq!(verdict(&alike), (Verdict::Proved, vec![]));
    let differs = Observation { other_end: other("0c"), ..observed(relayed(), report("relay")) };
    assert_eq!(verdict(&differs), (Verdict::Disproved, vec!["contradiction"]));
}

#[test]
fn what_is_missing_leaves_it_open() {
    let complete = || observed(relayed(), report("relay"));
    let no_serial = ConnectionReport { local_serial: None, ..report("relay") };
    let no_cipher = ConnectionReport { cipher: None, ..report("relay") };
    let nobody = ConnectionReport { peer: None, peer_serial: None, ..report("relay") };
    let failed = vec![Step::Failed("connect to 10.0.0.2:80: refused".into())];
    for (observation, expected) in [
        (Observation { report: None, ..complete() }, vec!["agent-silent"]),
        (Observation { lost: 1, ..complete() }, vec!["packets-lost"]),
        (Observation { is_full: true, ..complete() }, vec!["capture-full"]),
        (observed(relayed(), no_serial), vec!["no-certificate"]),
        (observed(relayed(), no_cipher), vec!["no-cipher"]),
        (observed(relayed(), nobody), vec!["no-identity"]),
        (observed(relayed(), report("refused")), vec!["not-carried"]),
        (observed(relayed(), ConnectionReport { path: None, ..report("relay") }), vec!["not-decided"]),
        (
            Observation { steps: failed, report: None, ends: None, ..complete() },
            vec!["connection-failed", "agent-silent"],
        ),
        (Observation { text: "x".repeat(200), ..complete() }, vec!["not-sent-here"]),
        (Observation { candidates: Some(0), ..Observation::default() }, vec!["no-connection"]),
        (Observation { candidates: Some(3), packets: Vec::new(), ..complete() }, vec!["idle", "nothing", "nothing"]),
    ] {
        assert_eq!(verdict(&observation), (Verdict::NotProved, expected));
    }
    let mut silent = Wire::opened();
    silent.sends(Side::Client, &data(60)).ends();
    let observation = Observation { steps: vec![Step::Silence], ..observed(silent, report("direct")) };
    assert_eq!(verdict(&observation), (Verdict::NotProved, vec!["no-answer", "nothing"]));
}

#[test]
fn an_open_connection_is_named_from_its_own_side() {
    let inbound = ConnectionReport { direction: "inbound".into(), ..report("direct") };
    let observation = Observation { candidates: Some(1), text: String::new(), ..observed(direct(), inbound) };
    let subject = about();
    let text = show::text(&conclude(&subject, &observation)).unwrap();
    assert!(text.contains("(open already)") && text.contains("db -> web     65 octets"), "{text}");
}
