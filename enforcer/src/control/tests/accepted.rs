//! What is accepted, and what it means.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::super::file::load;
use super::super::snapshot::{Cipher, Limits, Mode, NetworkRef, Offload, Speaks, WantedPath};
use super::{BASE, LoadError, accept, edited};

#[test]
fn the_base_means_what_it_says() {
    let snapshot = accept(BASE);
    let node = snapshot.node();
    assert_eq!((node.name.as_str(), node.trust_domain.as_str()), ("node-a", "example.org"));
    assert_eq!(node.bpf_directory, Path::new("/sys/fs/bpf/enforcer"));
    assert_eq!(node.admin.to_string(), "127.0.0.1:15000");
    assert_eq!(node.pair.to_string(), "0.0.0.0:15443");
    assert_eq!(node.cipher, Cipher::Aes128Gcm);

    let [web, job] = snapshot.workloads() else { panic!("two workloads") };
    assert_eq!((web.id, web.name.as_str(), web.namespace.as_str()), (0, "web", "shop"));
    assert_eq!((job.id, job.name.as_str(), job.namespace.as_str()), (1, "job", "default"));
    assert_eq!(web.labels["app"], "web");
    assert_eq!(web.identity.to_string(), "spiffe://example.org/ns/default/sa/web");
    assert_eq!(web.network, NetworkRef::Path("/run/netns/a".into()));
    assert_eq!(job.network.path(), Path::new("/proc/1234/ns/net"));
    assert_eq!((web.ports.as_deref(), job.ports.as_deref()), (Some(&[80, 443][..]), None));
    assert_eq!(web.offload, Offload::Auto);
    assert_eq!((snapshot.policy_of(web).mode, snapshot.policy_of(job).mode), (Mode::Strict, Mode::Permissive));

    let [db, printer] = snapshot.peers() else { panic!("two peers") };
    assert!(matches!(&db.speaks, Speaks::Enforcer(identity) if identity.path().ends_with("/sa/db")));
    assert_eq!(printer.speaks.identity(), None);
    assert_eq!((db.agent, printer.agent), (None, None));
    assert_eq!(snapshot.policy_of(web).path, WantedPath::Auto);
}

#[test]
fn the_example_is_valid() {
    let snapshot = accept(include_str!("../../../examples/agent.yaml"));
    assert_eq!((snapshot.workloads().len(), snapshot.peers().len()), (2, 3));
    assert_eq!(snapshot.policy_of(&snapshot.workloads()[1]).mode, Mode::Permissive);
    assert_eq!(snapshot.policy_of(&snapshot.workloads()[1]).path, WantedPath::Relay);
    assert!(snapshot.peers()[0].agent.is_some());
}

#[test]
fn other_trust_domains_have_their_bundles() {
    let text = edited("  admin:", "  federation: { partner.example: /etc/partner.pem, b: /etc/b.pem }\n  admin:");
    let federation = accept(&text).node().federation.clone();
    let bundles: Vec<_> = federation.iter().map(|(domain, path)| (domain.as_str(), path.to_str().unwrap())).collect();
    assert_eq!(bundles, [("b", "/etc/b.pem"), ("partner.example", "/etc/partner.pem")]);
}

#[test]
fn where_certificates_come_from_and_go_to() {
    let node = accept(BASE).node().clone();
    assert_eq!((node.identity_source, node.workload_api), (None, None));
    for text in ["unix:///run/spire/agent.sock", "unix:/run/spire/agent.sock", "unix:////run//spire/agent.sock"] {
        let snapshot = accept(&edited("  admin:", &format!("  identitySource: {{ workloadApi: {text} }}\n  admin:")));
        assert_eq!(snapshot.node().identity_source.as_deref(), Some(Path::new("/run/spire/agent.sock")), "{text}");
    }
    let snapshot = accept(&edited("  admin:", "  workloadApi: /run/enforcer/workload.sock\n  admin:"));
    assert_eq!(snapshot.node().workload_api.as_deref(), Some(Path::new("/run/enforcer/workload.sock")));
}

#[test]
fn limits_that_are_not_named_are_as_usual() {
    let usual = Limits::default();
    assert_eq!(accept(BASE).workloads()[0].limits, usual);
    let limits = |text: &str| accept(&edited("offload: auto", text)).workloads()[0].limits;
    assert_eq!(limits("limits: { held: 1 }"), Limits { held: 1, ..usual });
    let all = limits("limits: { connections: 9, held: 8, handshakes: 7, relayMemoryMiB: 6 }");
    assert_eq!(all, Limits { connections: 9, held: 8, handshakes: 7, relay_memory: 6 });
}

#[test]
fn public_names_have_an_authority_and_ports() {
    assert_eq!((accept(BASE).node().acme.clone(), accept(BASE).workloads()[0].public.clone()), (None, None));
    let acme = "directory: 'https://acme.example:14000/dir', termsOfServiceAgreed: true";
    let text = edited("  admin:", &format!("  acme: {{ {acme} }}\n  admin:"));
    let text = text.replace("  offload: auto", "  public: { names: [www.example.org, xn--a-0.b2], ports: [443] }");
    let snapshot = accept(&text);
    let found = snapshot.node().acme.clone().unwrap();
    assert_eq!(found.directory, "https://acme.example:14000/dir");
    assert_eq!((found.contact.len(), found.roots.to_str()), (0, Some("/etc/ssl/certs/ca-certificates.crt")));
    let public = snapshot.workloads()[0].public.clone().unwrap();
    assert_eq!((public.names.len(), public.ports), (2, vec![443]));
    let all = format!("{acme}, contact: ['mailto:a@b.example'], roots: /etc/roots.pem");
    let found = accept(&text.replace(acme, &all)).node().acme.clone().unwrap();
    assert_eq!(
        (found.contact.as_slice(), found.roots.to_str()),
        (&["mailto:a@b.example".to_owned()][..], Some("/etc/roots.pem"))
    );
}

#[test]
fn other_spellings() {
    for (from, to) in [
        ("kind: Node", "\"kind\": 'Node'"),
        ("kind: Node", "%YAML 1.2\n---\nkind: Node"),
        ("kind: Node", "\u{feff}kind: Node"),
        ("kind: Node", "# comment\napiVersion: enforcer/v1\nkind: Node"),
        ("  mode: permissive", "  mode: permissive\n...\n---\n"),
        ("  name: node-a", "  name: >-\n    node-a"),
        ("name: node-a", "name: \"12\""),
        ("127.0.0.1:15000", "\"[::1]:15000\""),
        ("127.0.0.1:15000", "'[::ffff:127.0.0.1]:15000'"),
        ("  admin: 127.0.0.1:15000\n", ""),
        ("  admin:", "  pair: \"[::]:1\"\n  admin:"),
        ("  admin:", "  cipher: chacha20-poly1305\n  admin:"),
        ("  admin:", "  cipher: aes-256-gcm\n  admin:"),
        ("  admin:", "  pair: 192.0.2.7:65535\n  admin:"),
        ("[443, 80]", "[0x50, 0o17, +443, 00022]"),
        ("  offload: auto\n", ""),
        ("offload: auto", "offload: on"),
        ("{ pid: 1234 }", "{ path: /run/netns/a }\n  ports: [81]"),
        ("/cgroup/job", "/cgroup/web-job"),
        ("10.1.7.7", "10.1.0.0/24"),
        ("  selector: { workloads: [job] }\n", ""),
        ("speaks: plaintext", "speaks: mtls\n  identity: spiffe://other.org/x"),
    ] {
        accept(&edited(from, to));
    }
    accept(&BASE.replace('\n', "\r\n"));
    accept("{kind: Node, spec: {name: a, trustDomain: b, stateDirectory: /c}}");
}

#[test]
fn the_same_prefix_twice_with_one_meaning() {
    let again = "---\nkind: Peer\nmetadata: { name: again }\nspec: { addresses: [10.1.7.7], speaks: plaintext }\n";
    assert_eq!(accept(&format!("{BASE}{again}")).peers().len(), 3);
}

#[test]
fn an_agent_without_a_port_is_at_the_usual_one() {
    for (text, expected) in [
        ("192.0.2.7", "192.0.2.7:15443"),
        ("192.0.2.7:1", "192.0.2.7:1"),
        ("fd00::7", "[fd00::7]:15443"),
        ("'[fd00::7]:1'", "[fd00::7]:1"),
        ("'::ffff:192.0.2.7'", "192.0.2.7:15443"),
        ("127.0.0.1", "127.0.0.1:15443"),
    ] {
        let snapshot = accept(&edited("sa/db", &format!("sa/db\n  agent: {text}")));
        assert_eq!(snapshot.peers()[0].agent, Some(expected.parse().unwrap()), "{text}");
        assert_eq!(snapshot.paired(), HashSet::from(["spiffe://example.org/ns/default/sa/db".parse().unwrap()]));
    }
}

#[test]
fn the_policy_that_names_a_workload_wins() {
    let general = "kind: MtlsPolicy\nmetadata: { name: all }\nspec: { mode: permissive, path: direct }\n---\n";
    let snapshot = accept(&format!("{general}{}", edited("mode: permissive", "mode: strict")));
    let modes: Vec<_> = snapshot.workloads().iter().map(|workload| snapshot.policy_of(workload).mode).collect();
    assert_eq!(modes, [Mode::Permissive, Mode::Strict]);
    let paths: Vec<_> = snapshot.workloads().iter().map(|workload| snapshot.policy_of(workload).path).collect();
    assert_eq!(paths, [WantedPath::Direct, WantedPath::Direct]);
    let mut stranger = snapshot.workloads()[0].clone();
    stranger.name = "stranger".to_owned();
    assert_eq!(
        (snapshot.policy_of(&stranger).mode, snapshot.policy_of(&stranger).path),
        (Mode::Strict, WantedPath::Auto)
    );
}

#[test]
fn the_longest_prefix_decides() {
    let peer = |name: &str, addresses: &str| {
        format!(
            "---\nkind: Peer\nmetadata: {{ name: {name} }}\nspec: {{ addresses: [{addresses}], speaks: plaintext }}\n"
        )
    };
    let text = [
        "{kind: Node, spec: {name: a, trustDomain: b, stateDirectory: /c}}\n".to_owned(),
        peer("ten", "10.0.0.0/8"),
        peer("half", "10.128.0.0/9"),
        peer("host", "10.128.0.1"),
        peer("mapped", "'::ffff:172.16.0.0/108', '::ffff:192.0.2.1'"),
        peer("six", "'fd00::/8'"),
        peer("six-host", "'fd00::2'"),
    ];
    let snapshot = accept(&text.concat());
    for (address, expected) in [
        ("10.0.0.1", Some("ten")),
        ("10.127.255.255", Some("ten")),
        ("10.128.0.0", Some("half")),
        ("10.128.0.1", Some("host")),
        ("10.128.0.2", Some("half")),
        ("::ffff:10.128.0.1", Some("host")),
        ("::ffff:10.0.0.1", Some("ten")),
        ("::10.0.0.1", None),
        ("11.0.0.1", None),
        ("172.31.255.255", Some("mapped")),
        ("172.32.0.0", None),
        ("192.0.2.1", Some("mapped")),
        ("192.0.2.2", None),
        ("fd00::1", Some("six")),
        ("fd00::2", Some("six-host")),
        ("fe00::", None),
    ] {
        let address: IpAddr = address.parse().unwrap();
        assert_eq!(snapshot.peer_of(address).map(|peer| peer.name.as_str()), expected, "{address}");
    }
    let everything = accept(&[text[0].as_str(), &peer("all", "0.0.0.0/0")].concat());
    assert!(everything.peer_of("::ffff:1.2.3.4".parse().unwrap()).is_some());
    assert!(everything.peer_of("::1".parse().unwrap()).is_none());
}

#[test]
fn loading_looks_at_the_host() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| -> PathBuf {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    // A directory that exists but is no cgroup, a namespace that does not exist, and this process's own.
    let own = format!("pid: {}", std::process::id());
    let text =
        edited("/sys/fs/cgroup/web", "/proc").replace("/run/netns/a", "/run/netns/absent/a").replace("pid: 1234", &own);
    let error = load(&file("agent.yaml", &text)).expect_err("nothing of it exists").to_string();
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(lines.len(), 4, "{error}");
    assert!(lines[0].contains("agent.yaml:12:11: cgroup \"/proc\" is no cgroup2 directory; "), "{error}");
    assert!(
        lines[1].contains("agent.yaml:13:12: network namespace \"/run/netns/absent/a\" cannot be opened; "),
        "{error}"
    );
    assert!(lines[2].contains("agent.yaml:21:11: cgroup \"/sys/fs/cgroup/job\" cannot be opened; "), "{error}");
    assert!(lines[3].contains("agent.yaml:22:12: ") && lines[3].contains("is the agent's own; "), "{error}");

    let one_by_two_names =
        edited("/run/netns/a", "/proc/self/ns/net").replace("{ pid: 1234 }", &format!("{{ {own} }}"));
    let error = load(&file("two-names.yaml", &one_by_two_names)).expect_err("one namespace, no ports").to_string();
    assert!(error.contains("two-names.yaml:22:12: \"job\" shares its network and has no ports; "), "{error}");

    let node_only = file("node.yaml", "{kind: Node, spec: {name: a, trustDomain: b, stateDirectory: /c}}");
    assert!(load(&node_only).is_ok());
    let absent = load(&directory.path().join("absent.yaml"));
    assert!(matches!(absent, Err(LoadError::Read { .. })), "{absent:?}");
}
