//! Keys, gate and open records on loopback pairs. Where the kernel has no TLS, what needs it is checked as far as that
//! is refused; the suites run the rest on every kernel that has it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::SockRef;

use super::super::attach;
use super::*;
use crate::kernel::netns::tests::new_namespace;

const SUITES: [(CipherSuite, usize); 3] = [
    (CipherSuite::TLS13_AES_128_GCM_SHA256, 16),
    (CipherSuite::TLS13_AES_256_GCM_SHA384, 32),
    (CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, 32),
];
const OCTETS: [u8; 32] = [7; 32];

#[test]
fn a_key_must_fit_its_suite() {
    for (suite, length) in SUITES {
        for wrong in [0, length - 1, 24] {
            assert!(Key { suite, key: &OCTETS[..wrong], iv: &[0; 12] }.secrets().is_err(), "{suite:?} {wrong}");
        }
        assert!(Key { suite, key: &OCTETS[..length], iv: &[0; 12] }.secrets().is_ok(), "{suite:?}");
    }
    let foreign = CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256;
    assert!(Key { suite: foreign, key: &OCTETS[..16], iv: &[0; 12] }.secrets().is_err());
}

#[test]
fn a_nonce_begins_with_the_salt() {
    let iv = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
    assert_eq!(split(&iv), ([0, 1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11]));
}

#[test]
fn queues_are_counted() {
    let (application, mut peer) = pair();
    assert_eq!((unsent(&application).unwrap(), unread(&application).unwrap()), (0, 0));
    peer.write_all(b"four").unwrap();
    application.peek(&mut [0; 4]).unwrap();
    assert_eq!(unread(&application).unwrap(), 4);
}

#[test]
fn the_gate_is_shut_where_the_namespace_says_so() {
    let namespace = new_namespace();
    namespace.set_notsent_lowat(0).unwrap();
    let (mut application, mut peer) = namespace.enter(|| Ok(pair())).unwrap();
    application.set_nonblocking(true).unwrap();
    set_write_gate(&peer, u32::MAX).unwrap();
    assert_eq!(application.write(b"no").unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(unsent(&application).unwrap(), 0);
    set_write_gate(&application, u32::MAX).unwrap();
    application.write_all(b"yes").unwrap();
    peer.read_exact(&mut [0; 3]).unwrap();

    set_write_gate(&application, 0).unwrap();
    assert_eq!(application.write(b"no").unwrap_err().kind(), io::ErrorKind::WouldBlock);
    namespace.set_notsent_lowat(u32::MAX).unwrap();
    application.write_all(b"yes").unwrap();
}

#[test]
fn both_directions_and_open_records() {
    for (suite, length) in SUITES {
        let (application, mut peer) = pair();
        if let Err(error) = attach(&application) {
            assert!(error.cause.is_ktls_unsupported(), "{error:?}");
            eprintln!("this kernel has no TLS: not tested here");
            return;
        }
        attach(&peer).unwrap();
        let [forth, back] =
            [[1; 12], [2; 12]].map(|iv| Key { suite, key: &OCTETS[..length], iv: &*Box::leak(Box::new(iv)) });
        send_with(&application, &forth).unwrap();
        receive_with(&application, &back).unwrap();
        send_with(&peer, &back).unwrap();
        receive_with(&peer, &forth).unwrap();

        peer.write_all(b"back").unwrap();
        let mut buffer = [0; 16];
        assert_eq!((&application).read(&mut buffer).unwrap(), 4, "{suite:?}");
        assert_eq!(&buffer[..4], b"back");
        // Nothing is open: nothing is sent.
        flush_open_record(&application).unwrap();
        assert_eq!(SockRef::from(&application).send_with_flags(b"forth", libc::MSG_MORE).unwrap(), 5);
        assert_eq!(peer.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock, "{suite:?}");
        flush_open_record(&application).unwrap();
        assert_eq!(peer.read(&mut buffer).unwrap(), 5, "{suite:?}");
        assert_eq!(&buffer[..5], b"forth");
        // The socket goes on as usual.
        (&application).write_all(b"on").unwrap();
        assert_eq!(peer.read(&mut buffer).unwrap(), 2, "{suite:?}");
    }
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _address) = listener.accept().unwrap();
    peer.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    (socket, peer)
}
