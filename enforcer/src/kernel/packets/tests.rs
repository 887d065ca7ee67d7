//! Packets between two namespaces are captured, and only those that were asked for.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::Command;

use super::*;
use crate::kernel::netns::tests::new_namespace;

/// A namespace with a wire to another one, and that one. The addresses are .1 and .2, ::1 and ::2.
fn wired() -> [Namespace; 2] {
    let [one, other] = [new_namespace(), new_namespace()];
    let run = |namespace: &Namespace, arguments: &str| {
        let mut command = Command::new("ip");
        command.args(arguments.split(' '));
        let output = namespace.enter(|| command.output()).unwrap();
        assert!(output.status.success(), "ip {arguments}: {output:?}");
    };
    let there = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsFd::as_fd(&other).as_raw_fd());
    run(&one, &format!("link add wire0 type veth peer name wire0 netns {there}"));
    for (namespace, host) in [(&one, 1), (&other, 2)] {
        for arguments in [
            format!("addr add 10.9.0.{host}/24 dev wire0"),
            format!("addr add fd09::{host}/64 dev wire0 nodad"),
            "link set wire0 up".to_owned(),
            "link set lo up".to_owned(),
        ] {
            run(namespace, &arguments);
        }
    }
    [one, other]
}

/// Sends a line from one namespace to a listener in the other, and back.
fn talk(client: &Namespace, listener: &TcpListener, line: &[u8]) -> SocketAddr {
    let mut stream = client.enter(|| TcpStream::connect(listener.local_addr()?)).unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    stream.write_all(line).unwrap();
    let mut heard = vec![0; line.len()];
    accepted.read_exact(&mut heard).unwrap();
    accepted.write_all(&heard).unwrap();
    stream.read_exact(&mut heard).unwrap();
    stream.local_addr().unwrap()
}

fn read(packets: &mut Packets) -> Vec<Captured> {
    std::iter::from_fn(|| packets.read().unwrap()).collect()
}

fn contain(captured: &[Captured], wanted: &[u8]) -> usize {
    captured.iter().filter(|packet| packet.octets.windows(wanted.len()).any(|window| window == wanted)).count()
}

#[test]
fn both_directions_of_what_was_asked_for_are_captured_and_nothing_else() {
    let [here, there] = wired();
    for address in ["10.9.0.2", "fd09::2"] {
        let address: IpAddr = address.parse().unwrap();
        let listen = || there.enter(|| TcpListener::bind((address, 0))).unwrap();
        let (asked, other) = (listen(), listen());
        let server = asked.local_addr().unwrap();
        let mut packets = Packets::capture(&here, &[Between { one: None, other: server }]).unwrap();
        talk(&here, &other, b"not asked for");
        let client = talk(&here, &asked, b"asked for");
        let captured = read(&mut packets);
        assert_eq!((contain(&captured, b"asked for"), contain(&captured, b"not asked for")), (2, 0), "{address}");
        for packet in &captured {
            assert_eq!(packet.length, packet.octets.len());
            assert_eq!(packet.octets[0] >> 4, if address.is_ipv4() { 4 } else { 6 });
        }

        packets.only(&[Between { one: Some(client), other: server }]).unwrap();
        talk(&here, &asked, b"another port");
        assert_eq!(contain(&read(&mut packets), b"another port"), 0, "{address}");
        assert_eq!(packets.lost().unwrap(), 0);
    }
}

#[test]
fn the_loopback_is_left_out() {
    let [_here, there] = wired();
    let listener = there.enter(|| TcpListener::bind("10.9.0.2:0")).unwrap();
    let server = listener.local_addr().unwrap();
    let mut packets = Packets::capture(&there, &[Between { one: None, other: server }]).unwrap();
    talk(&there, &listener, b"stays inside");
    assert!(read(&mut packets).is_empty());
}

#[test]
fn a_filter_may_have_many_connections() {
    let [here, there] = wired();
    let listener = there.enter(|| TcpListener::bind("[fd09::2]:0")).unwrap();
    let other = |port| SocketAddr::new(IpAddr::from([0xfd09, 0, 0, 0, 0, 0, 0, 2]), port);
    let mut connections: Vec<_> = (1..4).map(|port| Between { one: Some(other(port)), other: other(port) }).collect();
    connections.push(Between { one: None, other: listener.local_addr().unwrap() });
    assert_eq!(connections.len(), MOST);
    let mut packets = Packets::capture(&here, &connections).unwrap();
    talk(&here, &listener, b"the last one");
    assert_eq!(contain(&read(&mut packets), b"the last one"), 2);
}
