//! Every policy of the table against every attempt of it: what the loader makes of the text, and what is decided.

mod outside;

use super::*;
use crate::control::file::parse;
use crate::control::snapshot::Snapshot;

/// Who wants to talk with the workload `web`, from where, and to which port.
const ATTEMPTS: [(&str, &str, u16); 12] = [
    ("spiffe://example.org/ns/shop/sa/front", "10.0.0.2", 443),
    ("spiffe://example.org/ns/shop/sa/front", "10.0.0.2", 80),
    ("spiffe://example.org/ns/shop/sa/back", "10.0.0.3", 443),
    // Not below `/ns/shop/`.
    ("spiffe://example.org/ns/shopping/sa/front", "10.0.0.4", 443),
    ("spiffe://example.org/ns/default/sa/front", "10.1.0.2", 443),
    ("spiffe://partner.example/ns/shop/sa/front", "192.0.2.9", 443),
    // Nobody who proves anything.
    ("", "10.0.0.2", 443),
    ("", "203.0.113.7", 80),
    ("spiffe://example.org/ns/shop/sa/front", "fd00::2", 443),
    // No namespace.
    ("spiffe://example.org/shop/front", "10.0.0.5", 443),
    ("spiffe://example.org/ns/shop/sa/front/x", "10.0.0.2", 443),
    // What a dual-stack socket reports for 10.0.0.2.
    ("spiffe://example.org/ns/shop/sa/front", "::ffff:10.0.0.2", 443),
];

/// Rules, and what becomes of each attempt: `.` allowed without a rule, `a` allowed by one, `d` denied, `n` not allowed;
/// `D` and `N`: it would be, if rules under audit were in force.
const TABLE: [(&str, &str); 26] = [
    ("allow: [{ identities: ['spiffe://example.org/ns/shop/sa/front'] }]", "aannnnnnanna"),
    ("deny: [{ identities: ['spiffe://example.org/ns/shop/sa/front'] }]", "dd......d..d"),
    ("allow: [{ identities: ['spiffe://example.org/ns/shop/*'] }]", "aaannnnnanaa"),
    ("deny: [{ identities: ['spiffe://example.org/ns/shop/*'] }]", "ddd.....d.dd"),
    ("allow: [{ identities: ['spiffe://example.org/*'] }]", "aaaaannnaaaa"),
    ("deny: [{ identities: ['spiffe://example.org/*'] }]", "ddddd...dddd"),
    ("allow: [{ identities: ['spiffe://example.org/ns/shop/sa/front/*'] }]", "nnnnnnnnnnan"),
    ("allow: [{ namespaces: [shop] }]", "aaannannanaa"),
    ("deny: [{ namespaces: [shop, default] }]", "ddd.dd..d.dd"),
    ("allow: [{ trustDomains: [partner.example] }]", "nnnnnannnnnn"),
    ("deny: [{ trustDomains: [example.org] }]", "ddddd...dddd"),
    ("allow: [{ addresses: [10.0.0.0/24] }]", "aaaannannaaa"),
    ("deny: [{ addresses: [10.0.0.2, 'fd00::/64'] }]", "dd....d.d.dd"),
    ("allow: [{ addresses: [0.0.0.0/0] }]", "aaaaaaaanaaa"),
    ("allow: [{ ports: [443] }]", "anaaaaanaaaa"),
    ("deny: [{ ports: ['79-81'] }]", ".d.....d...."),
    // All of a rule must hold.
    ("allow: [{ namespaces: [shop], trustDomains: [example.org], ports: [443] }]", "anannnnnanaa"),
    ("allow: [{ identities: ['spiffe://example.org/*'], addresses: [10.0.0.0/24] }]", "aaaannnnnaaa"),
    ("deny: [{ addresses: [10.0.0.0/8], ports: [80] }]", ".d.........."),
    // Any rule of a list.
    ("allow: [{ ports: [80] }, { namespaces: [default] }]", "nannannannnn"),
    ("deny: [{ ports: [80] }, { namespaces: [default] }]", ".d..d..d...."),
    // What is denied is not allowed by another rule.
    (
        "{ allow: [{ namespaces: [shop] }], deny: [{ identities: ['spiffe://example.org/ns/shop/sa/back'] }] }",
        "aadnnannanaa",
    ),
    ("{ allow: [{ addresses: [10.0.0.0/8] }], deny: [{ ports: [80] }] }", "adaaanadnaaa"),
    ("{ allow: [{ ports: [443] }], deny: [{ trustDomains: [partner.example] }] }", "anaaadanaaaa"),
    // Together with an allow list of another policy that is under audit, and with a deny list.
    ("AUDIT allow: [{ namespaces: [shop] }]", "aaaNNaNNaNaa"),
    ("AUDIT deny: [{ ports: [80] }]", ".D.....D...."),
];

/// Six lines.
fn base() -> &'static str {
    "kind: Node\nspec: { name: n, trustDomain: example.org, stateDirectory: /s, federation: { partner.example: /p.pem } }\n\
     ---\nkind: Workload\nmetadata: { name: web, namespace: shop, labels: { app: web } }\n\
     spec: { identity: 'spiffe://example.org/ns/shop/sa/web', cgroup: /c, network: { path: /n }, ports: [80, 443] }\n"
}

fn loaded(policies: &str) -> Snapshot {
    let text = format!("{}{policies}", base());
    parse(&text, "test.yaml").unwrap_or_else(|error| panic!("{error}\nin\n{text}"))
}

fn policy(spec: &str) -> String {
    format!("---\nkind: MtlsPolicy\nmetadata: {{ name: p }}\nspec: {{ {spec} }}\n")
}

fn web(snapshot: &Snapshot) -> Arc<Policy> {
    snapshot.policy_of(&snapshot.workloads()[0])
}

/// The letter of the table, and the rule.
fn judged(
    policy: &Policy,
    direction: Direction,
    (identity, address, port): (&str, &str, u16),
) -> (char, Option<String>) {
    let identity = (!identity.is_empty()).then(|| identity.parse().unwrap());
    let attempt = Attempt { direction, identity: identity.as_ref(), address: address.parse().unwrap(), port };
    let Decision { verdict, rule } = policy.decide(&attempt);
    let letter = match (verdict, &rule) {
        (Verdict::Allowed, None) => '.',
        (Verdict::Allowed, Some(_)) => 'a',
        (Verdict::Refused(Refusal::Denied), _) => 'd',
        (Verdict::Refused(Refusal::NotAllowed), _) => 'n',
        (Verdict::Audited(Refusal::Denied), _) => 'D',
        (Verdict::Audited(Refusal::NotAllowed), _) => 'N',
    };
    (letter, rule.map(|rule| rule.to_string()))
}

#[test]
fn every_attempt_under_every_policy_is_decided_as_the_table_says() {
    for (rules, expected) in TABLE {
        let (audit, rules) = rules.strip_prefix("AUDIT ").map_or(("", rules), |rules| ("audit: true, ", rules));
        let rules = if rules.starts_with('{') { rules.to_owned() } else { format!("{{ {rules} }}") };
        let inbound = web(&loaded(&policy(&format!("{audit}inbound: {rules}"))));
        let outbound = web(&loaded(&policy(&format!("{audit}outbound: {rules}"))));
        let decided = |policy: &Policy, direction| -> String {
            ATTEMPTS.iter().map(|&attempt| judged(policy, direction, attempt).0).collect()
        };
        assert_eq!(decided(&inbound, Direction::Inbound), expected, "inbound: {rules}");
        assert_eq!(decided(&outbound, Direction::Outbound), expected, "outbound: {rules}");
        let unruled = ".".repeat(ATTEMPTS.len());
        assert_eq!(decided(&inbound, Direction::Outbound), unruled, "rules for the other direction");
        assert_eq!(decided(&outbound, Direction::Inbound), unruled, "rules for the other direction");
    }
}

#[test]
fn the_rule_that_decided_is_named() {
    let named = "inbound: { deny: [{ name: no-partner, trustDomains: [partner.example] }, { ports: [80] }], \
                 allow: [{ name: shop, namespaces: [shop] }] }";
    let policy = web(&loaded(&policy(named)));
    let cases = [
        (ATTEMPTS[5], "p/inbound.deny/no-partner"),
        (ATTEMPTS[1], "p/inbound.deny/2"),
        (ATTEMPTS[0], "p/inbound.allow/shop"),
        (ATTEMPTS[4], "p/inbound.allow"),
    ];
    for (attempt, expected) in cases {
        assert_eq!(judged(&policy, Direction::Inbound, attempt).1.as_deref(), Some(expected), "{attempt:?}");
    }
}

#[test]
fn rules_of_all_policies_that_select_a_workload_count_together() {
    let one = policy("inbound: { allow: [{ namespaces: [shop] }] }");
    let other = |spec: &str| policy(spec).replace("name: p", "name: q");
    let both = |spec: &str| web(&loaded(&format!("{one}{}", other(spec))));
    let decided = |policy: &Policy| -> String {
        ATTEMPTS.iter().map(|&attempt| judged(policy, Direction::Inbound, attempt).0).collect()
    };
    assert_eq!(decided(&both("inbound: { allow: [{ ports: [80] }] }")), "aaannanaanaa");
    let denied = both("selector: { labels: { app: web } }, inbound: { deny: [{ ports: [80] }] }");
    assert_eq!(decided(&denied), "adannandanaa");
    // Under audit more is allowed as well: what the rules in force refuse stays refused.
    assert_eq!(decided(&both("audit: true, inbound: { allow: [{ ports: [80] }] }")), "aaannannanaa");
    let audited = both("audit: true, inbound: { deny: [{ identities: ['spiffe://example.org/ns/shop/sa/back'] }] }");
    assert_eq!(decided(&audited), "aaDnnannanaa");
}

#[test]
fn the_closest_policy_says_mode_and_path() {
    let named = |name: &str, spec: &str| policy(spec).replace("name: p", &format!("name: {name}"));
    let all = [
        named("all", "mode: permissive, path: relay"),
        named("shop", "selector: { namespaces: [shop] }, mode: strict"),
        named("labels", "selector: { labels: { app: web } }, mode: strict"),
        named("web", "selector: { workloads: [web] }, path: direct"),
    ];
    let found = web(&loaded(&all.concat()));
    assert_eq!((found.mode, found.path), (Mode::Strict, WantedPath::Direct));
    let found = web(&loaded(&all[..2].concat()));
    assert_eq!((found.mode, found.path), (Mode::Strict, WantedPath::Relay));
}

#[test]
fn identities_are_below_a_path_or_one() {
    for text in ["spiffe://example.org/*", "spiffe://example.org/ns/shop/*", "spiffe://example.org/ns/shop/sa/web"] {
        assert_eq!(text.parse::<Identities>().unwrap().to_string(), text);
    }
    for text in [
        "*",
        "spiffe://*",
        "spiffe://example.org*",
        "spiffe://example.org/ns/*/sa/web",
        "spiffe://example.org/ns/sh*",
        "spiffe://Example.org/*",
        "spiffe://example.org//*",
        "example.org/*",
        "spiffe:///*",
        "",
    ] {
        assert!(text.parse::<Identities>().is_err(), "{text}");
    }
    let below: Identities = "spiffe://example.org/ns/shop/*".parse().unwrap();
    assert!(below.may_be_in("shop") && !below.may_be_in("sho") && !below.may_be_in("default"));
    for text in ["spiffe://example.org/*", "spiffe://example.org/ns/*"] {
        assert!(text.parse::<Identities>().unwrap().may_be_in("shop"), "{text}");
    }
    assert!(!"spiffe://example.org/sa/*".parse::<Identities>().unwrap().may_be_in("shop"));
}

#[test]
fn a_policy_that_cannot_mean_anything_is_refused_where_it_is_written() {
    let cases = [
        ("audit: true", "audit without rules"),
        ("selector: { workloads: [web] }", "the policy says nothing"),
        ("mode: strict, selector: {}", "the selector is empty"),
        ("mode: strict, selector: { labels: { app: db } }", "selects no workload"),
        ("mode: strict, selector: { workloads: [db] }", "there is no workload \"db\""),
        ("mode: strict, selector: { namespaces: [default] }", "selects no workload"),
        ("mode: strict, selector: { identities: ['spiffe://example.org/ns/default/*'] }", "selects no workload"),
        ("mode: strict, selector: { workload: [web] }", "did you mean \"workloads\"?"),
        ("inbound: {}", "inbound has no rules"),
        ("inbound: { allow: [] }", "the list is empty"),
        ("inbound: { allow: web }", "expected a list of rules"),
        ("inbound: { alow: [{ ports: [80] }] }", "did you mean \"allow\"?"),
        ("outbound: { deny: [{}] }", "the rule names nothing"),
        ("outbound: { deny: [{ name: x }] }", "the rule names nothing"),
        ("outbound: { deny: [{ port: [80] }] }", "did you mean \"ports\"?"),
        ("outbound: { deny: [{ ports: [0] }] }", "out of range"),
        ("outbound: { deny: [{ ports: ['90-80'] }] }", "are no ports"),
        ("outbound: { deny: [{ ports: ['80'] }] }", "are no ports"),
        ("outbound: { deny: [{ addresses: [10.0.0.1/8] }] }", "bits after the prefix"),
        ("outbound: { deny: [{ addresses: [10.0.0.0/33] }] }", "no address or prefix"),
        ("outbound: { deny: [{ namespaces: ['spiffe://example.org'] }] }", "is no name"),
        ("outbound: { deny: [{ trustDomains: ['spiffe://example.org'] }] }", "is no trust domain"),
        ("outbound: { deny: [{ identities: ['spiffe://example.org/ns/*/sa/web'] }] }", "names no SPIFFE IDs"),
        ("outbound: { deny: [{ identities: [web] }] }", "names no SPIFFE IDs"),
        ("outbound: { deny: [{ trustDomains: [stranger.example] }] }", "nobody of trust domain"),
        ("outbound: { deny: [{ identities: ['spiffe://stranger.example/*'] }] }", "nobody of trust domain"),
        (
            "outbound: { deny: [{ identities: ['spiffe://example.org/ns/shop/*'], namespaces: [default] }] }",
            "outside the rule's namespaces",
        ),
        (
            "outbound: { deny: [{ identities: ['spiffe://example.org/*'], trustDomains: [partner.example] }] }",
            "outside the rule's namespaces or trust domains",
        ),
        ("inbound: { allow: [{ ports: [8080] }] }", "no workload of the policy takes connections here"),
        ("inbound: { allow: [{ name: x, ports: [80] }, { name: x, ports: [443] }] }", "a second rule \"x\""),
        ("mode: lax", "is not a choice"),
        ("mode: strict, audit: 1, inbound: { deny: [{ ports: [80] }] }", "expected true or false"),
    ];
    for (spec, expected) in cases {
        let text = format!("{}{}", base(), policy(spec));
        let problem = parse(&text, "test.yaml").map(drop).unwrap_err().to_string();
        assert!(problem.contains(expected) && problem.starts_with("test.yaml:10:"), "{spec}: {problem}");
        assert_eq!(problem.lines().count(), 1, "{spec}: {problem}");
    }
}

#[test]
fn two_policies_that_want_different_things_are_refused() {
    let text =
        format!("{}{}{}", base(), policy("mode: strict"), policy("mode: permissive").replace("name: p", "name: q"));
    let problem = parse(&text, "test.yaml").map(drop).unwrap_err().to_string();
    assert!(problem.contains("another mode in policy \"p\""), "{problem}");
}

#[test]
fn ten_thousand_workloads_and_a_thousand_policies_share_what_policies_say() {
    let mut text = String::from("kind: Node\nspec: { name: n, trustDomain: example.org, stateDirectory: /s }\n");
    for number in 0..10_000 {
        let (team, identity) = (number % 100, format!("spiffe://example.org/ns/team-{}/sa/w{number}", number % 100));
        text += &format!(
            "---\nkind: Workload\nmetadata: {{ name: w{number}, namespace: team-{team} }}\n\
             spec: {{ identity: '{identity}', cgroup: /c/{number}, network: {{ path: /n/{number} }} }}\n"
        );
    }
    for number in 0..1_000 {
        text += &format!(
            "---\nkind: MtlsPolicy\nmetadata: {{ name: p{number} }}\nspec: {{ selector: {{ namespaces: [team-{}] }}, \
             inbound: {{ allow: [{{ identities: ['spiffe://example.org/ns/team-{}/*'] }}] }} }}\n",
            number % 100,
            number % 37
        );
    }
    let snapshot = parse(&text, "test.yaml").unwrap();
    let policies: Vec<_> = snapshot.workloads().iter().map(|workload| snapshot.policy_of(workload)).collect();
    let distinct: std::collections::HashSet<_> = policies.iter().map(Arc::as_ptr).collect();
    assert_eq!(distinct.len(), 100);
    assert!(policies.iter().all(|policy| policy.inbound.allow.len() == 10));
}
