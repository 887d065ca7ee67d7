//! Keys and values of the maps. Addresses are always 16 bytes in network order, IPv4 as v4-mapped (RFC 4291
//! 2.5.5.2); ports are in host order.

use core::mem::size_of;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};

/// [`ListenerKey::direction`]: connections that the workload opens.
pub const DIRECTION_OUTBOUND: u32 = 0;
/// [`ListenerKey::direction`]: connections that somebody opens to the workload.
pub const DIRECTION_INBOUND: u32 = 1;

/// Length of a whole address in the peer trie, bits. An IPv4 prefix of `n` bits is one of `96 + n` here.
pub const PEER_KEY_BITS: u32 = 128;

/// Slots of the refusal counters: one for every number a [`crate::Reason`] may have.
pub const REASONS: u32 = 128;

/// An address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Endpoint {
    /// Network order; IPv4 as v4-mapped.
    pub address: [u8; 16],
    /// Host order.
    pub port: u32,
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        let octets = match address.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        Self { address: octets, port: u32::from(address.port()) }
    }
}

impl From<Endpoint> for SocketAddr {
    /// The port is cut to its 16 bits: the programs never write more.
    fn from(endpoint: Endpoint) -> Self {
        let port = (endpoint.port & 0xffff) as u16;
        Self::new(Ipv6Addr::from(endpoint.address).to_canonical(), port)
    }
}

/// What `connect` was asked for before the program sent it to the agent. Kept in the socket's own storage, and for
/// the agent under the [`FlowKey`] by which it sees the accepted connection.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Redirect {
    /// Id of the workload's cgroup.
    pub cgroup: u64,
    /// Cookie of the application's socket (SO_COOKIE).
    pub cookie: u64,
    /// Where the application wanted to go.
    pub destination: Endpoint,
    /// IP version on the way to the agent, 4 or 6: an IPv6 socket may be connected to a v4-mapped address.
    pub version: u32,
}

/// How the agent finds a redirected connection: it sees the source port of what it accepted.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FlowKey {
    /// SO_NETNS_COOKIE.
    pub netns: u64,
    /// Source port, host order.
    pub port: u32,
    /// 4 or 6.
    pub version: u32,
}

/// The agent's own end of a connection to the application, under which the true client is kept.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SourceKey {
    /// SO_NETNS_COOKIE.
    pub netns: u64,
    /// The address that the application's kernel sees.
    pub source: Endpoint,
    /// Zero.
    pub reserved: u32,
}

/// Where the agent listens for a workload. Keyed by the id of its cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct WorkloadValue {
    /// Port on 127.0.0.1 inside the workload's namespace, host order; 0: none.
    pub port_v4: u32,
    /// Port on ::1 inside the workload's namespace, host order; 0: none.
    pub port_v6: u32,
}

/// A port on which connections to a workload are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PortKey {
    /// SO_NETNS_COOKIE.
    pub netns: u64,
    /// Host order; 0: every port.
    pub port: u32,
    /// Zero.
    pub reserved: u32,
}

/// One of the agent's listeners.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ListenerKey {
    /// SO_NETNS_COOKIE.
    pub netns: u64,
    /// 4 or 6.
    pub version: u32,
    /// [`DIRECTION_OUTBOUND`] or [`DIRECTION_INBOUND`].
    pub direction: u32,
}

// No implicit padding: the sizes are the sums of the fields. The kernel hashes every byte of a key.
const _: () = {
    assert!(size_of::<Endpoint>() == 20);
    assert!(size_of::<Redirect>() == 40);
    assert!(size_of::<FlowKey>() == 16);
    assert!(size_of::<SourceKey>() == 32);
    assert!(size_of::<WorkloadValue>() == 8);
    assert!(size_of::<PortKey>() == 16);
    assert!(size_of::<ListenerKey>() == 16);
};

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya asks for the promise that a type is plain data; the asserts above are the proof")]
mod pod {
    use super::{Endpoint, FlowKey, ListenerKey, PortKey, Redirect, SourceKey, WorkloadValue};

    macro_rules! pod {
        ($($name:ty),+) => {
            $(
                // SAFETY: `repr(C)`, only integers and arrays of them, no padding, any bit pattern is valid.
                unsafe impl aya::Pod for $name {}
            )+
        };
    }

    pod!(Endpoint, FlowKey, ListenerKey, PortKey, Redirect, SourceKey, WorkloadValue);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_round_trip_and_v4_is_mapped() {
        for text in ["10.0.0.1:80", "[fd00::1]:65535", "0.0.0.0:0"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(SocketAddr::from(Endpoint::from(address)), address);
        }
        let endpoint = Endpoint::from("10.1.2.3:4".parse::<SocketAddr>().unwrap());
        assert_eq!(endpoint.address, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 2, 3]);
    }
}
