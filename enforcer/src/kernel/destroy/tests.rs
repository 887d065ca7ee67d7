//! Pairs of connected sockets in a namespace of their own.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::Duration;

use socket2::SockRef;

use super::*;
use crate::kernel::netns::tests::new_namespace;

#[test]
fn destroying_works_here() {
    probe().unwrap();
}

#[test]
fn both_ends_see_it() {
    let namespace = new_namespace();
    let destroyer = Destroyer::open(&namespace).unwrap();
    let mapped = SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 0));
    for address in [(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into(), mapped] {
        let (application, peer) = namespace.enter(|| Ok(pair(address))).unwrap();
        let (connection, ours) = (ends(&application), cookie(&application).unwrap());
        for wrong in [0, ours + 1, ours ^ (1 << 32), cookie(&peer).unwrap()] {
            assert_eq!(destroyer.destroy(connection, wrong).unwrap(), Destroyed::NotFound, "{address}");
        }
        assert!(destroyer.destroy(connection, ANY).is_err());
        (&application).write_all(b"x").unwrap();
        (&peer).read_exact(&mut [0]).unwrap();

        assert_eq!(destroyer.destroy(connection, ours).unwrap(), Destroyed::Destroyed, "{address}");
        assert_eq!((&application).read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionAborted, "{address}");
        assert_eq!((&peer).read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset, "{address}");
        assert_eq!(destroyer.destroy(connection, ours).unwrap(), Destroyed::NotFound, "{address}");
    }
}

/// The addresses of an IPv4 socket in the form in which programs may note them, and the reverse.
#[test]
fn mapped_and_plain_addresses_are_the_same() {
    let namespace = new_namespace();
    let destroyer = Destroyer::open(&namespace).unwrap();
    let map = |address: SocketAddr| match address.ip() {
        IpAddr::V4(v4) => SocketAddr::from((v4.to_ipv6_mapped(), address.port())),
        IpAddr::V6(v6) => SocketAddr::from((v6.to_canonical(), address.port())),
    };
    let mapped = SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 0));
    for address in [(Ipv4Addr::LOCALHOST, 0).into(), mapped] {
        let (application, _peer) = namespace.enter(|| Ok(pair(address))).unwrap();
        let (local, remote) = ends(&application);
        let connection = (map(local), map(remote));
        assert_eq!(destroyer.destroy(connection, cookie(&application).unwrap()).unwrap(), Destroyed::Destroyed);
    }
}

#[test]
fn binding_to_an_interface_is_no_escape() {
    let namespace = new_namespace();
    let destroyer = Destroyer::open(&namespace).unwrap();
    let (application, _peer) = namespace.enter(|| Ok(pair((Ipv4Addr::LOCALHOST, 0).into()))).unwrap();
    SockRef::from(&application).bind_device(Some(b"lo")).unwrap();
    let ours = cookie(&application).unwrap();
    assert_eq!(destroyer.destroy(ends(&application), ours).unwrap(), Destroyed::Destroyed);
}

#[test]
fn other_namespaces_are_not_touched() {
    let (namespace, other) = (new_namespace(), new_namespace());
    let destroyer = Destroyer::open(&other).unwrap();
    let (application, _peer) = namespace.enter(|| Ok(pair((Ipv4Addr::LOCALHOST, 0).into()))).unwrap();
    let ours = cookie(&application).unwrap();
    assert_eq!(destroyer.destroy(ends(&application), ours).unwrap(), Destroyed::NotFound);
}

#[test]
fn a_connection_is_accepted_when_a_process_has_it() {
    let namespace = new_namespace();
    let destroyer = Destroyer::open(&namespace).unwrap();
    for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), (Ipv6Addr::LOCALHOST, 0).into()] {
        let open = || {
            let listener = TcpListener::bind(address)?;
            let client = TcpStream::connect(listener.local_addr()?)?;
            Ok((listener, client))
        };
        let (listener, client) = namespace.enter(open).unwrap();
        let (local, remote) = ends(&client);
        assert_eq!(destroyer.accepted((remote, local)).unwrap(), None, "it waits");
        let (socket, _) = listener.accept().unwrap();
        assert_eq!(destroyer.accepted((remote, local)).unwrap(), Some(cookie(&socket).unwrap()));
        assert_eq!(destroyer.accepted((remote, remote)).unwrap(), None, "there is none");
    }
}

/// With the layout of struct inet_diag_req_v2.
#[test]
fn a_request_is_laid_out_as_the_kernel_reads_it() {
    let local = SocketAddr::from(([192, 0, 2, 1], 0x1234));
    let remote = SocketAddrV6::new(Ipv4Addr::new(192, 0, 2, 2).to_ipv6_mapped(), 443, 0, 0).into();
    let request = request(DESTROY, (local, remote), 0x0102_0304_0506_0708, 7);
    assert_eq!(request[16..20], [2, 6, 0, 0]);
    assert_eq!(request[24..28], [0x12, 0x34, 1, 187]);
    assert_eq!((&request[28..32], &request[44..48]), (&[192, 0, 2, 1][..], &[192, 0, 2, 2][..]));
    assert_eq!(request[60..64], 7_u32.to_ne_bytes());
    assert_eq!((&request[64..68], &request[68..72]), (&[8, 7, 6, 5][..], &[4, 3, 2, 1][..]));
}

fn pair(address: SocketAddr) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(address).unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _address) = listener.accept().unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (socket, peer)
}

fn ends(socket: &TcpStream) -> (SocketAddr, SocketAddr) {
    (socket.local_addr().unwrap(), socket.peer_addr().unwrap())
}
