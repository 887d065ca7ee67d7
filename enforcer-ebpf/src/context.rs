//! Reading and writing the kernel's context structures.
//!
//! The verifier admits only whole 4-byte accesses to these fields, so every access is volatile: otherwise LLVM
//! merges neighbours or narrows them. Addresses leave here as 16 bytes, IPv4 as v4-mapped.

use core::ptr::write_volatile;

use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::programs::{SockAddrContext, SockOpsContext};
use enforcer_ebpf::Endpoint;

/// `SOCK_STREAM`.
pub(crate) const STREAM: u32 = 1;
/// `SOCK_DGRAM`.
pub(crate) const DATAGRAM: u32 = 2;
/// `IPPROTO_UDP`.
pub(crate) const UDP: u32 = 17;
/// `IPPROTO_TCP`.
pub(crate) const TCP: u32 = 6;
/// `AF_INET`.
pub(crate) const INET: u32 = 2;
/// Third word of a v4-mapped address, as it lies in memory.
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

macro_rules! read {
    ($field:expr) => {
        // SAFETY: the kernel hands a valid context, and the field is one that the verifier lets this hook read.
        unsafe { ::core::ptr::read_volatile(&raw const $field) }
    };
}
pub(crate) use read;

/// A `bpf_sock_addr`: the address that a socket call is about, to read and to change.
pub(crate) struct SocketAddress(*mut bpf_sock_addr);

impl SocketAddress {
    pub(crate) fn of(ctx: &SockAddrContext) -> Self {
        Self(ctx.sock_addr)
    }

    /// `SOCK_` and `IPPROTO_` number of the socket.
    pub(crate) fn kind(&self) -> (u32, u32) {
        (read!((*self.0).type_), read!((*self.0).protocol))
    }

    pub(crate) fn socket(&self) -> *mut bpf_sock {
        read!((*self.0).__bindgen_anon_1.sk)
    }

    pub(crate) fn endpoint4(&self) -> Endpoint {
        let word = read!((*self.0).user_ip4);
        Endpoint { address: to_bytes([0, 0, MAPPED, word]), port: self.port() }
    }

    pub(crate) fn endpoint6(&self) -> Endpoint {
        let words = [
            read!((*self.0).user_ip6[0]),
            read!((*self.0).user_ip6[1]),
            read!((*self.0).user_ip6[2]),
            read!((*self.0).user_ip6[3]),
        ];
        Endpoint { address: to_bytes(words), port: self.port() }
    }

    pub(crate) fn set_endpoint4(&self, endpoint: &Endpoint) {
        let words = to_words(&endpoint.address);
        // SAFETY: the field is writable in the hooks that use this.
        unsafe { write_volatile(&raw mut (*self.0).user_ip4, words[3]) };
        self.set_port(endpoint.port);
    }

    pub(crate) fn set_endpoint6(&self, endpoint: &Endpoint) {
        let words = to_words(&endpoint.address);
        // SAFETY: as above.
        unsafe {
            write_volatile(&raw mut (*self.0).user_ip6[0], words[0]);
            write_volatile(&raw mut (*self.0).user_ip6[1], words[1]);
            write_volatile(&raw mut (*self.0).user_ip6[2], words[2]);
            write_volatile(&raw mut (*self.0).user_ip6[3], words[3]);
        }
        self.set_port(endpoint.port);
    }

    fn port(&self) -> u32 {
        // The kernel keeps the port in network order in the low half.
        let raw = read!((*self.0).user_port);
        u32::from(u16::from_be(raw as u16))
    }

    fn set_port(&self, port: u32) {
        // SAFETY: as above.
        unsafe { write_volatile(&raw mut (*self.0).user_port, u32::from((port as u16).to_be())) };
    }
}

/// The workload's end of a connection.
pub(crate) fn local_endpoint(ctx: &SockOpsContext) -> Endpoint {
    let v4 = read!((*ctx.ops).local_ip4);
    let v6 = [
        read!((*ctx.ops).local_ip6[0]),
        read!((*ctx.ops).local_ip6[1]),
        read!((*ctx.ops).local_ip6[2]),
        read!((*ctx.ops).local_ip6[3]),
    ];
    Endpoint { address: either(ctx, v4, v6), port: read!((*ctx.ops).local_port) }
}

/// The other end of a connection.
pub(crate) fn remote_endpoint(ctx: &SockOpsContext) -> Endpoint {
    let v4 = read!((*ctx.ops).remote_ip4);
    let v6 = [
        read!((*ctx.ops).remote_ip6[0]),
        read!((*ctx.ops).remote_ip6[1]),
        read!((*ctx.ops).remote_ip6[2]),
        read!((*ctx.ops).remote_ip6[3]),
    ];
    // Unlike the local one, this port is in network order.
    Endpoint { address: either(ctx, v4, v6), port: u32::from_be(read!((*ctx.ops).remote_port)) }
}

/// Both are read first: of two reads in two branches LLVM makes one with a computed offset, which no verifier admits.
fn either(ctx: &SockOpsContext, v4: u32, v6: [u32; 4]) -> [u8; 16] {
    to_bytes(if read!((*ctx.ops).family) == INET { [0, 0, MAPPED, v4] } else { v6 })
}

/// An IPv4 address, four octets in network order, in its v4-mapped form.
pub(crate) fn mapped(address: [u8; 4]) -> [u8; 16] {
    to_bytes([0, 0, MAPPED, u32::from_ne_bytes(address)])
}

/// True for an IPv4 address in its v4-mapped form.
pub(crate) fn is_v4(address: &[u8; 16]) -> bool {
    let words = to_words(address);
    words[0] == 0 && words[1] == 0 && words[2] == MAPPED
}

/// True where a connection cannot leave the namespace: 127.0.0.0/8, ::1, and the unspecified addresses, which
/// `connect` takes for the loopback.
pub(crate) fn is_local(address: &[u8; 16]) -> bool {
    let words = to_words(address);
    if words[0] != 0 || words[1] != 0 {
        return false;
    }
    match words[2] {
        MAPPED => address[12] == 127 || words[3] == 0,
        0 => words[3] == 0 || words[3] == 1_u32.to_be(),
        _ => false,
    }
}

/// The same without the unspecified addresses, which no packet has.
pub(crate) fn is_loopback(address: &[u8; 16]) -> bool {
    is_local(address) && to_words(address)[3] != 0
}

/// The loopback address of the version (4 or 6) with this port.
pub(crate) fn loopback(version: u32, port: u32) -> Endpoint {
    let words = if version == 4 { [0, 0, MAPPED, 0x7f00_0001_u32.to_be()] } else { [0, 0, 0, 1_u32.to_be()] };
    Endpoint { address: to_bytes(words), port }
}

/// Four words, as they lie in memory.
pub(crate) fn to_bytes(words: [u32; 4]) -> [u8; 16] {
    // SAFETY: same size, and any bytes are valid.
    unsafe { core::mem::transmute(words) }
}

fn to_words(bytes: &[u8; 16]) -> [u32; 4] {
    // SAFETY: as in `to_bytes`.
    unsafe { core::mem::transmute(*bytes) }
}
