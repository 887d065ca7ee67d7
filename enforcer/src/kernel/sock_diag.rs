//! What all questions about sockets have in common (sock_diag(7)): where they are asked, and how answers are read.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::netns::Namespace;

/// Of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;

/// A socket on which the kernel answers questions about the sockets of a namespace.
///
/// # Errors
///
/// The operating system's.
pub(super) fn open(namespace: &Namespace) -> io::Result<OwnedFd> {
    let (family, protocol) = (AddressFamily::Netlink, SockProtocol::NetlinkSockDiag);
    namespace.enter(|| Ok(socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?))
}

/// Where the value of the first attribute of this kind is; the attributes begin at `at`.
pub(super) fn attribute(octets: &[u8], mut at: usize, wanted: u16) -> Option<usize> {
    // Each attribute has its own length in front, and begins at a multiple of four.
    while let (Some(length @ 4..), Some(kind)) = (short(octets, at), short(octets, at + 2)) {
        if kind == wanted {
            return Some(at + 4);
        }
        at += usize::from(length).next_multiple_of(4);
    }
    None
}

/// Two octets, in the machine's order.
pub(super) fn short(octets: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(octets.get(at..at + 2)?.try_into().ok()?))
}

/// Four octets, in the machine's order.
pub(super) fn number(octets: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(octets.get(at..at + 4)?.try_into().ok()?))
}
