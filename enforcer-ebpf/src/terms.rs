//! On which terms a workload reaches what is not mutual TLS: what the agent compiles from policies, and programs look up.
//! What programs refuse or let pass with a reason is written down under a [`NotedKey`]; and all that there is to judge, with
//! when it was, under one without a reason.

use core::mem::size_of;

/// Different things that are remembered of all that wanted to leave without mutual TLS.
pub const DEPARTURES: u32 = 16_384;

/// [`Terms`]: let pass, because a rule says so.
pub const EGRESS_PASS: u8 = 1;
/// [`Terms`]: let pass and written down, because only rules under audit would refuse it.
pub const EGRESS_AUDIT: u8 = 2;
/// [`Terms`]: let pass and written down, because the mode is permissive.
pub const EGRESS_PERMISSIVE: u8 = 3;
/// [`Terms`]: refused, because no rule lets it pass. So is every number that is none of these.
pub const EGRESS_REFUSE: u8 = 4;
/// [`Terms`]: refused, because a rule denies it.
pub const EGRESS_DENY: u8 = 5;
/// [`Terms`]: refused, because there are rules that allow, and none allows it.
pub const EGRESS_NOT_ALLOWED: u8 = 6;

/// [`Terms::usual`], [`Range::kinds`]: TCP to what is outside the mesh.
pub const KIND_TCP: usize = 0;
/// The same: UDP to what is outside the mesh.
pub const KIND_UDP: usize = 1;
/// The same: UDP to an enrolled peer.
pub const KIND_UDP_TO_PEER: usize = 2;
/// How many kinds there are.
pub const KINDS: usize = 3;

/// Ranges for one prefix.
pub const RANGES: usize = 32;

/// Octets of [`EgressKey`]: the number of the terms, big-endian, and an address.
pub const EGRESS_KEY: usize = 20;
/// Bits of its first part, which every prefix has whole.
pub const EGRESS_SET_BITS: u32 = 32;

/// Key in the trie of terms. Many workloads may have the same number.
pub type EgressKey = [u8; EGRESS_KEY];

/// Ports for which something else than usual holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Range {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
    /// For which kinds: bits, counted from the lowest.
    pub kinds: u8,
    /// One of the `EGRESS_` numbers.
    pub action: u8,
    /// Zero.
    pub reserved: u16,
}

/// What holds for the addresses of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Terms {
    /// By kind, where no range speaks: one of the `EGRESS_` numbers.
    pub usual: [u8; KINDS],
    /// How many ranges there are.
    pub count: u8,
    /// The first that holds counts.
    pub ranges: [Range; RANGES],
}

/// What a program met, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct NotedKey {
    /// Id of the workload's cgroup.
    pub cgroup: u64,
    /// Where it was to go; zeros where that is not known.
    pub address: [u8; 16],
    /// The port there, host order.
    pub port: u32,
    /// Number of the protocol (IANA).
    pub protocol: u32,
    /// Number of the [`crate::Reason`]; 0 where nothing is said of that.
    pub reason: u32,
    /// Zero.
    pub reserved: u32,
}

/// How often something wanted to leave a workload without mutual TLS, and when. Nanoseconds of CLOCK_BOOTTIME.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Departed {
    /// How often.
    pub count: u64,
    /// The first time.
    pub first: u64,
    /// The last time.
    pub last: u64,
}

/// An address of a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct OwnAddress {
    /// SO_NETNS_COOKIE.
    pub netns: u64,
    /// Network order; IPv4 as v4-mapped.
    pub address: [u8; 16],
}

// No implicit padding, as for the types of `wire`.
const _: () = {
    assert!(size_of::<Range>() == 8);
    assert!(size_of::<Terms>() == 4 + 8 * RANGES);
    assert!(size_of::<NotedKey>() == 40);
    assert!(size_of::<Departed>() == 24);
    assert!(size_of::<OwnAddress>() == 24);
};

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya asks for the promise that a type is plain data; the asserts above are the proof")]
mod pod {
    // SAFETY: `repr(C)`, only integers and arrays of them, no padding, any bit pattern is valid.
    unsafe impl aya::Pod for super::Terms {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::NotedKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Departed {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::OwnAddress {}
}
