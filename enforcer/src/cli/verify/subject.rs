//! Who the two ends are, from the configuration that the agent runs with.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use super::{Args, Error};
use crate::cli::ask;
use crate::cli::ends::{End, split};
use crate::control::file::parse_file;
use crate::control::snapshot::{Snapshot, Workload};
use crate::observe::report::ConnectionReport;

/// Shortest text of which it means something that it is not seen: by chance so many octets are in a megabyte of
/// ciphertext once in 4,000 times.
const SHORTEST: usize = 4;

/// Whom the question is about.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    /// Where the agent answers.
    pub(super) admin: SocketAddr,
    /// The workload of this node.
    pub(super) workload: Workload,
    /// The other end.
    pub(super) other: Other,
    /// The port that was named.
    pub(super) port: Option<u16>,
}

/// The other end.
#[derive(Clone, Debug)]
pub(super) struct Other {
    /// As it was named.
    pub(super) name: String,
    /// What it must prove to be.
    pub(super) identity: Option<String>,
    /// Where it is.
    pub(super) addresses: Vec<IpNet>,
    /// Its agent takes pair sessions, so that a relayed connection need not have a handshake in it.
    pub(super) has_agent: bool,
}

impl Subject {
    /// Looks both ends up.
    pub(super) fn find(args: &Args) -> Result<Self, Error> {
        if args.send.as_ref().is_some_and(|text| text.len() < SHORTEST) {
            return Err(Error::Usage(format!("--send needs at least {SHORTEST} octets: fewer may be seen by chance")));
        }
        let (snapshot, admin) = configuration(args)?;
        let subject = Self::of(&snapshot, admin, (&args.one, &args.other))?;
        if let (Some(port), None, false) = (subject.port, subject.target(), args.existing) {
            let name = &subject.other.name;
            return Err(Error::Usage(format!(
                "{name} is not one address: name the one to connect to, such as 10.0.0.2:{port}"
            )));
        }
        Ok(subject)
    }

    fn of(snapshot: &Snapshot, admin: SocketAddr, (one, other): (&str, &str)) -> Result<Self, Error> {
        let find = |text: &str| End::find(snapshot, text).map_err(|error| Error::Usage(error.to_string()));
        let Some(workload) = find(one)?.workload else {
            let names: Vec<_> = snapshot.workloads().iter().map(|workload| workload.name.as_str()).collect();
            return Err(Error::Usage(format!(
                "{one:?} is no workload of this node, which has {}; ask on its own node",
                names.join(", ")
            )));
        };
        let (name, port) = match other.parse::<IpAddr>() {
            Ok(_address) => (other, None),
            Err(_) => split(other).map_or((other, None), |(name, port)| (name, Some(port))),
        };
        let end = find(name)?;
        let addresses = match (name.parse::<IpAddr>(), end.peer) {
            (Ok(address), _) => vec![IpNet::from(address.to_canonical())],
            (Err(_), Some(peer)) => peer.addresses.clone(),
            (Err(_), None) => Vec::new(),
        };
        let other = Other {
            name: name.to_owned(),
            identity: end.identity.as_ref().map(ToString::to_string),
            addresses,
            has_agent: end.peer.is_some_and(|peer| peer.agent.is_some()),
        };
        Ok(Self { admin, workload: workload.clone(), other, port })
    }

    /// Where to connect to, if that is known.
    pub(super) fn target(&self) -> Option<SocketAddr> {
        let hosts = self.other.addresses.iter().filter(|prefix| prefix.prefix_len() == prefix.max_prefix_len());
        Some(SocketAddr::new(hosts.map(IpNet::addr).next()?, self.port?))
    }

    /// Whether a connection is between the two, at the port that was named, if one was.
    pub(super) fn is_about(&self, connection: &ConnectionReport) -> bool {
        let other = match connection.direction.as_str() {
            "outbound" => connection.destination,
            _ => connection.source,
        };
        let address = IpNet::from(other.ip().to_canonical());
        let is_other = self.other.addresses.iter().any(|prefix| prefix.contains(&address))
            || self.other.identity.is_some() && connection.peer == self.other.identity;
        connection.workload == self.workload.name
            && is_other
            && self.port.is_none_or(|port| connection.destination.port() == port)
    }
}

/// The configuration, and where the agent is.
fn configuration(args: &Args) -> Result<(Snapshot, SocketAddr), Error> {
    let default = SocketAddr::from(([127, 0, 0, 1], 15_000));
    if let Some(file) = &args.config {
        let snapshot = parse_file(file).map_err(Error::Config)?;
        let admin = args.admin.unwrap_or(snapshot.node().admin);
        ask::status(admin).map_err(Error::Agent)?;
        return Ok((snapshot, admin));
    }
    let admin = args.admin.unwrap_or(default);
    let status = ask::status(admin).map_err(Error::Agent)?;
    let file = status.configuration.map(|configuration| PathBuf::from(configuration.file));
    let Some(file) = file.filter(|file| file.is_absolute()) else {
        let what = "the agent does not say where its configuration is, or not by a whole path: use --config";
        return Err(Error::Usage(what.to_owned()));
    };
    Ok((parse_file(&file).map_err(Error::Config)?, admin))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::control::file::parse;

    const EXAMPLE: &str = include_str!("../../../examples/agent.yaml");

    pub(in crate::cli::verify) fn subject(one: &str, other: &str) -> Result<Subject, Error> {
        let snapshot = parse(EXAMPLE, "agent.yaml").unwrap();
        Subject::of(&snapshot, snapshot.node().admin, (one, other))
    }

    #[test]
    fn ends_are_named_as_elsewhere() {
        let db = "spiffe://example.org/ns/default/sa/db";
        for (other, port, target) in [
            ("db:5432", Some(5432), Some("10.0.0.2:5432")),
            ("db", None, None),
            (db, None, None),
            ("10.1.2.3:80", Some(80), Some("10.1.2.3:80")),
            ("[fd00::2]:80", Some(80), Some("[fd00::2]:80")),
            ("fd00::2", None, None),
            ("203.0.113.9:80", Some(80), Some("203.0.113.9:80")),
        ] {
            let found = subject("web", other).unwrap();
            assert_eq!(found.port, port, "{other}");
            assert_eq!(found.target(), target.map(|target| target.parse().unwrap()), "{other}");
            let expected = if other.starts_with("203") { None } else { Some(db) };
            assert_eq!(found.other.identity.as_deref(), expected, "{other}");
        }
        // A workload of the same node has no address but one that is named.
        assert_eq!(subject("web", "cache:6379").unwrap().target(), None);
    }

    #[test]
    fn names_that_are_not_there_are_said_to_be_wrong() {
        for (one, other, expected) in [
            ("wbe", "db:1", "no Workload and no Peer \"wbe\""),
            ("db", "web:1", "\"db\" is no workload of this node, which has web, cache"),
            ("web", "bd:1", "no Workload and no Peer \"bd\""),
        ] {
            let error = subject(one, other).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.code(), super::super::ExitCode::Usage);
        }
    }
}
