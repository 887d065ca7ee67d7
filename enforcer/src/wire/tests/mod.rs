//! What is taken for mutual TLS 1.3 on the wire, and what is not.

pub(crate) mod build;
mod handshakes;
mod losses;

use super::*;
use build::{FIN, RST, Wire, client_hello, data, ends, record, server_hello};

const MARKER: &[u8] = b"enforcer-verify-0123";

/// A relayed connection, both ways, in order.
fn relayed() -> Wire {
    let mut wire = Wire::opened();
    wire.sends(Side::Client, &client_hello())
        .sends(Side::Server, &[server_hello(Some(0x0304), 0x1301), record(20, &[1]), data(900)].concat())
        .sends(Side::Client, &[record(20, &[1]), data(80), data(60)].concat())
        .sends(Side::Server, &data(50));
    wire
}

/// A direct connection.
fn direct() -> Wire {
    let mut wire = Wire::opened();
    wire.sends(Side::Client, &data(60)).sends(Side::Server, &data(50));
    wire
}

fn judged(wire: &Wire, opened: Opened) -> Judgement {
    judge(&wire.packets, &Question { ends: ends(), opened, marker: MARKER })
}

/// The findings, with whose octets they are and where.
fn found(wire: &Wire) -> Vec<(Code, Option<Side>, Option<usize>)> {
    let judgement = judged(wire, Opened::During);
    judgement.findings.iter().map(|finding| (finding.code, finding.side, finding.offset)).collect()
}

fn codes(wire: &Wire) -> Vec<Code> {
    found(wire).into_iter().map(|(code, _, _)| code).collect()
}

#[test]
fn a_relayed_connection_is_records_from_the_first_octet_to_the_last() {
    let judgement = judged(relayed().ends(), Opened::During);
    assert_eq!(judgement.findings, []);
    assert_eq!(judgement.opening, Some(Opening::Handshake));
    let agreed = Agreed { cipher: "TLS13_AES_128_GCM_SHA256".into(), group: Some("X25519".into()) };
    assert_eq!(judgement.agreed, Some(agreed));
    let records = Records { handshake: 1, change_cipher_spec: 1, alert: 0, application_data: 2, encrypted_octets: 140 };
    assert_eq!(judgement.client.records, records);
    assert_eq!((judgement.client.packets, judgement.server.packets), (4, 5));
    assert!(judgement.has_records_both_ways() && judgement.has_ended());
}

#[test]
fn a_direct_connection_is_encrypted_records_alone() {
    let judgement = judged(direct().ends(), Opened::During);
    assert_eq!(judgement.findings, []);
    assert_eq!((judgement.opening, judgement.agreed), (Some(Opening::Data), None));
    for (content, body) in [(21, &[1, 0][..]), (22, &[1, 0, 0, 0]), (20, &[1])] {
        let at = data(60).len();
        let wire = direct().sends(Side::Client, &record(content, body)).clone();
        assert_eq!(found(&wire), [(Code::NotTls13, Some(Side::Client), Some(at))], "{content}");
    }
}

#[test]
fn plaintext_is_found_wherever_it_is() {
    let mut plain = Wire::opened();
    plain.sends(Side::Client, b"GET / HTTP/1.1\r\n\r\n").sends(Side::Server, b"HTTP/1.1 200 OK\r\n");
    let everywhere = [Side::Client, Side::Server].map(|side| (Code::NotTls, Some(side), Some(0)));
    assert_eq!(found(&plain), everywhere);
    let shown = judged(&plain, Opened::During).findings.remove(0);
    assert!(shown.octets.starts_with(b"GET / "), "{shown:?}");

    // One octet between two records, and one at the end.
    let between = direct().sends(Side::Client, b"x").sends(Side::Client, &data(40)).clone();
    assert_eq!(found(&between), [(Code::NotTls, Some(Side::Client), Some(65))]);
    let behind = relayed().sends(Side::Server, b"x").ends().clone();
    assert_eq!(codes(&behind), [Code::NotTls]);
    let mut other = Wire::opened();
    other.sends(Side::Client, b"SSH-2.0-OpenSSH_9.2\r\n").sends(Side::Server, b"SSH-2.0-OpenSSH_9.2\r\n");
    assert_eq!(codes(&other), [Code::NotTls, Code::NotTls]);
}

#[test]
fn what_was_sent_is_found_in_a_packet_and_across_packets() {
    let mut hidden = data(17);
    hidden.splice(5.., [&[0; 20][..], MARKER].concat());
    hidden[4] = 40;
    let whole = direct().sends(Side::Client, &hidden).clone();
    assert_eq!(found(&whole), [(Code::MarkerSeen, None, None)]);

    let mut split = direct();
    split.sends(Side::Client, &hidden[..30]).sends(Side::Client, &hidden[30..]);
    assert_eq!(found(&split), [(Code::MarkerSeen, Some(Side::Client), Some(90))]);

    // On another connection, which is not judged otherwise.
    let mut elsewhere = direct();
    let mut packet = whole.packets.last().unwrap().clone();
    packet.octets[20] = 1;
    elsewhere.packets.push(packet);
    assert_eq!(found(&elsewhere), [(Code::MarkerSeen, None, None)]);
}

#[test]
fn payload_where_tcp_has_none_is_found() {
    let reset = direct().flagged(Side::Server, RST, b"go away").clone();
    assert_eq!(found(&reset), [(Code::OutsideOfStream, Some(Side::Server), None)]);
    let behind = direct().flagged(Side::Client, FIN, b"").sends(Side::Client, b"more").clone();
    assert_eq!(codes(&behind), [Code::OutsideOfStream]);
    let before = direct().sends_at(Side::Client, u32::MAX - 1, b"ab").clone();
    assert_eq!(codes(&before), [Code::OutsideOfStream]);
    // With the first packet (RFC 7413).
    let mut early = Wire::default();
    early.flagged(Side::Client, build::SYN, b"early").sends_at(Side::Server, 0, &data(40));
    assert!(codes(&early).contains(&Code::NotTls), "{:?}", codes(&early));
}

#[test]
fn a_reset_is_an_end() {
    let judgement = judged(direct().flagged(Side::Client, RST, b""), Opened::During);
    assert!(judgement.has_ended() && judgement.findings.is_empty());
}

#[test]
fn nothing_is_not_taken_for_something() {
    assert_eq!(codes(&Wire::default()), [Code::Nothing, Code::Nothing]);
    assert_eq!(codes(Wire::opened().ends()), [Code::Nothing, Code::Nothing]);
    let refused = Wire::opened().flagged(Side::Server, RST, b"").clone();
    assert_eq!(codes(&refused), [Code::Nothing, Code::Nothing]);
    let one_way = Wire::opened().sends(Side::Client, &data(40)).clone();
    assert_eq!(found(&one_way), [(Code::Nothing, Some(Side::Server), Some(0))]);
    assert!(!judged(&one_way, Opened::During).has_records_both_ways());
}

#[test]
fn weights_are_what_answers_are_made_of() {
    assert!(Weight::Disproves > Weight::LeavesOpen);
    assert_eq!(Code::NotTls.weight(), Weight::Disproves);
    assert_eq!(Code::Gap.weight(), Weight::LeavesOpen);
}
