//! A filter for packets between two addresses, as a program of classic BPF (Documentation/networking/filter.rst).
//!
//! Packets begin with the header of IP. IPv4 may have options; of IPv6 with options in front of TCP only the last 32 bits
//! of the addresses are compared, so what comes through may be of another connection there. VLAN tags are not looked at,
//! later fragments are left out. It is short, because the kernel makes several instructions of each and limits them all
//! (`net.core.optmem_max`).

use std::net::{IpAddr, SocketAddr};

use super::Between;

/// The whole packet.
const ACCEPT: u32 = u32::MAX;

/// For packets of any of these connections, in both directions.
pub(super) fn program(connections: &[Between]) -> Vec<libc::sock_filter> {
    /// ARPHRD_LOOPBACK.
    const LOOPBACK: u32 = 772;
    let hatype = (libc::SKF_AD_OFF + libc::SKF_AD_HATYPE).cast_unsigned();
    let mut program = vec![
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, hatype),
        jump_if_equal(LOOPBACK, 0, 1),
        instruction(libc::BPF_RET | libc::BPF_K, 0),
    ];
    for Between { one, other } in connections {
        for (from, to) in [(one.as_ref(), Some(other)), (Some(other), one.as_ref())] {
            match other.ip().to_canonical() {
                IpAddr::V4(_) => program.extend(clause(&ipv4(from, to))),
                IpAddr::V6(_) => {
                    program.extend(clause(&ipv6(from, to)));
                    program.extend(clause(&ipv6_with_options(from, to)));
                }
            }
        }
    }
    program.push(instruction(libc::BPF_RET | libc::BPF_K, 0));
    program
}

/// Something that must hold of a packet.
#[derive(Clone, Copy)]
struct Test {
    load: Load,
    mask: u32,
    value: u32,
}

#[derive(Clone, Copy)]
enum Load {
    Octet(u32),
    Half(u32),
    Word(u32),
    /// Behind the header of IPv4, which has its own length.
    Behind(u32),
}

const fn equal(load: Load, value: u32) -> Test {
    Test { load, mask: u32::MAX, value }
}

const fn version(version: u32) -> Test {
    Test { load: Load::Octet(0), mask: 0xf0, value: version << 4 }
}

const TCP: u32 = 6;

fn ipv4(from: Option<&SocketAddr>, to: Option<&SocketAddr>) -> Vec<Test> {
    let first_fragment = Test { load: Load::Half(6), mask: 0x1fff, value: 0 };
    let mut tests = vec![version(4), equal(Load::Octet(9), TCP), first_fragment];
    for (end, address, port) in [(from, 12, 0), (to, 16, 2)] {
        let Some(end) = end else { continue };
        if let IpAddr::V4(ip) = end.ip().to_canonical() {
            tests.push(equal(Load::Word(address), ip.to_bits()));
        }
        tests.push(equal(Load::Behind(port), end.port().into()));
    }
    tests
}

fn ipv6(from: Option<&SocketAddr>, to: Option<&SocketAddr>) -> Vec<Test> {
    let mut tests = vec![version(6), equal(Load::Octet(6), TCP)];
    for (end, address, port) in [(from, 8, 40), (to, 24, 42)] {
        let Some(end) = end else { continue };
        tests.push(equal(Load::Half(port), end.port().into()));
        tests.extend(ipv6_address(end, address));
    }
    tests
}

/// With hop-by-hop options, which the kernel adds to packets of more than 64 KiB.
fn ipv6_with_options(from: Option<&SocketAddr>, to: Option<&SocketAddr>) -> Vec<Test> {
    let mut tests = vec![version(6), equal(Load::Octet(6), 0)];
    let last = [(from, 8), (to, 24)].into_iter().filter_map(|(end, at)| ipv6_address(end?, at).pop());
    tests.extend(last);
    tests
}

fn ipv6_address(end: &SocketAddr, at: u32) -> Vec<Test> {
    let IpAddr::V6(ip) = end.ip() else { return Vec::new() };
    let words = (0..4).map(|index| (ip.to_bits() >> (96 - 32 * index)) & u128::from(u32::MAX));
    let tests =
        words.zip(0_u32..).map(|(word, index)| equal(Load::Word(at + 4 * index), u32::try_from(word).unwrap_or(0)));
    tests.collect()
}

/// Accepts what holds all tests; anything else goes on behind it.
fn clause(tests: &[Test]) -> Vec<libc::sock_filter> {
    let mut reversed = vec![instruction(libc::BPF_RET | libc::BPF_K, ACCEPT)];
    for test in tests.iter().rev() {
        // Over all that is there already. A clause has less than a hundred instructions.
        let over = u8::try_from(reversed.len()).unwrap_or(u8::MAX);
        reversed.push(jump_if_equal(test.value, 0, over));
        if test.mask != u32::MAX {
            reversed.push(instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, test.mask));
        }
        match test.load {
            Load::Octet(at) => reversed.push(instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, at)),
            Load::Half(at) => reversed.push(instruction(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, at)),
            Load::Word(at) => reversed.push(instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at)),
            Load::Behind(at) => {
                reversed.push(instruction(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, at));
                reversed.push(instruction(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0));
            }
        }
    }
    reversed.reverse();
    reversed
}

fn instruction(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).unwrap_or_default(), jt: 0, jf: 0, k }
}

fn jump_if_equal(k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { jt, jf, ..instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k) }
}
