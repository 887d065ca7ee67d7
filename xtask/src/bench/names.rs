//! What is compared and what is measured, by the names on the command line. What tables call them is told by the program
//! that measures.

/// In the order of the tables.
pub(crate) const PATHS: [&str; 12] = [
    "plain",
    "outside",
    "floor",
    "direct",
    "relay",
    "relay-ktls",
    "ipsec",
    "wireguard",
    "nginx",
    "haproxy",
    "envoy",
    "envoy-http",
];

/// In the order of the report.
pub(crate) const WORKLOADS: [&str; 14] = [
    "rt64",
    "rt1k",
    "rt64x32",
    "http1",
    "http64",
    "connect",
    "connect500",
    "rush",
    "stream",
    "bidi",
    "redis1",
    "redis16",
    "idle",
    "start",
];

/// Ours: what `--check` judges.
pub(crate) const OURS: [&str; 4] = ["outside", "direct", "relay", "relay-ktls"];

/// Pairs of proxies beside the applications, with mutual TLS between them. Each terminates connections and shakes hands.
pub(crate) const SIDECARS: [&str; 4] = ["nginx", "haproxy", "envoy", "envoy-http"];
