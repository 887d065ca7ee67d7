//! Capturing packets of chosen connections in a network namespace: a packet socket (packet(7)) with a filter.
//!
//! Nothing is captured before the filter is in place. Packets begin with the header of IP, whatever the device; those of
//! loopback devices are left out. What segmentation offload makes longer than the wire takes is captured as it is. A
//! packet that the socket has no room for is counted, so whoever reads knows that something is missing.

mod filter;

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, SystemTime};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;

use super::netns::Namespace;

/// Connections at once that every kernel takes: a filter for one of IPv6 is 4 KiB there, and 20 KiB were the most until
/// Linux 6.7.
pub const MOST: usize = 4;
/// Octets that wait to be read, with what the kernel needs for them.
const ROOM: usize = 32 << 20;
/// Longer than any packet, segmentation offload included: GRO and GSO make up to 512 KiB of them (Linux 6.3).
const LONGEST: usize = 1 << 20;
/// How long [`Packets::next`] waits.
const PATIENCE: Duration = Duration::from_millis(20);

/// Between which addresses packets are captured, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Between {
    /// One end; `None`: whoever it is.
    pub one: Option<SocketAddr>,
    /// The other end.
    pub other: SocketAddr,
}

/// A captured packet.
#[derive(Clone, Debug)]
pub struct Captured {
    /// When it was read, since 1970.
    pub at: Duration,
    /// Its length; more than there are octets if it was longer than can be captured.
    pub length: usize,
    /// The packet, from the header of IP on.
    pub octets: Vec<u8>,
}

/// A capture that runs.
#[derive(Debug)]
pub struct Packets {
    socket: OwnedFd,
    buffer: Vec<u8>,
    lost: u64,
}

impl Packets {
    /// Begins to capture inside a namespace.
    ///
    /// # Errors
    ///
    /// `EPERM` without CAP_NET_RAW there; `ENOMEM` for more than [`MOST`] connections, where `net.core.optmem_max` does
    /// not let a filter be that long.
    pub fn capture(namespace: &Namespace, connections: &[Between]) -> io::Result<Self> {
        // With protocol 0 nothing is captured until `bind`.
        let open = || Ok(socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?);
        let mut packets = Self { socket: namespace.enter(open)?, buffer: vec![0; LONGEST], lost: 0 };
        packets.only(connections)?;
        setsockopt(&packets.socket, sockopt::RcvBufForce, &ROOM)?;
        let patience = TimeVal::new(0, PATIENCE.subsec_micros().into());
        setsockopt(&packets.socket, sockopt::ReceiveTimeout, &patience)?;
        packets.bind()?;
        Ok(packets)
    }

    /// From now on captures these alone. What waits to be read stays.
    ///
    /// # Errors
    ///
    /// As for [`Self::capture`].
    pub fn only(&mut self, connections: &[Between]) -> io::Result<()> {
        let mut program = filter::program(connections);
        let length = u16::try_from(program.len()).map_err(|_too_long| io::ErrorKind::InvalidInput)?;
        let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
        // SAFETY: the pointer is to a program of the length that it says, and lives until the call returns.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const program).cast(),
                size_of_socklen::<libc::sock_fprog>(),
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// On all devices of the namespace, in both directions.
    fn bind(&self) -> io::Result<()> {
        // SAFETY: all zeros are a valid `sockaddr_ll`.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
        address.sll_protocol = u16::try_from(libc::ETH_P_ALL).unwrap_or_default().to_be();
        // SAFETY: the pointer is to an address of the length that is said.
        let result = unsafe {
            libc::bind(self.socket.as_raw_fd(), (&raw const address).cast(), size_of_socklen::<libc::sockaddr_ll>())
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The next packet; `None` when there was none for 20 ms.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub fn read(&mut self) -> io::Result<Option<Captured>> {
        match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC).map_err(io::Error::from) {
            Ok(length) => {
                let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                let octets = self.buffer[..length.min(LONGEST)].to_vec();
                Ok(Some(Captured { at, length, octets }))
            }
            // A device has gone down or up; the others go on.
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => Ok(None),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How many packets there was no room for, since the beginning.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub fn lost(&mut self) -> io::Result<u64> {
        let mut counts = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = size_of_socklen::<libc::tpacket_stats>();
        // SAFETY: the pointers are to live counters and their length; the kernel writes at most that many octets.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut counts).cast(),
                &raw mut length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // Asking sets them to 0.
        self.lost += u64::from(counts.tp_drops);
        Ok(self.lost)
    }
}

/// The length of a type, as the kernel wants it.
fn size_of_socklen<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
