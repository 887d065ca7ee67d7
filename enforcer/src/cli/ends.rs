//! How the verbs that speak of a connection are told its ends: by names of the configuration, SPIFFE IDs and addresses.

use std::net::IpAddr;

use anyhow::{Context, bail};

use crate::control::snapshot::{Peer, Snapshot, Workload};
use crate::identity::Identity;

/// `NAME:PORT`, of which the name may have colons itself.
pub(super) fn split(destination: &str) -> anyhow::Result<(&str, u16)> {
    let ends = destination.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse().ok()?)));
    let (name, port) = ends.filter(|&(_, port)| port != 0).with_context(|| {
        format!("{destination:?} has no port; rules may depend on it; write it like db:5432 or [fd00::2]:5432")
    })?;
    Ok((name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name), port))
}

/// One end of a connection, as far as this node knows it.
#[derive(Debug)]
pub(super) struct End<'a> {
    /// It is enrolled here.
    pub(super) workload: Option<&'a Workload>,
    /// The registry has it.
    pub(super) peer: Option<&'a Peer>,
    pub(super) identity: Option<Identity>,
    pub(super) address: Option<IpAddr>,
}

impl<'a> End<'a> {
    /// By a name, a SPIFFE ID or an address. An error names what it is not.
    pub(super) fn find(snapshot: &'a Snapshot, text: &str) -> anyhow::Result<Self> {
        if let Ok(address) = text.parse::<IpAddr>() {
            let peer = snapshot.peer_of(address);
            let identity = peer.and_then(|peer| peer.speaks.identity().cloned());
            return Ok(Self { workload: None, peer, identity, address: Some(address) });
        }
        let named = |workload: &&Workload| workload.name == text || workload.identity.as_str() == text;
        if let Some(Workload { name, .. }) = snapshot.off().iter().find(named) {
            bail!("workload {name} is left alone (mode: off): its connections are as without an agent");
        }
        let workload = snapshot.workloads().iter().find(named);
        let identity = workload.map(|workload| workload.identity.clone()).or_else(|| text.parse().ok());
        let is_meant = |peer: &&Peer| match &identity {
            Some(identity) => peer.speaks.identity() == Some(identity),
            None => peer.name == text,
        };
        let peer = snapshot.peers().iter().find(is_meant);
        let identity = identity.or_else(|| peer.and_then(|peer| peer.speaks.identity().cloned()));
        if workload.is_none() && peer.is_none() && identity.is_none() {
            bail!(
                "there is no Workload and no Peer {text:?} in the configuration, and it is no SPIFFE ID and no address"
            );
        }
        let address = peer.and_then(|peer| peer.addresses.first()).map(ipnet::IpNet::addr);
        Ok(Self { workload, peer, identity, address })
    }

    /// For people.
    pub(super) fn shown(&self) -> String {
        let identity = self.identity.as_ref().map(Identity::to_string);
        let address = self.address.map(|address| address.to_string());
        match (identity, address) {
            (Some(identity), Some(address)) => format!("{identity} at {address}"),
            (Some(known), None) | (None, Some(known)) => known,
            (None, None) => "nobody".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_has_a_port_and_may_have_brackets() {
        assert_eq!(split("[fd00::2]:80").unwrap(), ("fd00::2", 80));
        assert_eq!(split("db:5432").unwrap(), ("db", 5432));
        for wrong in ["db", "db:0", "db:65536"] {
            assert!(split(wrong).is_err(), "{wrong}");
        }
    }
}
