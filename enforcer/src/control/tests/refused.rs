//! What is refused, where the problem is said to be, and that nothing else is said.

use super::{BASE, edited, parse, refuse};

/// An edit of the base, and the problems that it makes: `LINE:COLUMN` and a part of the message.
type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

fn check(cases: &[Case]) {
    for (from, to, expected) in cases {
        let problems = refuse(&edited(from, to));
        let list = problems.iter().map(|problem| format!("{}: {}\n", problem.at, problem.message)).collect::<String>();
        assert_eq!(problems.len(), expected.len(), "{from:?} -> {to:?}:\n{list}");
        for (problem, (at, part)) in problems.iter().zip(*expected) {
            assert_eq!(problem.at.to_string(), *at, "{from:?} -> {to:?}:\n{list}");
            assert!(problem.message.contains(part), "{part:?} is missing: {from:?} -> {to:?}:\n{list}");
            assert!(problem.message.matches("; ").count() >= 2, "what; why; what to do:\n{list}");
        }
    }
}

#[test]
fn yaml_outside_the_subset() {
    check(&[
        ("name: node-a", "name: &n node-a", &[("3:9", "an anchor")]),
        ("name: node-a", "name: *n", &[("3:9", "not YAML")]),
        ("name: node-a", "name: !!str node-a", &[("3:9", "a tag")]),
        (
            "metadata: { name: db }",
            "metadata: { name: db, name: other }",
            &[("25:23", "\"name\" stands twice, first at 25:13")],
        ),
        ("kind: Node", "kind: Node\nkind: Node", &[("2:1", "\"kind\" stands twice")]),
        ("metadata: { name: db }", "metadata: { name: db", &[("26:5", "not YAML")]),
        ("metadata: { name: db }", "metadata: { [db]: name }", &[("25:13", "a key that is not plain text")]),
        ("  name: node-a", "\tname: node-a", &[("3:2", "not YAML")]),
        (
            "metadata: { name: db }",
            "metadata:\n  <<: { name: db }",
            &[("26:3", "no field \"name\""), ("26:3", "\"<<\"")],
        ),
    ]);
}

#[test]
fn shapes_of_objects() {
    check(&[
        (
            "---\nkind: Peer\nmetadata: { name: db",
            "---\nnonsense\n---\nkind: Peer\nmetadata: { name: db",
            &[("24:1", "found the text \"nonsense\"")],
        ),
        (
            "---\nkind: Peer\nmetadata: { name: db",
            "---\n[1]\n---\nkind: Peer\nmetadata: { name: db",
            &[("24:1", "found a list")],
        ),
        ("kind: Node", "kind: Nod", &[("1:7", "did you mean \"Node\"?")]),
        ("kind: Node\n", "", &[("1:1", "no field \"kind\"")]),
        ("kind: Node", "kind: Node\napiVersion: enforcer/v2", &[("2:13", "did you mean \"enforcer/v1\"?")]),
        ("kind: Node", "kind: Node\nmetadata: {}", &[("2:1", "unknown field \"metadata\" in an object")]),
        ("metadata: { name: db }\n", "", &[("24:1", "no field \"metadata\"")]),
        (
            "metadata: { name: job }\nspec:",
            "spec:\n  offload: no",
            &[("17:1", "\"metadata\""), ("19:12", "\"no\" is not a choice")],
        ),
        (
            "metadata: { name: db }",
            "metadata: { name: db, namespace: shop }",
            &[("25:23", "unknown field \"namespace\" in Peer metadata")],
        ),
        ("metadata: { name: db }", "metadata: db", &[("25:11", "expected the fields of Peer metadata")]),
        ("spec:\n  selector: { workloads: [job] }\n  mode: permissive", "", &[("36:1", "no field \"spec\"")]),
        ("spec:\n  selector: { workloads: [job] }\n  mode: permissive", "spec:", &[("38:1", "found nothing")]),
    ]);
}

#[test]
fn fields_of_a_node() {
    check(&[
        ("  name: node-a\n", "", &[("3:3", "no field \"name\"")]),
        ("name: node-a", "nmae: node-a", &[("3:3", "no field \"name\""), ("3:3", "did you mean \"name\"? ")]),
        ("name: node-a", "name: Node_A", &[("3:9", "\"Node_A\" is no name")]),
        ("name: node-a", "name: 12", &[("3:9", "found the integer \"12\"")]),
        ("name: node-a", "name: true", &[("3:9", "found the boolean true")]),
        ("name: node-a", "name: 1e3", &[("3:9", "found the number \"1e3\"")]),
        ("name: node-a", "name:", &[("3:3", "found nothing")]),
        ("name: node-a", "name: ''", &[("3:9", "\"\" is no name")]),
        ("trustDomain: example.org", "trustDomain: Example.org", &[("4:16", "no trust domain")]),
        ("trustDomain: example.org", "trustDomain: spiffe://example.org", &[("4:16", "no trust domain")]),
        ("stateDirectory: /var/lib/enforcer", "stateDirectory: lib", &[("5:19", "no absolute path")]),
        ("stateDirectory: /var/lib/enforcer", "stateDirectory: /var/../etc", &[("5:19", "no absolute path")]),
        ("stateDirectory: /var/lib/enforcer", "stateDirectory: \"/a\\0b\"", &[("5:19", "no absolute path")]),
        ("  admin:", "  bpfDirectory: x\n  admin:", &[("6:17", "no absolute path")]),
        ("admin: 127.0.0.1:15000", "admin: 0.0.0.0:15000", &[("6:10", "not on loopback")]),
        ("admin: 127.0.0.1:15000", "admin: 127.0.0.1", &[("6:10", "no address with a port")]),
        ("admin: 127.0.0.1:15000", "admin: localhost:15000", &[("6:10", "no address with a port")]),
        ("admin: 127.0.0.1:15000", "admin: 127.0.0.1:0", &[("6:10", "port 0")]),
        ("admin: 127.0.0.1:15000", "admin: { port: 1 }", &[("6:10", "found a mapping")]),
        ("  admin:", "  pair: 0.0.0.0\n  admin:", &[("6:9", "no address with a port")]),
        ("  admin:", "  pair: 0.0.0.0:0\n  admin:", &[("6:9", "port 0")]),
        ("  admin:", "  cipher: rc4\n  admin:", &[("6:11", "chacha20-poly1305")]),
        ("  admin:", "  pair: 15443\n  admin:", &[("6:9", "found the integer \"15443\"")]),
    ]);
}

#[test]
fn other_trust_domains() {
    check(&[
        ("  admin:", "  federation: partner.example\n  admin:", &[("6:15", "expected trust domains")]),
        ("  admin:", "  federation: { partner.example: a.pem }\n  admin:", &[("6:34", "no absolute path")]),
        ("  admin:", "  federation: { Partner: /a.pem }\n  admin:", &[("6:17", "no trust domain")]),
        ("  admin:", "  federation: { example.org: /a.pem }\n  admin:", &[("6:17", "the node's own trust domain")]),
    ]);
}

#[test]
fn where_certificates_come_from_and_go_to() {
    const LONG: &str = "/a23456789/123456789/123456789/123456789/123456789/123456789/123456789/123456789/123456789/\
                        123456789/1234567";
    assert_eq!(LONG.len(), 108);
    let long = format!("  workloadApi: {LONG}\n  admin:");
    let problems = refuse(&edited("  admin:", &long));
    assert!(problems[0].message.contains("has 108 octets"), "{problems:?}");
    check(&[
        ("  admin:", "  workloadApi: workload.sock\n  admin:", &[("6:16", "no absolute path")]),
        ("  admin:", "  workloadApi: unix:/a\n  admin:", &[("6:16", "no absolute path")]),
        ("  admin:", "  identitySource: spire\n  admin:", &[("6:19", "expected the fields of identitySource")]),
        ("  admin:", "  identitySource: {}\n  admin:", &[("6:19", "no field \"workloadApi\"")]),
        (
            "  admin:",
            "  identitySource: { workloadApi: /run/a.sock }\n  admin:",
            &[("6:34", "no Workload API that is used here")],
        ),
        (
            "  admin:",
            "  identitySource: { workloadApi: 'tcp://127.0.0.1:1' }\n  admin:",
            &[("6:34", "no Workload API that is used here")],
        ),
        ("  admin:", "  identitySource: { workloadApi: 'unix://host/a' }\n  admin:", &[("6:34", "no absolute path")]),
        ("  admin:", "  identitySource: { workloadApi: 'unix:/a?b' }\n  admin:", &[("6:34", "more than a path")]),
        (
            "  admin:",
            "  control: { address: 'a:1' }\n  identitySource: { workloadApi: 'unix:/a' }\n  workloadApi: /b\n  admin:",
            &[("7:34", "identitySource beside control"), ("8:16", "workloadApi beside identitySource")],
        ),
    ]);
}

#[test]
fn fields_of_a_workload() {
    check(&[
        ("{app: web}", "web", &[("9:49", "expected labels")]),
        ("{app: web}", "{app: 1, 'a b': c}", &[("9:55", "the integer \"1\""), ("9:58", "\"a b\" is no label")]),
        ("namespace: shop", "namespace: S", &[("9:35", "\"S\" is no name")]),
        ("identity: spiffe://example.org/ns/default/sa/web", "identity: web", &[("11:13", "\"web\" is no SPIFFE ID")]),
        ("  cgroup: /sys/fs/cgroup/web\n", "", &[("11:3", "no field \"cgroup\"")]),
        ("{ path: /run/netns/a }", "{}", &[("13:12", "neither path nor pid")]),
        ("{ path: /run/netns/a }", "{ path: /run/netns/a, pid: 1 }", &[("13:12", "both path and pid")]),
        (
            "{ path: /run/netns/a }",
            "{ name: a }",
            &[("13:12", "neither path nor pid"), ("13:14", "unknown field \"name\"")],
        ),
        ("{ path: /run/netns/a }", "/run/netns/a", &[("13:12", "expected the fields of network")]),
        ("pid: 1234", "pid: 0", &[("22:19", "\"0\" is out of range; it is 1 to 4194304")]),
        ("pid: 1234", "pid: '1234'", &[("22:19", "expected an integer")]),
        ("[443, 80]", "[]", &[("14:10", "the list is empty")]),
        ("[443, 80]", "80", &[("14:10", "expected a list, found the integer")]),
        ("[443, 80]", "", &[("14:3", "expected a list, found nothing")]),
        (
            "[443, 80]",
            "[0, 65536, -1, 99999999999999999999]",
            &[("14:11", "range"), ("14:14", "range"), ("14:21", "range"), ("14:25", "range")],
        ),
        ("[443, 80]", "[80, 443, 80]", &[("14:20", "stands in the list before")]),
        ("[443, 80]", "[8_0, 80.0]", &[("14:11", "found the text \"8_0\""), ("14:16", "found the number \"80.0\"")]),
        ("offload: auto", "offload: yes", &[("15:12", "use one of: auto, on, off")]),
        ("offload: auto", "offload: ON", &[("15:12", "did you mean \"on\"?")]),
        ("offload: auto", "limits: 7", &[("15:11", "expected the fields of limits")]),
        ("offload: auto", "limits: { held: 0 }", &[("15:19", "is out of range; it is 1 to 65536")]),
        ("offload: auto", "limits: { memory: 7 }", &[("15:13", "unknown field \"memory\" in limits")]),
        ("offload: auto", "path: relay", &[("15:3", "unknown field \"path\" in Workload spec")]),
    ]);
}

#[test]
fn fields_of_peers_and_policies() {
    check(&[
        ("  identity: spiffe://example.org/ns/default/sa/db\n", "", &[("27:3", "no field \"identity\"")]),
        ("speaks: plaintext", "speaks: plain", &[("34:11", "use one of: enforcer, mtls, plaintext")]),
        ("speaks: plaintext", "speaks: mtls", &[("33:3", "no field \"identity\"")]),
        (
            "speaks: plaintext",
            "speaks: plaintext\n  identity: spiffe://a/b",
            &[("35:13", "an identity for a plaintext peer")],
        ),
        ("[10.1.7.7]", "[10.1.7.7/16]", &[("33:15", "write 10.1.0.0/16 or 10.1.7.7")]),
        ("[10.1.7.7]", "['fd00::1/8']", &[("33:15", "write fd00::/8 or fd00::1")]),
        (
            "[10.1.7.7]",
            "[10.1.7, 10.1.7.7/33, db.example]",
            &[("33:15", "no address"), ("33:23", "no address"), ("33:36", "no address")],
        ),
        ("[10.1.7.7]", "[10.1.7.7, '::ffff:10.1.7.7']", &[("33:25", "stands in the list before")]),
        ("[10.1.7.7]", "[]", &[("33:14", "the list is empty")]),
        ("sa/db", "sa/db\n  agent: node-b", &[("29:10", "no address")]),
        ("sa/db", "sa/db\n  agent: '192.0.2.7:'", &[("29:10", "no address")]),
        ("sa/db", "sa/db\n  agent: 192.0.2.7:65536", &[("29:10", "no address")]),
        ("sa/db", "sa/db\n  agent: 192.0.2.7:0", &[("29:10", "is nobody's")]),
        ("sa/db", "sa/db\n  agent: '::'", &[("29:10", "is nobody's")]),
        ("speaks: plaintext", "speaks: plaintext\n  agent: 192.0.2.7", &[("35:10", "an agent for a peer without one")]),
        (
            "speaks: plaintext",
            "speaks: mtls\n  agent: 192.0.2.7\n  identity: spiffe://a/b",
            &[("35:10", "an agent for a peer without one")],
        ),
        ("mode: permissive", "mode: permissive\n  path: relayed", &[("41:9", "did you mean \"relay\"?")]),
        ("mode: permissive", "mode: permisive", &[("40:9", "did you mean \"permissive\"?")]),
        ("  mode: permissive\n", "", &[("39:3", "the policy says nothing")]),
        ("{ workloads: [job] }", "{}", &[("39:13", "the selector is empty")]),
        ("{ workloads: [job] }", "{ labels: {app: db} }", &[("39:13", "selects no workload")]),
        ("[job]", "[job, job]", &[("39:32", "stands in the list before")]),
    ]);
}

#[test]
fn objects_against_each_other() {
    const SECOND_POLICY: &str = "---\nkind: MtlsPolicy\nmetadata: { name: other }\nspec: { mode: strict }\n";
    check(&[
        (
            "name: job }\nspec:\n  identity",
            "name: web }\nspec:\n  identity",
            &[("18:19", "a second Workload \"web\", after 9:19"), ("39:27", "no workload \"job\"")],
        ),
        ("name: printer", "name: db", &[("31:19", "a second Peer \"db\"")]),
        ("[job]", "[jobs]", &[("39:27", "no workload \"jobs\"")]),
        (
            "example.org/ns/default/sa/job",
            "other.org/ns/default/sa/job",
            &[("20:13", "outside the node's trust domain")],
        ),
        ("/cgroup/job", "/cgroup/web", &[("21:11", "is also that of workload \"web\"")]),
        ("/cgroup/job", "/cgroup//./web/", &[("21:11", "is also that of workload \"web\"")]),
        ("/cgroup/job", "/cgroup/web/job", &[("21:11", "is inside that of workload \"web\"")]),
        ("/cgroup/web", "/cgroup", &[("21:11", "is inside that of workload \"web\"")]),
        ("{ pid: 1234 }", "{ path: /run/netns/a }", &[("22:12", "\"job\" shares its network")]),
        ("{ pid: 1234 }", "{ path: /run/netns/a }\n  ports: [80]", &[("23:11", "port 80 is also one of \"web\"")]),
        ("10.1.7.7", "10.1.0.0/16", &[("33:15", "10.1.0.0/16 means something else in peer \"db\"")]),
        ("10.1.7.7", "'::ffff:10.1.0.0/112'", &[("33:15", "10.1.0.0/16 means something else")]),
    ]);
    let again = "---\nkind: Peer\nmetadata: { name: again }\nspec:\n  addresses: [10.0.0.2]\n  agent: 192.0.2.7\n  \
                 identity: spiffe://example.org/ns/default/sa/db\n";
    let two_agents = refuse(&format!("{BASE}{again}"));
    assert!(two_agents[0].message.starts_with("10.0.0.2/32 means something else in peer \"db\""), "{two_agents:?}");
    let two_nodes = format!("{BASE}---\nkind: Node\nspec: {{ name: b, trustDomain: b, stateDirectory: /b }}\n");
    assert!(refuse(&two_nodes)[0].message.starts_with("a second Node"));
    let two_general =
        format!("{BASE}{SECOND_POLICY}{}", SECOND_POLICY.replace("other", "another").replace("strict", "permissive"));
    assert!(refuse(&two_general)[0].message.starts_with("workload \"web\" has another mode in policy \"other\""));
    let two_specific = format!("{BASE}{}", SECOND_POLICY.replace("{ mode", "{ selector: { workloads: [job] }, mode"));
    assert!(refuse(&two_specific)[0].message.starts_with("workload \"job\" has another mode in policy \"slack\""));
    for empty in ["", "---\n---\n# nothing\n", "\u{feff}"] {
        assert!(refuse(empty)[0].message.starts_with("there is no Node"));
    }
}

#[test]
fn three_mistakes_are_three_lines() {
    let text = BASE.replace("node-a", "Node").replace("[443, 80]", "[443, 70000]").replace("[job]", "[jab]");
    let error = parse(text, "agent.yaml").expect_err("three mistakes").to_string();
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(lines.len(), 3, "{error}");
    assert!(lines[0].starts_with("agent.yaml:3:9: \"Node\" is no name; "), "{error}");
    assert!(lines[1].starts_with("agent.yaml:14:16: \"70000\" is out of range; "), "{error}");
    assert!(lines[2].starts_with("agent.yaml:39:27: there is no workload \"jab\"; "), "{error}");
}

#[test]
fn an_object_that_cannot_be_read_is_not_called_absent() {
    let text = edited("kind: Workload\nmetadata: { name: job", "kind: Workloads\nmetadata: { name: job");
    let problems = refuse(&text);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].at.to_string(), "17:7");
}

#[test]
fn public_names() {
    const ACME: &str = "  acme: { directory: 'https://acme.example/dir', termsOfServiceAgreed: true }\n  admin:";
    let web = |public: &str| edited("  admin:", ACME).replace("  offload: auto", public);
    let cases: &[(&str, &[(&str, &str)])] = &[
        ("  public: www.example.org", &[("16:11", "expected the fields of public")]),
        ("  public: {}", &[("16:11", "no field \"names\""), ("16:11", "no field \"ports\"")]),
        ("  public: { names: [], ports: [443] }", &[("16:20", "the list is empty")]),
        ("  public: { names: [a.example, a.example], ports: [443] }", &[("16:32", "stands in the list before")]),
        ("  public: { names: [a.example], ports: [444, 80] }", &[("16:41", "none of the workload's `ports`")]),
        ("  public: { names: ['*.example.org'], ports: [443] }", &[("16:21", "cannot prove a wildcard")]),
        ("  public: { names: [192.0.2.1], ports: [443] }", &[("16:21", "an address has no name")]),
        (
            "  public: { names: [A.example, a..b, -a.b, a_b.c, localhost, a.example.], ports: [443] }",
            &[
                ("16:21", "labels"),
                ("16:32", "labels"),
                ("16:38", "labels"),
                ("16:44", "labels"),
                ("16:51", "labels"),
                ("16:62", "labels"),
            ],
        ),
    ];
    for (public, expected) in cases {
        let problems = refuse(&web(public));
        assert_eq!(problems.len(), expected.len(), "{public}: {problems:?}");
        for (problem, (at, part)) in problems.iter().zip(*expected) {
            assert_eq!(problem.at.to_string(), *at, "{public}: {problems:?}");
            assert!(problem.message.contains(part), "{public}: {problems:?}");
        }
    }
    let long = format!("  public: {{ names: [{}], ports: [443] }}", ["a"; 125].join("."));
    assert!(refuse(&web(&long))[0].message.contains("is no public name"));
    let many: Vec<_> = (0..65).map(|number| format!("n{number}.example.org")).collect();
    let many = format!("  public: {{ names: [{}], ports: [443] }}", many.join(", "));
    assert!(refuse(&web(&many))[0].message.starts_with("this is name 65 of one workload"));
    let twice = web("  public: { names: [a.example], ports: [443] }")
        .replace("{ pid: 1234 }", "{ pid: 1234 }\n  public: { names: [a.example], ports: [1] }");
    assert!(refuse(&twice)[0].message.contains("is also a name of \"web\""));
    check(&[(
        "  offload: auto",
        "  public: { names: [a.example], ports: [443] }",
        &[("15:11", "without an authority")],
    )]);
}

#[test]
fn the_authority_of_public_names() {
    check(&[
        ("  admin:", "  acme: https://a.example/dir\n  admin:", &[("6:9", "expected the fields of acme")]),
        (
            "  admin:",
            "  acme: {}\n  admin:",
            &[("6:9", "no field \"directory\""), ("6:9", "no field \"termsOfServiceAgreed\"")],
        ),
        (
            "  admin:",
            "  acme: { directory: 'http://a.example/dir', termsOfServiceAgreed: false, contact: [a@b, 'mailto:a'], roots: r }\n  admin:",
            &[
                ("6:22", "no https URL"),
                ("6:68", "the boolean false is no agreement"),
                ("6:85", "no mailto URL"),
                ("6:90", "no mailto URL"),
                ("6:110", "no absolute path"),
            ],
        ),
        (
            "  admin:",
            "  acme: { directory: 'https://u:p@a.example/dir', termsOfServiceAgreed: yes }\n  admin:",
            &[("6:22", "no https URL"), ("6:73", "the text \"yes\" is no agreement")],
        ),
    ]);
}
