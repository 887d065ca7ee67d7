//! Any octets as a configuration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::file::{LoadError, parse};
use super::issuing;
use super::snapshot::Snapshot;

/// As the file of an agent.
pub(crate) fn agent(file: &[u8]) -> Option<Snapshot> {
    let snapshot = parse(file, "t").inspect_err(check).ok()?;
    for workload in snapshot.workloads() {
        assert!(!workload.name.is_empty());
        drop(snapshot.policy_of(workload));
    }
    for peer in snapshot.peers() {
        for prefix in &peer.addresses {
            assert!(snapshot.peer_of(prefix.addr()).is_some(), "{prefix} is in its own registry");
        }
    }
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let _peer = snapshot.peer_of(address);
    }
    drop(snapshot.paired());
    Some(snapshot)
}

/// As the file of control.
pub(crate) fn issuing(file: &[u8]) {
    if let Err(error) = issuing::parse(file, Path::new("t")) {
        check(&error);
    }
}

/// Every problem is a line of its own that no text of the file can break or flood.
fn check(error: &LoadError) {
    let text = error.to_string();
    for line in text.lines() {
        assert!(line.starts_with("t:"), "{text:?}");
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(line.len() < 4096, "{line:?}");
    }
}
