//! Handshakes as TLS 1.3 has them, and others.

use super::build::{Wire, client_hello, data, message, record, server_hello, server_hello_body};
use super::*;

/// The random of a HelloRetryRequest begins and ends with this (RFC 8446 4.1.3).
fn retry() -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"HelloRetryRequest");
    digest.as_ref().try_into().unwrap()
}

/// A connection of which the server says this behind a ClientHello.
fn answered(server: &[Vec<u8>]) -> Wire {
    let mut wire = Wire::opened();
    wire.sends(Side::Client, &client_hello()).sends(Side::Server, &server.concat());
    wire
}

#[test]
fn a_server_that_selects_anything_else_is_not_tls_13() {
    let fine = server_hello(Some(0x0304), 0x1302);
    assert_eq!(codes(&answered(&[fine.clone(), data(100)])), []);
    for (version, suite) in [(None, 0xc02f), (Some(0x0303), 0xc02f), (Some(0x0304), 0xc02f), (None, 0x1301)] {
        let wire = answered(&[server_hello(version, suite), data(100)]);
        assert_eq!(found(&wire), [(Code::NotTls13, Some(Side::Server), Some(0))], "{version:?} {suite:#x}");
    }
    // A certificate in the clear, as TLS 1.2 sends it.
    let certificate = record(22, &message(11, &[0; 300]));
    assert_eq!(
        found(&answered(&[fine.clone(), certificate])),
        [(Code::NotTls13, Some(Side::Server), Some(fine.len()))]
    );
    // In the same record.
    let both = [message(2, &server_hello_body([1; 32], Some(0x0304), 0x1301)), message(11, &[0; 30])].concat();
    assert_eq!(codes(&answered(&[record(22, &both)])), [Code::NotTls13]);
}

#[test]
fn a_hello_may_be_asked_for_again_once() {
    let request = record(22, &message(2, &server_hello_body(retry(), Some(0x0304), 0x1301)));
    let second = record(22, &message(1, &[0x55; 300]));
    let mut wire = answered(&[request.clone(), record(20, &[1])]);
    wire.sends(Side::Client, &[record(20, &[1]), second.clone()].concat())
        .sends(Side::Server, &[server_hello(Some(0x0304), 0x1301), data(500)].concat())
        .sends(Side::Client, &data(60));
    assert_eq!(codes(&wire), []);
    assert_eq!(judged(&wire, Opened::During).client.records.handshake, 2);

    let mut thrice = wire.clone();
    thrice.sends(Side::Client, &second);
    assert_eq!(codes(&thrice), [Code::NotTls13]);
    // A request settles no keys.
    assert_eq!(codes(&answered(&[request, data(500)])), [Code::NotTls13]);
}

#[test]
fn messages_may_be_in_several_records() {
    let hello = message(2, &server_hello_body([1; 32], Some(0x0304), 0x1303));
    let wire = answered(&[record(22, &hello[..3]), record(22, &hello[3..40]), record(22, &hello[40..]), data(40)]);
    assert_eq!(codes(&wire), []);
    assert_eq!(judged(&wire, Opened::During).agreed.unwrap().cipher, "TLS13_CHACHA20_POLY1305_SHA256");
    let cut = answered(&[record(22, &hello[..40]), data(40)]);
    assert_eq!(codes(&cut), [Code::NotTls13]);
}

#[test]
fn records_that_no_peer_of_tls_13_sends_are_found() {
    let hello = server_hello(Some(0x0304), 0x1301);
    let mut old = data(40);
    old[2] = 1;
    let wrong = [
        record(23, &[0; 16]),
        data(16_641),
        record(22, &[]),
        record(20, &[2]),
        record(20, &[1, 1]),
        old,
        record(24, &[0; 40]),
    ];
    for record in wrong {
        let wire = answered(&[hello.clone(), record.clone(), data(40)]);
        let found = codes(&wire);
        assert!(found == [Code::NotTls13] || found == [Code::NotTls], "{found:?} {:?}", &record[..5]);
    }
    let changes = answered(&[hello, record(20, &[1]), record(20, &[1]), record(20, &[1]), data(40)]);
    assert_eq!(codes(&changes), [Code::NotTls13]);
}

#[test]
fn a_handshake_that_is_given_up_proves_nothing() {
    let wire = answered(&[record(21, &[2, 70])]);
    assert_eq!(found(&wire), [(Code::Refused, Some(Side::Server), Some(0))]);
    assert_eq!(judged(&wire, Opened::During).server.records.alert, 1);
}

#[test]
fn both_ends_must_begin_alike() {
    let mut wire = Wire::opened();
    wire.sends(Side::Client, &client_hello()).sends(Side::Server, &data(40));
    assert_eq!(codes(&wire), [Code::NotTls13]);
}

#[test]
fn no_octets_make_it_panic() {
    let mut octets: Vec<u8> = answered(&[server_hello(Some(0x0304), 0x1301)]).packets.remove(3).octets;
    for at in 0..octets.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let before = std::mem::replace(&mut octets[at], value);
            let mut wire = Wire::opened();
            wire.packets.push(Packet { at: Duration::ZERO, length: octets.len(), octets: octets.clone() });
            wire.sends(Side::Server, &octets);
            for opened in [Opened::During, Opened::Before] {
                let _judged = judged(&wire, opened);
            }
            octets[at] = before;
        }
    }
}
