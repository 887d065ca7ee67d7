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

/// Value in the peer trie: connections to and from these addresses are taken to the agent.
pub const PEER_RELAY: u32 = 1;
/// Value in the peer trie: as [`PEER_RELAY`], but where the workload can too, the connection is direct.
pub const PEER_DIRECT: u32 = 2;
/// Value in the peer trie: as [`PEER_RELAY`], and known to speak plaintext.
pub const PEER_PLAINTEXT: u32 = 3;

/// Value of a taken port: inbound connections are handed to the agent.
pub const PORT_RELAY: u32 = 1;
/// Value of a taken port: those of peers that can do it are direct, the others are handed to the agent.
pub const PORT_DIRECT: u32 = 2;
/// Value of every port ([`PortKey::port`] 0) where only some are taken: the others are left alone. A namespace has this or a
/// value that takes every port; where it has none, nothing is let in.
pub const PORT_FREE: u32 = 3;

/// [`Gate::state`]: no payload may leave or arrive.
pub const GATE_HELD: u32 = 1;
/// [`Gate::state`]: this end has its keys, so records may arrive; nothing may leave yet.
pub const GATE_KEYED: u32 = 2;
/// [`Gate::state`]: both ends have their keys.
pub const GATE_OPEN: u32 = 3;
/// [`Gate::state`]: there was no room to hold it, or it was about to leave in the clear; the agent destroys the socket.
pub const GATE_REFUSED: u32 = 4;
/// [`Held::stage`]: `connect` has begun.
pub const STAGE_CONNECTING: u32 = 1;
/// [`Held::stage`]: the TCP handshake is over. A connection that was opened to the workload waits for `accept`.
pub const STAGE_ESTABLISHED: u32 = 2;
/// [`Held::stage`]: the workload has accepted it.
pub const STAGE_ACCEPTED: u32 = 3;
/// [`Held::stage`]: the workload has closed it before it had keys: its end may pass.
pub const STAGE_ENDED: u32 = 4;

/// [`Event::kind`]: a workload's `connect` has succeeded, and the socket is held.
pub const EVENT_CONNECTED: u32 = 1;
/// [`Event::kind`]: a workload has accepted a held connection.
pub const EVENT_ACCEPTED: u32 = 2;
/// [`Event::kind`]: a held or direct connection is over.
pub const EVENT_CLOSED: u32 = 3;
/// [`Event::kind`]: a connection found no room in the hold table, and has to be destroyed.
pub const EVENT_REFUSED: u32 = 4;

/// [`Event::kind`]: a thread receives from a direct connection as if it were plain TCP.
pub const EVENT_LATE: u32 = 6;
/// [`Event::kind`]: a direct connection has sent [`MANY_OCTETS`] more.
pub const EVENT_SENT_MUCH: u32 = 5;

/// Octets after which the agent looks whether the key of a direct connection goes on.
pub const MANY_OCTETS: u64 = 1 << 28;

/// Octets that a direct connection may have waiting to leave, unless its application wants fewer: enough to keep the
/// network busy until the application is there again, as for TCP_NOTSENT_LOWAT in general.
pub const UNSENT_LIMIT: u32 = 1 << 17;

/// TCP_NOTSENT_LOWAT with which the agent gives an open socket what its application wants, or what is usual. Whoever else
/// sets it does the same.
pub const AS_WANTED: u32 = 0xe4f0_7ce5;

/// Threads that are known to be inside a call on one socket.
pub const CALLERS: usize = 16;

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
    /// Not 0 when its connections to peers that can do it are direct.
    pub direct: u32,
    /// Not 0 when a program of it has lost data on a direct connection: for the next agent.
    pub loses_the_end: u32,
    /// The number of its rules for what is outside the mesh: see [`crate::EgressKey`].
    pub egress: u32,
    /// What becomes of protocols other than TCP and UDP: one of the `EGRESS_` numbers.
    pub others: u32,
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

/// Where `struct inet_connection_sock` has `icsk_ulp_data`, the record layer's own.
pub const OFFSET_ULP_DATA: u32 = 0;
/// Where that, a `struct tls_context`, has `pending_open_record_frags`.
pub const OFFSET_OPEN_RECORD: u32 = 1;
/// How many of these there are.
pub const OFFSETS: u32 = 2;

/// The first payload that left an open gate was a TLS record.
pub const SEEN_RECORD: u32 = 1;
/// The workload closed the socket while a record was open, which the kernel then dropped.
pub const SEEN_CUT: u32 = 2;

/// With one of these in it, a value can be overwritten where it is, and is not made anew. The kernel knows it by its
/// name, and lets nobody read or write it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct bpf_spin_lock {
    val: u32,
}

/// The gate of one socket, kept in its own storage. Programs make it, the agent overwrites it when the state goes on, and
/// programs shut it for good and keep count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Gate {
    /// One of the `GATE_` numbers.
    pub state: u32,
    /// The number of the descriptor with which the workload called `connect`; -1: not known.
    pub descriptor: i32,
    /// Process (thread group) that called `connect`; 0: not known.
    pub process: u32,
    /// The `SEEN_` numbers of what programs have seen, added up.
    pub seen: u32,
    /// Id of the workload's cgroup, of a connection that it opens; else 0.
    pub cgroup: u64,
    /// Octets of packets that have left since the gate was opened. Programs count.
    pub octets: u64,
    /// Of an open gate: how many octets the application may have written that have not left, before it has to wait.
    pub limit: u32,
    /// SO_SNDBUF as the application is to see it, octets; 0: as it is.
    pub buffer: u32,
    /// For the kernel, when the agent overwrites the rest.
    pub lock: bpf_spin_lock,
    /// Zero.
    pub reserved: u32,
}

impl Gate {
    /// A gate in this state, of which nothing else is known.
    #[must_use]
    pub const fn new(state: u32) -> Self {
        Self {
            state,
            descriptor: -1,
            process: 0,
            seen: 0,
            cgroup: 0,
            octets: 0,
            limit: UNSENT_LIMIT,
            buffer: 0,
            lock: bpf_spin_lock { val: 0 },
            reserved: 0,
        }
    }
}

/// A connection in the hold table, by the cookie of the workload's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Held {
    /// SO_NETNS_COOKIE.
    pub netns: u64,
    /// Id of the workload's cgroup, of a connection that it opens; else 0.
    pub cgroup: u64,
    /// The end that opened the connection.
    pub source: Endpoint,
    /// The end that it was opened to.
    pub destination: Endpoint,
    /// [`DIRECTION_OUTBOUND`] or [`DIRECTION_INBOUND`].
    pub direction: u32,
    /// One of the `STAGE_` numbers.
    pub stage: u32,
    /// Process (thread group) that holds the socket; 0: not known.
    pub process: u32,
    /// Its descriptor there; -1: not known.
    pub descriptor: i32,
}

/// What programs tell the agent through the ring buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// Cookie of the workload's socket (SO_COOKIE).
    pub cookie: u64,
    /// One of the `EVENT_` numbers.
    pub kind: u32,
    /// The gate's `SEEN_` numbers, of a direct connection that is over; else 0.
    pub seen: u32,
    /// As in the hold table. Of a direct connection that is over: zeros.
    pub held: Held,
    /// Octets that the peer has acknowledged, of a connection that is over; [`EVENT_SENT_MUCH`]: the gate's
    /// count; [`EVENT_LATE`]: the thread's id.
    pub sent: u64,
    /// Octets received in order, of a connection that is over.
    pub received: u64,
}

impl Event {
    /// Whether it may be read a little later: an open connection is over, for which nobody waits.
    #[must_use]
    pub const fn can_wait(&self) -> bool {
        self.kind == EVENT_CLOSED && self.held.netns == 0
    }
}

/// Threads that entered a call on a socket while it was held, kept in the socket's storage. Written by programs alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Callers {
    /// Thread ids; 0: free.
    pub threads: [u64; CALLERS],
    /// 1 when a thread found no free slot.
    pub overflow: u64,
}

/// Octets for an identity in [`Live`]; a longer one is relayed.
pub const IDENTITY: usize = 256;

/// Octets of a certificate's serial number (RFC 5280 4.1.2.2).
pub const SERIAL: usize = 20;

/// A direct connection, by the cookie of the workload's socket. Written by the agent, removed with the socket.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Live {
    /// SO_NETNS_COOKIE.
    pub netns: u64,
    /// Number of the offer in its pair session.
    pub offer: u64,
    /// When it was opened, seconds since 1970.
    pub opened: u64,
    /// When the first of both certificates ends, seconds since 1970.
    pub expires: u64,
    /// The end that opened the connection.
    pub source: Endpoint,
    /// The end that it was opened to.
    pub destination: Endpoint,
    /// [`DIRECTION_OUTBOUND`] or [`DIRECTION_INBOUND`].
    pub direction: u32,
    /// TLS cipher suite, its number in the IANA registry.
    pub cipher: u32,
    /// Identity of the workload, padded with zeros.
    pub local: [u8; IDENTITY],
    /// Identity of the peer, padded with zeros.
    pub peer: [u8; IDENTITY],
    /// Serial number of the workload's certificate, which proves its identity here: big-endian, padded with zeros.
    pub local_serial: [u8; SERIAL],
    /// The same of the peer's certificate.
    pub peer_serial: [u8; SERIAL],
}

// No implicit padding: the sizes are the sums of the fields. The kernel hashes every byte of a key.
const _: () = {
    assert!(size_of::<Endpoint>() == 20);
    assert!(size_of::<Redirect>() == 40);
    assert!(size_of::<FlowKey>() == 16);
    assert!(size_of::<SourceKey>() == 32);
    assert!(size_of::<WorkloadValue>() == 24);
    assert!(size_of::<Gate>() == 48);
    assert!(size_of::<Held>() == 72);
    assert!(size_of::<Event>() == 104);
    assert!(size_of::<Callers>() == 136);
    assert!(size_of::<Live>() == 80 + 2 * IDENTITY + 2 * SERIAL);
    assert!(size_of::<PortKey>() == 16);
    assert!(size_of::<ListenerKey>() == 16);
};

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya asks for the promise that a type is plain data; the asserts above are the proof")]
mod pod {
    use super::{
        Callers, Endpoint, Event, FlowKey, Gate, Held, ListenerKey, Live, PortKey, Redirect, SourceKey, WorkloadValue,
    };

    macro_rules! pod {
        ($($name:ty),+) => {
            $(
                // SAFETY: `repr(C)`, only integers and arrays of them, no padding, any bit pattern is valid.
                unsafe impl aya::Pod for $name {}
            )+
        };
    }

    pod!(Callers, Endpoint, Event, FlowKey, Gate, Held, ListenerKey, Live, PortKey, Redirect, SourceKey, WorkloadValue);
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
