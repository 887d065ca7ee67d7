//! The addresses of a network namespace, and when they change (rtnetlink(7)): what is sent there does not leave it.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, recv, socket,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::netns::Namespace;

/// `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR` in linux/rtnetlink.h.
const GROUPS: u32 = 0x10 | 0x100;
/// Octets of messages that are read at once. What they say does not matter.
const MESSAGES: usize = 8192;

/// Tells of changes of a namespace's addresses.
#[derive(Debug)]
pub struct AddressChanges(AsyncFd<OwnedFd>);

impl AddressChanges {
    /// From now on.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub fn of(namespace: &Namespace) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = namespace.enter(|| {
            let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
            Ok(socket)
        })?;
        // SAFETY: it owns the descriptor, which stays the same and open until it is dropped.
        let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        Ok(Self(registered?))
    }

    /// Returns when there was a change since this was last called.
    ///
    /// # Errors
    ///
    /// The operating system's, which has no reason for any.
    pub async fn next(&self) -> io::Result<()> {
        let mut messages = [0; MESSAGES];
        loop {
            let mut ready = self.0.readable().await?;
            let read = |socket: &AsyncFd<OwnedFd>| {
                match recv(socket.as_raw_fd(), &mut messages, MsgFlags::MSG_DONTWAIT) {
                    // There were more than the socket could keep: there was a change.
                    Ok(_) | Err(Errno::ENOBUFS) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            };
            if let Ok(read) = ready.try_io(read) {
                return read;
            }
        }
    }
}

/// The addresses that a namespace has now, without those of the loopback.
///
/// # Errors
///
/// The operating system's.
pub fn addresses(namespace: &Namespace) -> io::Result<Vec<IpAddr>> {
    let found = namespace.enter(|| Ok(getifaddrs()?.filter_map(|interface| interface.address).collect::<Vec<_>>()))?;
    Ok(found.iter().filter_map(ip).filter(|address| !address.is_loopback()).collect())
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}
