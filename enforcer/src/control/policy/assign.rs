//! Which policies hold for which workload: the checks among policies, workloads and the node.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use enforcer_ebpf::RANGES;
use ipnet::IpNet;

use super::candidates::Candidates;
use super::outside::{Plaintext, Protocol};
use super::read::{RawPlaintext, RawPolicy, RawRule, RawRules, RawSelector};
use super::terms::{TooMany, compile};
use super::{Policy, PortMode, Ports, Rule, Rules};
use crate::control::object::{Objects, RawNode, RawWorkload};
use crate::control::problem::{Located, Position, Problems};

/// What policies say of each workload, by its name. Workloads that the same policies select share it.
pub(in crate::control) fn policies(objects: &Objects, problems: &mut Problems) -> HashMap<String, Arc<Policy>> {
    let built: Vec<Built<'_>> = objects.policies.iter().map(Built::new).collect();
    // By the workload's position, the positions of policies.
    let mut selecting = vec![Vec::new(); objects.workloads.len()];
    let candidates = Candidates::new(&objects.workloads);
    for (at, Built { raw, .. }) in built.iter().enumerate() {
        let positions = candidates.of(raw).into_iter().map(|at| (at, &objects.workloads[at]));
        let selected: Vec<(usize, &RawWorkload)> = positions.filter(|(_, workload)| selects(raw, workload)).collect();
        check_selection(raw, selected.len(), objects, problems);
        check_rules(raw, &selected, objects, problems);
        selected.iter().for_each(|&(workload, _)| selecting[workload].push(at));
    }
    let resolvers = resolvers(objects);
    let mut shared: HashMap<Vec<usize>, Arc<Policy>> = HashMap::new();
    let mut policies = HashMap::new();
    for (workload, selecting) in objects.workloads.iter().zip(selecting) {
        let policy = shared.entry(selecting).or_insert_with_key(|selecting| {
            let selecting: Vec<&Built<'_>> = selecting.iter().map(|&at| &built[at]).collect();
            Arc::new(combined(&selecting, (workload, &resolvers), problems))
        });
        policies.insert(workload.name.value.clone(), Arc::clone(policy));
    }
    policies
}

/// How closely a policy means the workloads that it selects.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// It is for every workload.
    General,
    /// It is for workloads like these.
    Selected,
    /// It names them.
    Named,
}

/// A policy with its rules, made once.
struct Built<'a> {
    raw: &'a RawPolicy,
    rank: Rank,
    inbound: Rules,
    outbound: Rules,
    ports: Vec<PortMode>,
    plaintext: Vec<Arc<Plaintext>>,
}

impl<'a> Built<'a> {
    fn new(raw: &'a RawPolicy) -> Self {
        let rank = match &raw.selector {
            None => Rank::General,
            Some(RawSelector { workloads: Some(_), .. }) => Rank::Named,
            Some(_) => Rank::Selected,
        };
        let rules = |direction, RawRules { deny, allow, .. }: &RawRules| Rules {
            deny: rules((raw, direction, "deny"), deny),
            allow: rules((raw, direction, "allow"), allow),
        };
        let port_modes = raw.ports.iter().map(|these| PortMode { ports: values(&these.ports), mode: these.mode });
        Self {
            raw,
            rank,
            inbound: rules("inbound", &raw.inbound),
            outbound: rules("outbound", &raw.outbound),
            ports: port_modes.collect(),
            plaintext: plaintext(raw),
        }
    }
}

/// What all these policies say together. A problem names `workload`, one of those that they select.
fn combined(
    selecting: &[&Built<'_>],
    (workload, resolvers): (&RawWorkload, &Option<Arc<Plaintext>>),
    problems: &mut Problems,
) -> Policy {
    let together = |rules: Vec<&Rules>| Rules {
        deny: rules.iter().flat_map(|rules| rules.deny.iter().cloned()).collect(),
        allow: rules.iter().flat_map(|rules| rules.allow.iter().cloned()).collect(),
    };
    // The closest first, as for the mode.
    let mut by_rank: Vec<&&Built<'_>> = selecting.iter().collect();
    by_rank.sort_by_key(|policy| Reverse(policy.rank));
    let plaintext = selecting.iter().flat_map(|policy| policy.plaintext.iter().cloned());
    let mut policy = Policy {
        mode: wanted(selecting, workload, "mode", |policy| policy.mode.as_ref(), problems),
        path: wanted(selecting, workload, "path", |policy| policy.path.as_ref(), problems),
        inbound: together(selecting.iter().map(|policy| &policy.inbound).collect()),
        outbound: together(selecting.iter().map(|policy| &policy.outbound).collect()),
        ports: by_rank.iter().flat_map(|policy| policy.ports.iter().cloned()).collect(),
        plaintext: plaintext.chain(resolvers.iter().cloned()).collect(),
        terms: Arc::default(),
    };
    match compile(&policy) {
        Ok(terms) => policy.terms = terms,
        Err(TooMany { prefix }) => {
            let at = selecting.last().map_or(workload.name.at, |policy| policy.raw.name.at);
            let how = "join neighbouring ports, or name fewer";
            let message = format!(
                "the rules for what workload {:?} may reach outside the mesh tell more than {RANGES} ranges of ports \
                 apart for {prefix}; the kernel has no room for more; {how}",
                workload.name.value
            );
            problems.add(at, message);
        }
    }
    policy
}

/// The name of the rule that is there without being written.
const RESOLVERS: &str = "built-in/outbound.plaintext/resolvers";

/// Name resolution is let pass, also to resolvers that are peers.
fn resolvers(objects: &Objects) -> Option<Arc<Plaintext>> {
    let [RawNode { resolvers, .. }] = objects.nodes.as_slice() else { return None };
    let addresses: Vec<IpNet> = resolvers.iter().map(|&resolver| IpNet::from(resolver.to_canonical())).collect();
    let rule = Plaintext {
        name: RESOLVERS.into(),
        list: RESOLVERS.trim_end_matches("/resolvers").into(),
        audit: false,
        addresses,
        ports: vec![Ports { first: 53, last: 53 }],
        protocols: vec![Protocol::Udp, Protocol::Tcp],
        to_peers: true,
    };
    // An empty list would hold for every address.
    (!rule.addresses.is_empty()).then(|| Arc::new(rule))
}

fn plaintext(policy: &RawPolicy) -> Vec<Arc<Plaintext>> {
    let list: Arc<str> = format!("{}/outbound.plaintext", policy.name.value).into();
    let rule = |(index, raw): (usize, &RawPlaintext)| {
        Arc::new(Plaintext {
            name: rule_name(&list, index, raw.name.as_ref()),
            list: Arc::clone(&list),
            audit: policy.audit,
            addresses: values(&raw.addresses),
            ports: values(&raw.ports),
            protocols: values(&raw.protocols),
            to_peers: raw.to_peers,
        })
    };
    policy.outbound.plaintext.iter().enumerate().map(rule).collect()
}

fn selects(policy: &RawPolicy, workload: &RawWorkload) -> bool {
    let Some(selector) = &policy.selector else { return true };
    let RawSelector { workloads, labels, identities, namespaces, .. } = selector;
    let is_named = || workloads.as_ref().is_none_or(|names| names.iter().any(|name| name.value == workload.name.value));
    let is_labelled = || labels.iter().all(|(key, value)| workload.labels.get(key) == Some(value));
    let is_meant = || {
        identities.as_ref().is_none_or(|identities| {
            let own = workload.identity.as_ref();
            own.is_some_and(|own| identities.iter().any(|these| these.value.hold(&own.value)))
        })
    };
    let is_inside = || {
        namespaces.as_ref().is_none_or(|names| {
            let own = workload.namespace.as_ref();
            own.is_some_and(|own| names.iter().any(|name| name.value == own.value))
        })
    };
    is_named() && is_labelled() && is_meant() && is_inside()
}

/// What the policies that mean the workload most closely want. Two that want different things are a problem.
fn wanted<T: Copy + Default + Eq>(
    selecting: &[&Built<'_>],
    workload: &RawWorkload,
    what: &str,
    field: impl Fn(&RawPolicy) -> Option<&Located<T>>,
    problems: &mut Problems,
) -> T {
    let mut closest: Option<(Rank, T, &str)> = None;
    for policy in selecting {
        let Some(Located { at, value }) = field(policy.raw) else { continue };
        match closest {
            Some((closer, ..)) if closer > policy.rank => {}
            Some((same, first, owner)) if same == policy.rank => {
                if first != *value {
                    let name = &workload.name.value;
                    let message = format!(
                        "workload {name:?} has another {what} in policy {owner:?}; which one holds would be chance; \
                         remove one"
                    );
                    problems.add(*at, message);
                }
            }
            _ => closest = Some((policy.rank, *value, &policy.raw.name.value)),
        }
    }
    closest.map(|(_, value, _)| value).unwrap_or_default()
}

fn rules((policy, direction, list): (&RawPolicy, &str, &str), raw: &[RawRule]) -> Vec<Arc<Rule>> {
    let list: Arc<str> = format!("{}/{direction}.{list}", policy.name.value).into();
    let rule = |(index, raw): (usize, &RawRule)| {
        Arc::new(Rule {
            name: rule_name(&list, index, raw.name.as_ref()),
            list: Arc::clone(&list),
            audit: policy.audit,
            identities: values(&raw.identities),
            namespaces: values(&raw.namespaces),
            trust_domains: values(&raw.trust_domains),
            addresses: values(&raw.addresses),
            ports: values(&raw.ports),
        })
    };
    raw.iter().enumerate().map(rule).collect()
}

/// In its list: its own name, or its number, from 1.
fn rule_name(list: &str, index: usize, name: Option<&Located<String>>) -> Arc<str> {
    let own = name.map_or_else(|| (index + 1).to_string(), |name| name.value.clone());
    format!("{list}/{own}").into()
}

fn values<T: Clone>(located: &[Located<T>]) -> Vec<T> {
    located.iter().map(|located| located.value.clone()).collect()
}

/// A policy that selects nothing would protect nothing.
fn check_selection(policy: &RawPolicy, selected: usize, objects: &Objects, problems: &mut Problems) {
    let Some(selector) = &policy.selector else { return };
    if objects.incomplete {
        return;
    }
    let mut missing = false;
    for name in selector.workloads.iter().flatten() {
        if !objects.workloads.iter().any(|workload| workload.name.value == name.value) {
            missing = true;
            let message =
                format!("there is no workload {:?}; the policy would protect nothing; mend the name", name.value);
            problems.add(name.at, message);
        }
    }
    // Where something could not be read there is a problem already.
    let is_whole = objects.workloads.iter().all(|workload| workload.identity.is_some() && workload.namespace.is_some());
    if is_whole && !missing && selected == 0 {
        let message = "the selector selects no workload of this node; the policy would protect nothing; mend it";
        problems.add(selector.at, message);
    }
}

/// Rules that can never match, or that cannot be told apart.
fn check_rules(policy: &RawPolicy, selected: &[(usize, &RawWorkload)], objects: &Objects, problems: &mut Problems) {
    for rules in [&policy.inbound, &policy.outbound] {
        for list in [&rules.deny, &rules.allow] {
            check_rule_names(list.iter().map(|rule| rule.name.as_ref()), problems);
            for rule in list {
                check_domains(rule, objects, problems);
                check_agreement(rule, problems);
            }
        }
        check_rule_names(rules.plaintext.iter().map(|rule| rule.name.as_ref()), problems);
    }
    let inbound = policy.inbound.deny.iter().chain(&policy.inbound.allow);
    inbound.for_each(|rule| check_ports(&rule.ports, selected, problems));
    policy.ports.iter().for_each(|these| check_ports(&these.ports, selected, problems));
}

fn check_rule_names<'a>(names: impl Iterator<Item = Option<&'a Located<String>>>, problems: &mut Problems) {
    let mut seen = HashSet::new();
    for name in names.flatten() {
        if !seen.insert(name.value.as_str()) {
            let message = format!("a second rule {:?} in this list; names tell them apart; rename one", name.value);
            problems.add(name.at, message);
        }
    }
}

/// Nobody whose bundle this node does not have proves an identity to it.
fn check_domains(rule: &RawRule, objects: &Objects, problems: &mut Problems) {
    let [RawNode { trust_domain: Some(own), federation, .. }] = objects.nodes.as_slice() else { return };
    let mut check = |domain: &str, at: Position| {
        if domain != own.value && !federation.iter().any(|(other, _)| other.value == domain) {
            let how = "add its bundle to `federation` of the Node, or mend the name";
            let message = format!("nobody of trust domain {domain:?} is trusted here; this would never match; {how}");
            problems.add(at, message);
        }
    };
    rule.identities.iter().for_each(|these| check(these.value.trust_domain(), these.at));
    rule.trust_domains.iter().for_each(|domain| check(&domain.value, domain.at));
}

/// Identities that the other conditions of the same rule leave out.
fn check_agreement(rule: &RawRule, problems: &mut Problems) {
    for Located { at, value } in &rule.identities {
        let is_named = |names: &[Located<String>], is_it: &dyn Fn(&str) -> bool| {
            names.is_empty() || names.iter().any(|name| is_it(&name.value))
        };
        let is_left_out = !is_named(&rule.trust_domains, &|domain| domain == value.trust_domain())
            || !is_named(&rule.namespaces, &|namespace| value.may_be_in(namespace));
        if is_left_out {
            let how = "remove it, or write a rule of its own for it";
            problems.add(
                *at,
                format!("{value} is outside the rule's namespaces or trust domains; it would never match; {how}"),
            );
        }
    }
}

/// Connections come to the ports that workloads have.
fn check_ports(ports: &[Located<Ports>], selected: &[(usize, &RawWorkload)], problems: &mut Problems) {
    for Located { at, value } in ports {
        let has = |(_, workload): &(usize, &RawWorkload)| {
            workload.ports.as_ref().is_none_or(|ports| ports.iter().any(|port| value.hold(port.value)))
        };
        if !selected.is_empty() && !selected.iter().any(has) {
            let how = "add the port to a Workload, or mend it";
            problems
                .add(*at, format!("no workload of the policy takes connections here; this would never match; {how}"));
        }
    }
}
