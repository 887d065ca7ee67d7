//! What TCP and a capture make of a stream.

use super::build::{Wire, data, record};
use super::*;

#[test]
fn order_and_repetition_do_not_matter() {
    let wire = relayed();
    let mut shuffled = wire.clone();
    shuffled.packets.reverse();
    assert_eq!(codes(&shuffled), []);
    let mut twice = wire.clone();
    twice.packets.extend(wire.packets);
    assert_eq!(codes(&twice), []);
    // Cut at other places the second time, and overlapping.
    let mut again = direct();
    again.sends_at(Side::Client, 3, &data(60)[3..40]).sends_at(Side::Client, 60, &[0xaa; 5]);
    assert_eq!(codes(&again), []);
}

#[test]
fn records_may_be_cut_anywhere() {
    let mut wire = Wire::opened();
    let stream = [data(60), data(300), data(17)].concat();
    for octet in &stream {
        wire.sends(Side::Client, &[*octet]);
    }
    wire.sends(Side::Server, &data(20)).ends();
    assert_eq!(codes(&wire), []);
    assert_eq!(judged(&wire, Opened::During).client.records.application_data, 3);
}

#[test]
fn a_gap_is_never_proved() {
    let mut inside = direct();
    inside.misses(Side::Client, 45).sends(Side::Client, &data(40));
    assert_eq!(found(&inside), [(Code::Gap, Some(Side::Client), Some(65))]);
    // At the end: known by what the other side has acknowledged, or by the FIN.
    let mut last = direct();
    last.misses(Side::Client, 45).sends(Side::Server, &data(40));
    assert_eq!(found(&last), [(Code::Gap, Some(Side::Client), Some(65))]);
    let mut fin = direct();
    fin.misses(Side::Server, 45).ends();
    assert_eq!(found(&fin), [(Code::Gap, Some(Side::Server), Some(55))]);
    // Plaintext before a gap is plaintext.
    let mut worse = Wire::opened();
    worse.sends(Side::Client, b"hello").misses(Side::Client, 9).sends(Side::Client, b"x");
    assert!(codes(&worse).contains(&Code::NotTls));
}

#[test]
fn octets_that_are_sent_twice_must_be_the_same() {
    let wire = direct().sends_at(Side::Client, 10, b"hello").clone();
    assert_eq!(found(&wire), [(Code::Conflict, Some(Side::Client), Some(10))]);
}

#[test]
fn a_record_that_is_cut_off_is_not_proved() {
    for cut in [1, 4, 5, 30] {
        let mut wire = direct();
        wire.sends(Side::Server, &data(40)[..cut]).ends();
        assert_eq!(found(&wire), [(Code::Truncated, Some(Side::Server), Some(55))], "{cut}");
    }
    let mut reset = direct();
    reset.sends(Side::Client, &data(40)[..20]).flagged(Side::Server, RST, b"");
    assert_eq!(codes(&reset), [Code::Truncated]);
}

#[test]
fn the_first_packet_must_be_there_where_it_could_be() {
    let mut wire = direct();
    wire.packets.drain(..2);
    assert_eq!(codes(&wire), [Code::BeginningMissed, Code::BeginningMissed]);
    assert!(judged(&wire, Opened::Before).findings.is_empty());
}

#[test]
fn packets_that_cannot_be_read_are_not_proved() {
    let mut wire = direct();
    wire.packets[2].length += 10;
    assert!(codes(&wire).contains(&Code::Unreadable));
}

/// A connection that was open before, from here in its stream.
fn later(client: &[&[u8]]) -> Wire {
    let mut wire = Wire::default();
    wire.misses(Side::Client, 5_000).misses(Side::Server, 7_000);
    for payload in client {
        wire.sends(Side::Client, payload);
    }
    wire.sends(Side::Server, &data(50));
    wire
}

#[test]
fn an_open_connection_is_judged_from_the_first_record_that_begins() {
    let judgement = judged(&later(&[&data(60), &data(70)]), Opened::Before);
    assert_eq!((judgement.findings.len(), judgement.client.skipped), (0, 0));
    assert_eq!(judgement.opening, None);
    assert!(judgement.has_records_both_ways());

    let tail = [0x17; 300];
    let judgement = judged(&later(&[&tail, &data(60), &data(70), &data(80)[..33]]), Opened::Before);
    assert_eq!(judgement.findings, []);
    let seen = (judgement.client.skipped, judgement.client.unfinished, judgement.client.records.application_data);
    assert_eq!(seen, (300, 33, 2));
    // A keep-alive has the number before the next one, and perhaps an octet.
    let mut kept = later(&[&data(60)]);
    kept.sends_at(Side::Client, 4_999, b"");
    assert_eq!(judged(&kept, Opened::Before).findings, []);
}

#[test]
fn plaintext_on_an_open_connection_is_not_taken_for_the_rest_of_a_record() {
    let found = |payloads: &[&[u8]]| {
        let judgement = judged(&later(payloads), Opened::Before);
        judgement.findings.into_iter().map(|finding| finding.code).collect::<Vec<_>>()
    };
    assert_eq!(found(&[b"PING\r\n"]), [Code::NoBoundary]);
    assert_eq!(found(&[&[b'x'; 20_000]]), [Code::NotTls]);
    assert_eq!(found(&[&data(60), b"PING\r\n"]), [Code::NotTls]);
    assert_eq!(found(&[&data(60), &record(21, &[1, 0])]), [Code::NotTls13]);
    assert_eq!(found(&[]), [Code::Nothing]);
}
