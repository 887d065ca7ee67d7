//! The TCP connections that there are in a network namespace, with the cgroups that have them (sock_diag(7)).
//!
//! The kernel is asked for all of them at once, so this is for people who ask, and for nothing that happens often.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, recv, send};

use super::netns::Namespace;
use super::sock_diag::{self, HEADER, attribute, number, short};

/// Of linux/socket.h, in the size of the field.
const INET: u8 = 2;
/// The same.
const INET6: u8 = 10;
/// Of `struct inet_diag_msg`.
const ABOUT: usize = 72;
/// What the kernel hands out at once is half as much at most.
const ROOM: usize = 1 << 16;

/// A connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connected {
    /// Id of the cgroup that its socket was made in.
    pub cgroup: u64,
    /// The other end.
    pub remote: SocketAddr,
}

/// Tells of each connection that is established here and not closed by its application.
///
/// # Errors
///
/// The operating system's. A kernel without `tcp_diag` tells of none.
pub fn connected(namespace: &Namespace, mut tell: impl FnMut(Connected)) -> io::Result<()> {
    let netlink = sock_diag::open(namespace)?;
    let mut answer = vec![0; ROOM];
    for family in [INET, INET6] {
        send(netlink.as_raw_fd(), &request(family), MsgFlags::empty())?;
        loop {
            let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
            if read(&answer[..length], &mut tell)? == Answer::Over {
                break;
            }
        }
    }
    Ok(())
}

/// A `struct nlmsghdr` and a `struct inet_diag_req_v2`.
fn request(family: u8) -> Vec<u8> {
    const LENGTH: u32 = 16 + 56;
    // SOCK_DIAG_BY_FAMILY, and NLM_F_REQUEST with NLM_F_DUMP.
    const KIND: u16 = 20;
    const FLAGS: u16 = 0x1 | 0x300;
    const TCP: u8 = 6;
    // ESTABLISHED and CLOSE_WAIT.
    const STATES: u32 = 1 << 1 | 1 << 8;
    let mut request = [
        &LENGTH.to_ne_bytes()[..],
        &KIND.to_ne_bytes(),
        &FLAGS.to_ne_bytes(),
        // Sequence number and port: there is never more than one request under way.
        &[0; 8],
        &[family, TCP, 0, 0],
        &STATES.to_ne_bytes(),
    ]
    .concat();
    // No socket is meant.
    request.resize(LENGTH as usize, 0);
    request
}

/// Whether there is more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    GoesOn,
    Over,
}

/// A part of the answer: any number of messages.
fn read(mut part: &[u8], tell: &mut impl FnMut(Connected)) -> io::Result<Answer> {
    const DONE: i32 = 3;
    // Each message has its own length in front, and begins at a multiple of four.
    while let Some(length) = number(part, 0).and_then(|length| usize::try_from(length).ok()) {
        let message = part.get(..length).filter(|message| message.len() >= HEADER).ok_or(io::ErrorKind::InvalidData)?;
        match i32::from(short(message, 4).unwrap_or_default()) {
            DONE => return Ok(Answer::Over),
            libc::NLMSG_ERROR => {
                let error = number(message, HEADER).ok_or(io::ErrorKind::InvalidData)?.cast_signed();
                // Without `tcp_diag` there is nobody who would answer.
                let is_absent = error == -libc::ENOENT;
                return if is_absent {
                    Ok(Answer::Over)
                } else {
                    Err(io::Error::from_raw_os_error(error.saturating_neg()))
                };
            }
            _ => message.get(HEADER..).and_then(one).into_iter().for_each(&mut *tell),
        }
        part = part.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Answer::GoesOn)
}

/// Of a `struct inet_diag_msg` and its attributes. `None`: the kernel does not say whose it is.
fn one(message: &[u8]) -> Option<Connected> {
    const PORT: usize = 4 + 2;
    const ADDRESS: usize = 4 + 4 + 16;
    const CGROUP: u16 = 21;
    let address: [u8; 16] = message.get(ADDRESS..ADDRESS + 16)?.try_into().ok()?;
    let address = match (message.first().copied()?, address) {
        (INET, [a, b, c, d, ..]) => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        _ => Ipv6Addr::from(address).to_canonical(),
    };
    let remote = SocketAddr::new(address, u16::from_be_bytes(message.get(PORT..PORT + 2)?.try_into().ok()?));
    let at = attribute(message, ABOUT, CGROUP)?;
    Some(Connected { cgroup: u64::from_ne_bytes(message.get(at..at + 8)?.try_into().ok()?), remote })
}

/// Any octets as a part of an answer.
#[cfg(fuzzing)]
pub(super) fn fuzz(part: &[u8]) {
    let _read = (read(part, &mut drop), one(part));
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::kernel::cgroup::ids_of;
    use crate::kernel::netns::tests::new_namespace;

    #[test]
    fn tells_of_open_connections_and_whose_they_are() {
        let namespace = new_namespace();
        let (listener, client) = namespace
            .enter(|| {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
                let client = TcpStream::connect(listener.local_addr()?)?;
                Ok((listener, client))
            })
            .unwrap();
        let (server, source) = listener.accept().unwrap();
        let found = || {
            let mut found = Vec::new();
            connected(&namespace, |one| found.push(one)).unwrap();
            found.sort_by_key(|one| one.remote.port() == source.port());
            found
        };
        let cgroup = ids_of(std::process::id()).unwrap()[0];
        let expected = [listener.local_addr().unwrap(), source].map(|remote| Connected { cgroup, remote });
        assert_eq!(found(), expected);

        drop((client, server));
        assert_eq!(found(), []);
    }

    #[test]
    fn what_is_no_answer_is_an_error_and_ends() {
        let mut none = |one| panic!("{one:?}");
        assert_eq!(read(&[], &mut none).unwrap(), Answer::GoesOn);
        for length in [0_u32, 3, 15, 17, u32::MAX] {
            let part = [&length.to_ne_bytes()[..], &[20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
            assert_eq!(read(&part, &mut none).unwrap_err().kind(), io::ErrorKind::InvalidData, "{length}");
        }
        assert_eq!(one(&[0; ABOUT]), None, "it does not say whose it is");
        assert_eq!(one(&[255; 20]), None);
    }
}
