//! Policies as they stand in a file: each field read and checked by itself.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::outside::Protocol;
use super::rule::{Identities, Ports};
use crate::control::field::{Fields, boolean, choice, integer, read_each, read_located, text};
use crate::control::object::{labels, only_name};
use crate::control::problem::{Located, Position, Problems, shown};
use crate::control::scalar::{mode, name, port, port_mode, prefix, trust_domain, wanted_path};
use crate::control::snapshot::{Mode, WantedPath};
use crate::control::yaml::{Tree, Value};

/// A policy in which every field was read that could be.
#[derive(Debug)]
pub(in crate::control) struct RawPolicy {
    pub(in crate::control) name: Located<String>,
    /// `None`: every workload.
    pub(in crate::control) selector: Option<RawSelector>,
    pub(in crate::control) mode: Option<Located<Mode>>,
    pub(in crate::control) path: Option<Located<WantedPath>>,
    pub(in crate::control) audit: bool,
    pub(in crate::control) inbound: RawRules,
    pub(in crate::control) outbound: RawRules,
    pub(in crate::control) ports: Vec<RawPortMode>,
}

#[derive(Debug)]
pub(in crate::control) struct RawPortMode {
    pub(in crate::control) ports: Vec<Located<Ports>>,
    pub(in crate::control) mode: Mode,
}

/// Which workloads a policy is for: everything that is written must hold, and of each list one item.
#[derive(Debug)]
pub(in crate::control) struct RawSelector {
    pub(in crate::control) at: Position,
    pub(in crate::control) workloads: Option<Vec<Located<String>>>,
    pub(in crate::control) labels: BTreeMap<String, String>,
    pub(in crate::control) identities: Option<Vec<Located<Identities>>>,
    pub(in crate::control) namespaces: Option<Vec<Located<String>>>,
}

#[derive(Debug, Default)]
pub(in crate::control) struct RawRules {
    pub(in crate::control) deny: Vec<RawRule>,
    pub(in crate::control) allow: Vec<RawRule>,
    /// Outbound only.
    pub(in crate::control) plaintext: Vec<RawPlaintext>,
}

#[derive(Debug)]
pub(in crate::control) struct RawRule {
    pub(in crate::control) name: Option<Located<String>>,
    pub(in crate::control) identities: Vec<Located<Identities>>,
    pub(in crate::control) namespaces: Vec<Located<String>>,
    pub(in crate::control) trust_domains: Vec<Located<String>>,
    pub(in crate::control) addresses: Vec<Located<IpNet>>,
    pub(in crate::control) ports: Vec<Located<Ports>>,
}

#[derive(Debug)]
pub(in crate::control) struct RawPlaintext {
    pub(in crate::control) name: Option<Located<String>>,
    pub(in crate::control) addresses: Vec<Located<IpNet>>,
    pub(in crate::control) ports: Vec<Located<Ports>>,
    pub(in crate::control) protocols: Vec<Located<Protocol>>,
    pub(in crate::control) to_peers: bool,
}

/// A policy; `None`, with a problem, if it has no name.
pub(in crate::control) fn policy(metadata: Option<Tree>, spec: Tree, problems: &mut Problems) -> Option<RawPolicy> {
    let policy_name = only_name(metadata, "MtlsPolicy metadata", problems);
    let at = spec.at;
    let mut spec = Fields::open(spec, "MtlsPolicy spec", problems)?;
    let trees = ["mode", "path", "audit", "inbound", "outbound", "ports", "selector"].map(|field| spec.take(field));
    let is_whole = spec.are_used_up();
    spec.close();
    if is_whole && trees[..6].iter().all(Option::is_none) {
        let how = "add `mode:`, `path:`, `ports:`, `inbound:` or `outbound:`";
        problems.add(at, format!("the policy says nothing; it would change nothing; {how}"));
    }
    let [mode_tree, path_tree, audit_tree, inbound, outbound, ports, selector] = trees;
    let audit = audit_tree.as_ref().and_then(|tree| read_located(tree, boolean, problems));
    if let (Some(Located { at, value: true }), None, None) = (&audit, &inbound, &outbound) {
        problems.add(*at, "audit without rules; only rules are audited; add `inbound:` or `outbound:`, or remove it");
    }
    Some(RawPolicy {
        name: policy_name?,
        mode: mode_tree.and_then(|tree| read_located(&tree, mode, problems)),
        path: path_tree.and_then(|tree| read_located(&tree, wanted_path, problems)),
        audit: audit.is_some_and(|audit| audit.value),
        inbound: inbound.map(|tree| rules(tree, "inbound", problems)).unwrap_or_default(),
        outbound: outbound.map(|tree| rules(tree, "outbound", problems)).unwrap_or_default(),
        ports: ports.map(|tree| list(tree, "ports with a mode", ports_with_mode, problems)).unwrap_or_default(),
        selector: selector.and_then(|tree| self::selector(tree, problems)),
    })
}

fn selector(tree: Tree, problems: &mut Problems) -> Option<RawSelector> {
    let at = tree.at;
    let mut fields = Fields::open(tree, "selector", problems)?;
    let trees = ["workloads", "labels", "identities", "namespaces"].map(|field| fields.take(field));
    let is_whole = fields.are_used_up();
    fields.close();
    if is_whole && trees.iter().all(Option::is_none) {
        let how = "name something, or leave `selector` out to mean every workload";
        problems.add(at, format!("the selector is empty; it would select nothing or everything; {how}"));
    }
    let [workloads, labels, identities, namespaces] = trees;
    Some(RawSelector {
        at,
        workloads: workloads.map(|tree| read_each(tree, name, problems)),
        labels: labels.map(|tree| self::labels(tree, problems)).unwrap_or_default(),
        identities: identities.map(|tree| read_each(tree, self::identities, problems)),
        namespaces: namespaces.map(|tree| read_each(tree, name, problems)),
    })
}

fn rules(tree: Tree, direction: &'static str, problems: &mut Problems) -> RawRules {
    let at = tree.at;
    let Some(mut fields) = Fields::open(tree, direction, problems) else { return RawRules::default() };
    let (deny, allow) = (fields.take("deny"), fields.take("allow"));
    let plaintext = if direction == "outbound" { fields.take("plaintext") } else { None };
    let is_whole = fields.are_used_up();
    fields.close();
    if is_whole && [&deny, &allow, &plaintext].into_iter().all(Option::is_none) {
        problems.add(at, format!("{direction} has no rules; it would change nothing; add `allow:` or `deny:`"));
    }
    let mut rules = |tree: Option<Tree>| tree.map(|tree| list(tree, "rules", rule, problems)).unwrap_or_default();
    let (deny, allow) = (rules(deny), rules(allow));
    let plaintext = plaintext.map(|tree| list(tree, "rules", self::plaintext, problems)).unwrap_or_default();
    RawRules { deny, allow, plaintext }
}

/// Reads each item.
type Item<T> = fn(Tree, &mut Problems) -> Option<T>;

fn list<T>(tree: Tree, what: &str, item: Item<T>, problems: &mut Problems) -> Vec<T> {
    let Value::Sequence(trees) = tree.value else {
        let message = format!("expected a list of {what}, found {}; there may be several; write `- ...`", tree.found());
        problems.add(tree.at, message);
        return Vec::new();
    };
    if trees.is_empty() {
        let how = "to refuse everything, deny addresses [0.0.0.0/0, \"::/0\"]";
        problems.add(tree.at, format!("the list is empty; it would never match; {how}"));
    }
    trees.into_iter().filter_map(|tree| item(tree, problems)).collect()
}

fn ports_with_mode(tree: Tree, problems: &mut Problems) -> Option<RawPortMode> {
    let mut fields = Fields::open(tree, "ports with a mode", problems)?;
    let mode = fields.required("mode", port_mode);
    let ports = fields.take_required("ports");
    fields.close();
    Some(RawPortMode { ports: read_each(ports?, self::ports, problems), mode: mode?.value })
}

/// A rule for what is not mutual TLS.
fn plaintext(tree: Tree, problems: &mut Problems) -> Option<RawPlaintext> {
    let at = tree.at;
    let mut fields = Fields::open(tree, "rule", problems)?;
    let trees = ["name", "addresses", "ports", "protocols", "toPeers"].map(|field| fields.take(field));
    let is_whole = fields.are_used_up();
    fields.close();
    let [name_tree, addresses_tree, ports_tree, protocols_tree, to_peers] = trees;
    if is_whole && addresses_tree.is_none() && ports_tree.is_none() && protocols_tree.is_none() {
        let how = "to mean everything, write addresses: [0.0.0.0/0, \"::/0\"]";
        problems.add(at, format!("the rule names nothing; it could mean nothing or everything; {how}"));
    }
    let usual = || vec![Located { at, value: Protocol::Tcp }];
    let rule = RawPlaintext {
        name: name_tree.and_then(|tree| read_located(&tree, name, problems)),
        addresses: addresses_tree.map(|tree| read_each(tree, prefix, problems)).unwrap_or_default(),
        ports: ports_tree.map(|tree| read_each(tree, ports, problems)).unwrap_or_default(),
        protocols: protocols_tree.map_or_else(usual, |tree| read_each(tree, protocol, problems)),
        to_peers: to_peers.and_then(|tree| read_located(&tree, boolean, problems)).is_some_and(|yes| yes.value),
    };
    let other = rule.protocols.iter().find(|protocol| protocol.value == Protocol::Other);
    if let Some(Located { at, .. }) = other.filter(|_| !rule.addresses.is_empty() || !rule.ports.is_empty()) {
        let how = "write a rule of its own, with `protocols: [other]` alone";
        problems.add(*at, format!("addresses or ports for other protocols; nobody is asked where these go; {how}"));
    }
    if rule.to_peers && !rule.protocols.iter().any(|protocol| protocol.value == Protocol::Udp) {
        let how = "add `protocols: [udp]`, or remove it";
        problems.add(at, format!("toPeers without UDP; TCP to a peer is never plaintext by a rule; {how}"));
    }
    Some(rule)
}

fn protocol(tree: &Tree) -> Result<Protocol, String> {
    choice(tree, &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("other", Protocol::Other)])
}

fn rule(tree: Tree, problems: &mut Problems) -> Option<RawRule> {
    let at = tree.at;
    let mut fields = Fields::open(tree, "rule", problems)?;
    let known = ["identities", "namespaces", "trustDomains", "addresses", "ports"];
    let name_tree = fields.take("name");
    let trees = known.map(|field| fields.take(field));
    let is_whole = fields.are_used_up();
    fields.close();
    if is_whole && trees.iter().all(Option::is_none) {
        let how = "to mean everything, write addresses: [0.0.0.0/0, \"::/0\"]";
        problems.add(at, format!("the rule names nothing; it could mean nothing or everything; {how}"));
    }
    let [identities, namespaces, trust_domains, addresses, ports] = trees;
    Some(RawRule {
        name: name_tree.and_then(|tree| read_located(&tree, name, problems)),
        identities: identities.map(|tree| read_each(tree, self::identities, problems)).unwrap_or_default(),
        namespaces: namespaces.map(|tree| read_each(tree, name, problems)).unwrap_or_default(),
        trust_domains: trust_domains.map(|tree| read_each(tree, trust_domain, problems)).unwrap_or_default(),
        addresses: addresses.map(|tree| read_each(tree, prefix, problems)).unwrap_or_default(),
        ports: ports.map(|tree| read_each(tree, self::ports, problems)).unwrap_or_default(),
    })
}

/// An identity, or those below a path.
fn identities(tree: &Tree) -> Result<Identities, String> {
    let text = text(tree)?;
    text.parse().map_err(|cause| {
        let how = "write it like spiffe://example.org/ns/default/sa/web or spiffe://example.org/ns/default/*";
        format!("{} names no SPIFFE IDs; {cause}; {how}", shown(text))
    })
}

/// One port, or `"FIRST-LAST"`.
fn ports(tree: &Tree) -> Result<Ports, String> {
    let Value::Text(range) = &tree.value else {
        return port(tree).map(|port| Ports { first: port, last: port });
    };
    let number = |text: &str| {
        let digits = Tree { at: tree.at, value: Value::Integer(text.to_owned()) };
        integer(&digits, 1, u16::MAX.into()).ok().and_then(|number| u16::try_from(number).ok())
    };
    let ends = range.split_once('-').and_then(|(first, last)| Some((number(first)?, number(last)?)));
    match ends {
        Some((first, last)) if first < last => Ok(Ports { first, last }),
        _ => Err(format!("{} are no ports; nothing is guessed; write 80 or \"8000-8099\"", shown(range))),
    }
}
