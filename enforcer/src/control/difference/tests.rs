//! What is told of two snapshots, and how soon.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::*;
use crate::control::file::parse;

const BASE: &str = include_str!("../tests/base.yaml");

fn snapshot(text: &str) -> Snapshot {
    parse(text, "agent.yaml").unwrap()
}

/// From the base to the base with another text in one place.
fn change(from: &str, to: &str) -> Difference {
    assert!(BASE.contains(from), "{from}");
    Difference::between(&snapshot(BASE), &snapshot(&BASE.replacen(from, to, 1)))
}

#[test]
fn what_is_the_same_is_not_different() {
    assert!(change("", "").is_empty());
    assert!(change("labels: {app: web}", "labels: {app: website}").is_empty(), "no policy asks for it");
    let objects: Vec<&str> = BASE.split("---\n").collect();
    let reversed: Vec<&str> = objects.into_iter().rev().collect();
    let reversed = reversed.iter().map(|object| format!("{}\n", object.trim_end())).collect::<Vec<_>>().join("---\n");
    assert!(Difference::between(&snapshot(BASE), &snapshot(&reversed)).is_empty(), "the order means nothing");
}

#[test]
fn each_part_of_a_workload_is_told() {
    use WorkloadPart::{Cgroup, Identity, Limits, Network, Offload, Path, Ports, Rules};
    for (from, to, name, expected) in [
        ("sa/web", "sa/website", "web", vec![Identity]),
        ("cgroup/web", "cgroup/site", "web", vec![Cgroup]),
        ("netns/a", "netns/b", "web", vec![Network]),
        ("pid: 1234", "pid: 1235", "job", vec![Network]),
        ("[443, 80]", "[443]", "web", vec![Ports]),
        ("offload: auto", "offload: on", "web", vec![Offload]),
        ("offload: auto", "limits: { held: 7 }", "web", vec![Limits]),
        ("mode: permissive", "mode: strict", "job", vec![Rules]),
        ("mode: permissive", "mode: permissive\n  inbound: { deny: [{ ports: [80] }] }", "job", vec![Rules]),
        ("mode: permissive", "path: relay", "job", vec![Rules, Path]),
        ("mode: permissive", "mode: permissive\n  path: direct", "job", vec![Path]),
    ] {
        let difference = change(from, to);
        assert_eq!(difference.workloads.changed, [(name.to_owned(), expected)], "{from} -> {to}");
        assert!(difference.peers.is_empty() && difference.needs_restart.is_none(), "{from} -> {to}");
    }
    for part in [Identity, Cgroup, Network, Ports] {
        assert!(part.is_enrolled(), "{part:?}");
    }
    for part in [Offload, Limits, Rules, Path] {
        assert!(!part.is_enrolled(), "{part:?}");
    }
}

#[test]
fn each_part_of_a_peer_is_told() {
    use PeerPart::{Addresses, Agent, Speaks};
    for (from, to, name, expected) in [
        ("10.1.0.0/16", "10.2.0.0/16", "db", vec![Addresses]),
        ("sa/db\n", "sa/database\n", "db", vec![Speaks]),
        ("sa/db\n", "sa/db\n  speaks: mtls\n", "db", vec![Speaks]),
        ("sa/db\n", "sa/db\n  agent: 192.0.2.7\n", "db", vec![Agent]),
        ("speaks: plaintext", "identity: spiffe://example.org/a\n  agent: 192.0.2.7", "printer", vec![Speaks, Agent]),
    ] {
        let difference = change(from, to);
        assert_eq!(difference.peers.changed, [(name.to_owned(), expected)], "{from} -> {to}");
        assert!(difference.workloads.is_empty() && difference.needs_restart.is_none(), "{from} -> {to}");
    }
}

#[test]
fn what_comes_and_goes_is_told_by_name() {
    let renamed = change("name: printer", "name: scanner");
    assert_eq!((renamed.peers.added, renamed.peers.removed), (vec!["scanner".into()], vec!["printer".into()]));
    let renamed = change("name: web,", "name: site,");
    assert_eq!((renamed.workloads.added, renamed.workloads.removed), (vec!["site".into()], vec!["web".into()]));
    assert!(renamed.workloads.changed.is_empty() && renamed.peers.changed.is_empty());
}

#[test]
fn the_node_and_public_names_need_a_restart() {
    assert_eq!(change("name: node-a", "name: node-b").needs_restart.as_deref(), Some("the Node"));
    let acme = "acme: { directory: \"https://acme.example/directory\", termsOfServiceAgreed: true }\n";
    let without = BASE.replacen("  admin:", &format!("  {acme}  admin:"), 1);
    let public = "  offload: auto\n  public: { names: [www.example.org], ports: [443] }\n";
    let with = without.replacen("  offload: auto\n", public, 1);
    let (without, with) = (snapshot(&without), snapshot(&with));
    let expected = Some("`public` of workload web");
    assert_eq!(Difference::between(&without, &with).needs_restart.as_deref(), expected);
    assert_eq!(Difference::between(&with, &without).needs_restart.as_deref(), expected);
    assert_eq!(Difference::between(&with, &with).needs_restart, None);
}

/// As many as a change must be in force with within a second.
#[test]
fn ten_thousand_workloads_and_a_thousand_policies_are_read_and_compared_within_a_second() {
    const WORKLOADS: usize = 10_000;
    const POLICIES: usize = 1_000;
    let mut text = String::from(BASE);
    for number in 0..WORKLOADS {
        write!(
            text,
            "---\nkind: Workload\nmetadata: {{ name: w{number}, labels: {{ app: a{} }} }}\nspec:\n  identity: \
             spiffe://example.org/ns/default/sa/w{number}\n  cgroup: /sys/fs/cgroup/w{number}\n  network: {{ path: \
             /run/netns/w{number} }}\n",
            number % POLICIES
        )
        .unwrap();
    }
    for number in 0..POLICIES {
        write!(
            text,
            "---\nkind: MtlsPolicy\nmetadata: {{ name: p{number} }}\nspec:\n  selector: {{ labels: {{ app: a{number} }} \
             }}\n  inbound: {{ allow: [{{ namespaces: [default], ports: [{}] }}] }}\n",
            number + 1
        )
        .unwrap();
    }
    let before = snapshot(&text);
    let text = text.replacen("sa/w77\n", "sa/w77-renamed\n", 1).replacen("ports: [500]", "ports: [501]", 1);
    // The best of a few: others are at work on this machine too.
    let fastest = (0..5).map(|_| {
        let started = Instant::now();
        let difference = Difference::between(&before, &snapshot(&text));
        let took = started.elapsed();
        assert_eq!(difference.workloads.changed.len(), 1 + WORKLOADS / POLICIES);
        took
    });
    let fastest = fastest.min().unwrap();
    assert!(fastest < Duration::from_secs(1), "it took {fastest:?}");
    let after = snapshot(&text);
    assert_eq!(Difference::between(&snapshot(BASE), &after).workloads.added.len(), WORKLOADS);
}
