//! Ending a connection from outside: SOCK_DESTROY, as `ss -K` does it. And asking whether it is accepted.
//!
//! The kernel finds the socket by its addresses, as it would for a packet, and then compares the cookie: so no other
//! socket is ever hit, however often addresses are used again. The application's calls fail with ECONNABORTED, and
//! the peer gets RST.
//!
//! The kernel waits for the socket's lock, which a hostile application can hold for long (see `ktls`): nothing for a
//! thread that others wait for. Needs CAP_NET_ADMIN, and CONFIG_INET_DIAG_DESTROY, which Debian's kernels have.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::sys::socket::{MsgFlags, recv, send};

use super::netns::Namespace;
use super::sock_diag::{self, HEADER, number, short};
use super::socket::cookie;

/// A cookie of these is any cookie (INET_DIAG_NOCOOKIE).
const ANY: u64 = u64::MAX;

/// What became of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destroyed {
    /// It is dead.
    Destroyed,
    /// There is none with these addresses and this cookie: it has gone by itself.
    NotFound,
}

/// Destroys TCP sockets of one network namespace.
#[derive(Debug)]
pub struct Destroyer {
    namespace: Namespace,
    /// Locked from a request to its answer.
    netlink: Mutex<OwnedFd>,
}

impl Destroyer {
    /// For the sockets of a namespace.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub fn open(namespace: &Namespace) -> io::Result<Self> {
        let netlink = Mutex::new(sock_diag::open(namespace)?);
        Ok(Self { namespace: namespace.try_clone()?, netlink })
    }

    /// Destroys the socket with this cookie; `connection` is its own address and its peer's. Addresses of an IPv6
    /// socket may be v4-mapped.
    ///
    /// The kernel looks only among sockets that are bound to no interface, or to the one that is named. An application
    /// can bind a connected socket to one and would escape, so all interfaces of the namespace are tried.
    ///
    /// # Errors
    ///
    /// The operating system's: `EPERM`, or `EOPNOTSUPP` when this kernel cannot destroy. A kernel without `tcp_diag`
    /// finds nothing: see [`probe`]. `EINVAL` for a cookie that no socket has.
    pub fn destroy(&self, connection: (SocketAddr, SocketAddr), cookie: u64) -> io::Result<Destroyed> {
        if cookie == ANY {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let scope = match connection.1 {
            SocketAddr::V6(address) => address.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        if self.try_destroy(connection, cookie, scope)? == Destroyed::Destroyed {
            return Ok(Destroyed::Destroyed);
        }
        for interface in self.namespace.enter(interfaces)? {
            if interface != scope && self.try_destroy(connection, cookie, interface)? == Destroyed::Destroyed {
                return Ok(Destroyed::Destroyed);
            }
        }
        Ok(Destroyed::NotFound)
    }

    /// The cookie of the socket of a connection, if a process has accepted it; `connection` is as for
    /// [`Self::destroy`]. One that is bound to an interface is not found.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub fn accepted(&self, connection: (SocketAddr, SocketAddr)) -> io::Result<Option<u64>> {
        let mut answer = [0; ANSWER];
        let answer = self.ask(&request(LOOK, connection, ANY, 0), &mut answer)?;
        match error_of(answer) {
            None => Ok(cookie_of_accepted(answer)),
            Some(error) if error == -libc::ENOENT => Ok(None),
            Some(error) => Err(io::Error::from_raw_os_error(-error)),
        }
    }

    fn ask<'a>(&self, request: &[u8], answer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let netlink = self.netlink.lock().unwrap_or_else(PoisonError::into_inner);
        let descriptor = netlink.as_fd().as_raw_fd();
        send(descriptor, request, MsgFlags::empty())?;
        // The kernel has answered before `send` returns.
        let length = recv(descriptor, answer, MsgFlags::MSG_DONTWAIT)?;
        Ok(&answer[..length])
    }

    fn try_destroy(&self, connection: (SocketAddr, SocketAddr), cookie: u64, interface: u32) -> io::Result<Destroyed> {
        let mut answer = [0; ANSWER];
        match error_of(self.ask(&request(DESTROY, connection, cookie, interface), &mut answer)?) {
            Some(0) => Ok(Destroyed::Destroyed),
            Some(error) if error == -libc::ENOENT => Ok(Destroyed::NotFound),
            Some(error) => Err(io::Error::from_raw_os_error(-error)),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "no answer of netlink")),
        }
    }
}

/// Finds out whether sockets can be destroyed here, by destroying one of our own on the loopback.
///
/// # Errors
///
/// The kernel's answer.
pub fn probe() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let socket = TcpStream::connect(listener.local_addr()?)?;
    let destroyer = Destroyer::open(&Namespace::open(Path::new("/proc/thread-self/ns/net"))?)?;
    match destroyer.destroy((socket.local_addr()?, socket.peer_addr()?), cookie(&socket)?)? {
        Destroyed::Destroyed => Ok(()),
        Destroyed::NotFound => Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel has no tcp_diag")),
    }
}

/// A `struct nlmsghdr` and a `struct inet_diag_req_v2`.
const REQUEST: usize = 16 + 56;
/// Room for a `struct nlmsghdr` and an error number with the request that it answers, or what is told of a socket.
const ANSWER: usize = 512;

/// A kind of request, SOCK_DESTROY, and its flags, NLM_F_REQUEST and NLM_F_ACK.
const DESTROY: (u16, u16) = (21, 0x1 | 0x4);
/// SOCK_DIAG_BY_FAMILY, and NLM_F_REQUEST.
const LOOK: (u16, u16) = (20, 0x1);

fn request(
    (kind, flags): (u16, u16),
    connection: (SocketAddr, SocketAddr),
    cookie: u64,
    interface: u32,
) -> [u8; REQUEST] {
    // Of linux/socket.h and linux/in.h, in the sizes of the fields.
    const INET: u8 = 2;
    const INET6: u8 = 10;
    const TCP: u8 = 6;
    const LENGTH: u32 = 16 + 56;
    let (local, remote) = (plain(connection.0), plain(connection.1));
    let family = if local.is_ipv4() && remote.is_ipv4() { INET } else { INET6 };
    let mut message = Message { octets: [0; REQUEST], length: 0 };
    message.put(LENGTH.to_ne_bytes());
    message.put(kind.to_ne_bytes());
    message.put(flags.to_ne_bytes());
    // Sequence number and port: there is never more than one request under way.
    message.put([0; 8]);
    message.put([family, TCP, 0, 0]);
    // States: for dumps only.
    message.put([0; 4]);
    message.put(connection.0.port().to_be_bytes());
    message.put(connection.1.port().to_be_bytes());
    message.put(sixteen(local));
    message.put(sixteen(remote));
    message.put(interface.to_ne_bytes());
    // Two numbers, the lower half first.
    let [a, b, c, d, e, f, g, h] = cookie.to_le_bytes();
    message.put(u32::from_le_bytes([a, b, c, d]).to_ne_bytes());
    message.put(u32::from_le_bytes([e, f, g, h]).to_ne_bytes());
    message.octets
}

struct Message {
    octets: [u8; REQUEST],
    length: usize,
}

impl Message {
    fn put<const N: usize>(&mut self, field: [u8; N]) {
        self.octets[self.length..][..N].copy_from_slice(&field);
        self.length += N;
    }
}

/// An IPv6 socket with v4-mapped addresses is found as an IPv4 one: that is how its packets come.
fn plain(address: SocketAddr) -> IpAddr {
    address.ip().to_canonical()
}

fn sixteen(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(address) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&address.octets());
            octets
        }
    }
}

/// The error number of an answer: 0, or negative.
fn error_of(answer: &[u8]) -> Option<i32> {
    let (kind, error) = (short(answer, 4)?, number(answer, HEADER)?.cast_signed());
    (i32::from(kind) == libc::NLMSG_ERROR).then_some(error)
}

/// Of a `struct inet_diag_msg` behind a `struct nlmsghdr`, whose inode is 0 until the socket is accepted. Where there is
/// no such connection the kernel tells of the socket that listens.
fn cookie_of_accepted(answer: &[u8]) -> Option<u64> {
    const STATE: usize = 16 + 1;
    const LISTEN: u8 = 10;
    const COOKIE: usize = 16 + 4 + 40;
    const INODE: usize = COOKIE + 8 + 16;
    let number = |at| number(answer, at);
    let (low, high, inode) = (number(COOKIE)?, number(COOKIE + 4)?, number(INODE)?);
    (inode != 0 && answer[STATE] != LISTEN).then_some(u64::from(high) << 32 | u64::from(low))
}

/// The numbers of the network interfaces that this thread sees.
fn interfaces() -> io::Result<Vec<u32>> {
    // SAFETY: takes nothing; the list is ours until it is freed.
    let list = unsafe { libc::if_nameindex() };
    if list.is_null() {
        return Err(io::Error::last_os_error());
    }
    let mut numbers = Vec::new();
    for index in 0.. {
        // SAFETY: the list ends with an entry of number 0, and nothing behind it is read.
        let entry = unsafe { list.add(index) };
        // SAFETY: as above; the entry is initialised.
        let number = unsafe { (*entry).if_index };
        if number == 0 {
            break;
        }
        numbers.push(number);
    }
    // SAFETY: from if_nameindex, and not used any more.
    unsafe { libc::if_freenameindex(list) };
    Ok(numbers)
}

/// Any octets as an answer about a TCP socket.
#[cfg(fuzzing)]
pub(super) fn fuzz(answer: &[u8]) {
    let _answer = (error_of(answer), cookie_of_accepted(answer));
}

#[cfg(test)]
mod tests;
