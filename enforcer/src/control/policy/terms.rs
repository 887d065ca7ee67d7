//! From the rules of a policy to what programs look up: for each prefix that a rule names, the ports for which something
//! else than usual holds. Compiled by asking [`Policy::beyond`] itself.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use enforcer_ebpf::{KINDS, RANGES, Range, Terms};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Policy;
use super::outside::Protocol;
use super::rule::Ports;

/// By their numbers: protocol, and whether it is to an enrolled peer.
const KINDS_BY_NUMBER: [(Protocol, bool); KINDS] =
    [(Protocol::Tcp, false), (Protocol::Udp, false), (Protocol::Udp, true)];

/// What holds for each prefix; the longest that has an address counts.
pub type Compiled = Arc<[(IpNet, Terms)]>;

/// So much is told apart for one prefix that programs have no room for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooMany {
    pub(super) prefix: IpNet,
}

/// Everything that a policy says of what is outside the mesh. Every address has terms.
pub(super) fn compile(policy: &Policy) -> Result<Compiled, TooMany> {
    prefixes(policy).into_iter().map(|prefix| terms(policy, prefix).map(|terms| (prefix, terms))).collect()
}

fn prefixes(policy: &Policy) -> BTreeSet<IpNet> {
    let everything = [
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
    ];
    let rules = policy.outbound.deny.iter().chain(&policy.outbound.allow).flat_map(|rule| &rule.addresses);
    let plaintext = policy.plaintext.iter().flat_map(|rule| &rule.addresses);
    everything.into_iter().chain(rules.chain(plaintext).copied()).collect()
}

/// Ports from one to another for which the same holds for every kind.
struct Span {
    ports: Ports,
    actions: [u8; KINDS],
}

fn terms(policy: &Policy, prefix: IpNet) -> Result<Terms, TooMany> {
    let spans = spans(policy, &prefix);
    let usual: [u8; KINDS] = std::array::from_fn(|kind| usual(&spans, kind));
    let mut ranges: Vec<Range> = Vec::new();
    for (kind, usual) in usual.into_iter().enumerate() {
        for (ports, action) in runs(&spans, kind).filter(|(_, action)| *action != usual) {
            let is_same =
                |range: &&mut Range| (range.first, range.last, range.action) == (ports.first, ports.last, action);
            match ranges.iter_mut().find(is_same) {
                Some(range) => range.kinds |= 1 << kind,
                None => {
                    ranges.push(Range { first: ports.first, last: ports.last, kinds: 1 << kind, action, reserved: 0 })
                }
            }
        }
    }
    let mut terms = Terms { usual, count: 0, ranges: [Range::default(); RANGES] };
    terms.count = u8::try_from(ranges.len()).ok().filter(|_| ranges.len() <= RANGES).ok_or(TooMany { prefix })?;
    terms.ranges[..ranges.len()].copy_from_slice(&ranges);
    Ok(terms)
}

/// All ports, in order, cut wherever a rule's begin or end.
fn spans(policy: &Policy, prefix: &IpNet) -> Vec<Span> {
    let rules = policy.outbound.deny.iter().chain(&policy.outbound.allow).flat_map(|rule| &rule.ports);
    let named = rules.chain(policy.plaintext.iter().flat_map(|rule| &rule.ports));
    let cuts: BTreeSet<u16> =
        named.flat_map(|ports| [Some(ports.first), ports.last.checked_add(1)]).flatten().chain([0]).collect();
    let ends = cuts.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
    let span = |(&first, last): (&u16, u16)| {
        let action = |(protocol, to_peer)| policy.beyond_within(protocol, prefix, first, to_peer).0.action();
        Span { ports: Ports { first, last }, actions: KINDS_BY_NUMBER.map(action) }
    };
    cuts.iter().zip(ends).map(span).collect()
}

/// Neighbours for which the same holds, together.
fn runs(spans: &[Span], kind: usize) -> impl Iterator<Item = (Ports, u8)> {
    spans.chunk_by(move |one, next| one.actions[kind] == next.actions[kind]).filter_map(move |run| {
        let (first, last) = (run.first()?, run.last()?);
        Some((Ports { first: first.ports.first, last: last.ports.last }, first.actions[kind]))
    })
}

/// What takes fewest ranges: that which most runs have.
fn usual(spans: &[Span], kind: usize) -> u8 {
    let actions: Vec<u8> = runs(spans, kind).map(|(_, action)| action).collect();
    let often = |action: &u8| actions.iter().filter(|other| *other == action).count();
    actions.iter().copied().max_by_key(often).unwrap_or_default()
}
