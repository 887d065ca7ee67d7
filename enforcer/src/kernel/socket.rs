//! TCP sockets of the relay: made inside a workload's namespace, with bounded buffers, never blocking, and closing
//! with RST unless they are told otherwise. Also what the sockets between two agents need, and the numbers by which the
//! kernel knows any socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::ktls::set_write_gate;
use super::netns::Namespace;

/// SO_RCVBUF and SO_SNDBUF towards a peer, bytes. The kernel allows itself twice as much. Without a bound it grows
/// the buffers of one stalled connection to 22 MB.
pub const PEER_BUFFER: usize = 512 * 1024;
/// SO_RCVBUF and SO_SNDBUF towards the application on the loopback, bytes.
pub const APPLICATION_BUFFER: usize = 256 * 1024;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// On which end of the relay a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Between the agent and the application, on the loopback.
    Application,
    /// Between the nodes.
    Peer,
}

/// Listens on the loopback address of one IP version inside a namespace, on a port that the kernel picks.
///
/// # Errors
///
/// The operating system's; `EADDRNOTAVAIL` where the loopback is down or the version is switched off.
pub fn listen(namespace: &Namespace, version: u32, side: Side) -> io::Result<TcpListener> {
    let (domain, address) = match version {
        4 => (Domain::IPV4, IpAddr::V4(Ipv4Addr::LOCALHOST)),
        _ => (Domain::IPV6, IpAddr::V6(Ipv6Addr::LOCALHOST)),
    };
    let socket = namespace.enter(|| Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP)))?;
    // Accepted sockets inherit all of this.
    prepare(&socket, side)?;
    // They have the application's port: without this the application could not listen on it again, after a restart, before
    // the last of them has left TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::new(address, 0).into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Makes a socket inside a namespace, bound to `source` if there is one. Connecting it is the caller's next step,
/// so that the bound port can be made known before the first packet.
///
/// # Errors
///
/// The operating system's: no descriptors left, or the address is not the namespace's.
pub fn open(
    namespace: &Namespace,
    destination: SocketAddr,
    source: Option<IpAddr>,
    side: Side,
) -> io::Result<TcpSocket> {
    let domain = Domain::for_address(destination);
    let socket = namespace.enter(|| Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP)))?;
    prepare(&socket, side)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(TcpSocket::from_std_stream(socket.into()))
}

fn prepare(socket: &Socket, side: Side) -> io::Result<()> {
    let size = match side {
        Side::Application => APPLICATION_BUFFER,
        Side::Peer => PEER_BUFFER,
    };
    // The FORCE options need CAP_NET_ADMIN, which the agent has, and are not cut to net.core.rmem_max.
    setsockopt(socket, sockopt::RcvBufForce, &size)?;
    setsockopt(socket, sockopt::SndBufForce, &size)?;
    socket.set_tcp_nodelay(true)?;
    // Where direct connections are possible a socket is born shut.
    set_write_gate(socket, u32::MAX)?;
    socket.set_linger(Some(Duration::ZERO))?;
    if side == Side::Peer {
        // The application's own keepalive ends at the agent, so the agent looks after the far end.
        socket.set_tcp_keepalive(&keepalive())?;
    }
    Ok(())
}

/// Two minutes of silence end a connection.
fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10)).with_retries(6)
}

/// What the other agent may leave unacknowledged. The kernel measures silence by this too once it is set, and takes
/// the whole number of probes for it only if it is longer than they take: less would end idle sessions for the loss of
/// one probe.
const SESSION_UNANSWERED: Duration = Duration::from_secs(90);

/// Makes a connection between two agents notice when the other one is gone, and send small messages at once.
///
/// # Errors
///
/// The operating system's; the connection is dead then.
pub fn prepare_session(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive())?;
    socket.set_tcp_user_timeout(Some(SESSION_UNANSWERED))
}

/// What has come and is not read yet, as much of it as there is room for. It stays there.
///
/// # Errors
///
/// The operating system's; `WouldBlock`, when there is nothing.
pub fn peek(stream: &TcpStream, into: &mut [u8]) -> io::Result<usize> {
    Ok(recv(stream.as_raw_fd(), into, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)?)
}

/// Lets the socket close with FIN. Relay sockets are made to close with RST, however they come to their end, even
/// when the agent is killed: the other end must not take what it got for the whole. Only a connection that both
/// sides have ended is closed in order.
pub fn close_in_order(stream: &TcpStream) {
    // On an error the socket is dead already.
    let _closed = SockRef::from(stream).set_linger(None);
}

/// Whether the socket's own direction has ended: its FIN is sent, or waits to be.
///
/// # Errors
///
/// The operating system's.
pub fn has_shut_down(socket: &impl AsFd) -> io::Result<bool> {
    /// TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_LAST_ACK and TCP_CLOSING of net/tcp_states.h.
    const ENDED: [u8; 4] = [4, 5, 9, 11];
    let (mut state, mut length) = (0_u8, 1);
    // SAFETY: the pointers are to a live octet and its length; `struct tcp_info` begins with the state, and the kernel
    // writes at most as many octets as it is told.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut state).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(ENDED.contains(&state)) } else { Err(io::Error::last_os_error()) }
}

/// SO_NETNS_COOKIE (Linux 5.14) of the namespace in which the socket was made.
///
/// # Errors
///
/// The operating system's: `ENOPROTOOPT` on older kernels.
pub fn netns_cookie(socket: &impl AsRawFd) -> io::Result<u64> {
    number(socket, libc::SO_NETNS_COOKIE)
}

/// SO_COOKIE: the number by which programs know the socket, unique until the machine restarts.
///
/// # Errors
///
/// The operating system's: `ENOTSOCK` for a descriptor of something else.
pub fn cookie(socket: &impl AsRawFd) -> io::Result<u64> {
    number(socket, libc::SO_COOKIE)
}

/// An option of SOL_SOCKET that is a u64.
fn number(socket: &impl AsRawFd, option: libc::c_int) -> io::Result<u64> {
    /// Of a u64.
    const LENGTH: libc::socklen_t = 8;
    let (mut value, mut length) = (0_u64, LENGTH);
    // SAFETY: the pointers are to a live u64 and its length; the kernel writes at most that many bytes.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw mut value).cast(), &raw mut length)
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}
