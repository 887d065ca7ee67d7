//! Which socket is at the other end of a Unix socket (sock_diag(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::{MsgFlags, recv, send};
use nix::sys::stat::fstat;

use crate::kernel::netns::Namespace;
use crate::kernel::sock_diag::{self, HEADER, attribute, number, short};
use crate::kernel::socket::cookie;

/// Of `struct unix_diag_msg`.
const ABOUT: usize = 16;

/// The inode of the socket that this one is connected to. The kernel looks for this one only in the network namespace of
/// who asks, so that is asked in its own.
pub(super) fn peer(connected: &impl AsFd) -> io::Result<u32> {
    let netlink = sock_diag::open(&Namespace::of_socket(connected)?)?;
    let inode = u32::try_from(fstat(connected)?.st_ino).map_err(io::Error::other)?;
    let request = request(inode, cookie(&connected.as_fd())?);
    send(netlink.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut answer = [0; 512];
    // The kernel has answered before `send` returns.
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
    read(&answer[..length])
}

/// A `struct nlmsghdr` and a `struct unix_diag_req`.
fn request(inode: u32, cookie: u64) -> Vec<u8> {
    const LENGTH: u32 = 16 + 24;
    // SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, AF_UNIX, UDIAG_SHOW_PEER.
    const KIND: u16 = 20;
    const FLAGS: u16 = 1;
    const UNIX: u8 = 1;
    const SHOW_PEER: u32 = 4;
    let [a, b, c, d, e, f, g, h] = cookie.to_le_bytes();
    [
        &LENGTH.to_ne_bytes()[..],
        &KIND.to_ne_bytes(),
        &FLAGS.to_ne_bytes(),
        // Sequence number and port: there is never more than one request under way.
        &[0; 8],
        &[UNIX, 0, 0, 0],
        // States: any.
        &u32::MAX.to_ne_bytes(),
        &inode.to_ne_bytes(),
        &SHOW_PEER.to_ne_bytes(),
        // Two numbers, the lower half first.
        &u32::from_le_bytes([a, b, c, d]).to_ne_bytes(),
        &u32::from_le_bytes([e, f, g, h]).to_ne_bytes(),
    ]
    .concat()
}

/// The attribute UNIX_DIAG_PEER of an answer.
pub(super) fn read(answer: &[u8]) -> io::Result<u32> {
    const PEER: u16 = 2;
    let kind = short(answer, 4).ok_or(io::ErrorKind::InvalidData)?;
    if i32::from(kind) == libc::NLMSG_ERROR {
        let error = number(answer, HEADER).ok_or(io::ErrorKind::InvalidData)?;
        return Err(io::Error::from_raw_os_error(error.cast_signed().saturating_neg()));
    }
    match attribute(answer, HEADER + ABOUT, PEER) {
        Some(at) => number(answer, at).ok_or_else(|| io::ErrorKind::InvalidData.into()),
        None => Err(io::Error::new(io::ErrorKind::NotConnected, "the socket has no other end")),
    }
}
