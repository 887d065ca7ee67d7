//! A direct connection as the kernel's table has it, and back.

use enforcer_ebpf::{Held, IDENTITY, Live, Reason};
use rustls::CipherSuite;
use time::OffsetDateTime;

use crate::connection::bonds::Bond;
use crate::connection::pair::{Facts, Offer};
use crate::identity::{Identity, Serial};

/// A connection both of whose ends have their keys.
pub(super) struct Opened<'a> {
    pub(super) cookie: u64,
    pub(super) held: &'a Held,
    pub(super) offer: &'a Offer,
    pub(super) peer: &'a Identity,
    /// What its keys are for: those of the session in which it was offered first.
    pub(super) suite: CipherSuite,
    pub(super) facts: &'a Facts,
    /// Tied to the certificates of the session.
    pub(super) bond: &'a Bond,
}

/// What proves the identities of an open connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proof {
    /// When the first of both certificates ends, seconds since 1970.
    pub(super) expires: u64,
    /// Both certificates, the workload's own first.
    pub(super) serials: [Serial; 2],
}

impl From<&Facts> for Proof {
    fn from(facts: &Facts) -> Self {
        Self { expires: facts.expires.unix_timestamp().unsigned_abs(), serials: facts.serials() }
    }
}

impl From<&Live> for Proof {
    fn from(live: &Live) -> Self {
        Self { expires: live.expires, serials: [live.local_serial.into(), live.peer_serial.into()] }
    }
}

impl Proof {
    /// The same connection, proved by this.
    pub(super) fn renews(&self, live: &Live) -> Live {
        let [local_serial, peer_serial] = self.serials.map(|serial| serial.octets());
        Live { expires: self.expires, local_serial, peer_serial, ..*live }
    }
}

/// What is written down of a connection of the workload `local`.
///
/// # Errors
///
/// [`Reason::IdentityTooLong`].
pub(super) fn live(opened: &Opened<'_>, local: &Identity) -> Result<Live, Reason> {
    let Proof { expires, serials } = Proof::from(opened.facts);
    let [local_serial, peer_serial] = serials.map(|serial| serial.octets());
    Ok(Live {
        netns: opened.held.netns,
        offer: opened.offer.number,
        opened: OffsetDateTime::now_utc().unix_timestamp().unsigned_abs(),
        expires,
        source: opened.held.source,
        destination: opened.held.destination,
        direction: opened.held.direction,
        cipher: u16::from(opened.suite).into(),
        local: padded(local)?,
        peer: padded(opened.peer)?,
        local_serial,
        peer_serial,
    })
}

/// An open connection as the hold table had it.
pub(super) fn held(live: &Live) -> Held {
    Held {
        netns: live.netns,
        cgroup: 0,
        source: live.source,
        destination: live.destination,
        direction: live.direction,
        stage: 0,
        process: 0,
        descriptor: -1,
    }
}

/// An identity as the kernel's table has it.
fn padded(identity: &Identity) -> Result<[u8; IDENTITY], Reason> {
    let (mut padded, name) = ([0; IDENTITY], identity.to_string());
    let place = padded.get_mut(..name.len()).ok_or(Reason::IdentityTooLong)?;
    place.copy_from_slice(name.as_bytes());
    Ok(padded)
}

/// And back.
pub(super) fn identity(padded: &[u8; IDENTITY]) -> Option<Identity> {
    let name = padded.split(|&octet| octet == 0).next()?;
    str::from_utf8(name).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use enforcer_ebpf::{DIRECTION_INBOUND, Endpoint};

    use super::*;
    use crate::connection::bonds::Bonds;
    use crate::connection::pair::{Connection, Role, Takes};

    #[test]
    fn identities_come_back_from_the_table_and_long_ones_do_not_fit() {
        let short: Identity = "spiffe://example.org/ns/default/sa/web".parse().unwrap();
        assert_eq!(identity(&padded(&short).unwrap()), Some(short));
        let name = "a".repeat(63);
        let long = format!("spiffe://{name}.{name}.{name}.{name}/ns/{name}/sa/{name}").parse();
        if let Ok(long) = long {
            assert_eq!(padded(&long).err(), Some(Reason::IdentityTooLong));
        }
        assert_eq!(identity(&[0; IDENTITY]), None);
        assert_eq!(identity(&[b'x'; IDENTITY]), None);
    }

    #[test]
    fn a_connection_comes_back_from_the_table_with_what_proves_it() {
        let [source, destination] = ["10.0.0.1:40000", "10.0.0.2:80"].map(|end| end.parse::<SocketAddr>().unwrap());
        let [source, destination] = [source, destination].map(Endpoint::from);
        let facts = |local: &str, peer: &str, expires| Facts {
            group: None,
            local_serial: local.parse().unwrap(),
            peer_serial: peer.parse().unwrap(),
            expires: OffsetDateTime::from_unix_timestamp(expires).unwrap(),
            takes: Takes::Direct,
        };
        let held = Held {
            netns: 3,
            cgroup: 0,
            source,
            destination,
            direction: DIRECTION_INBOUND,
            stage: 0,
            process: 0,
            descriptor: -1,
        };
        let [web, db] = ["web", "db"].map(|name| format!("spiffe://example.org/ns/default/sa/{name}"));
        let [web, db]: [Identity; 2] = [web.parse().unwrap(), db.parse().unwrap()];
        let opened = Opened {
            cookie: 7,
            held: &held,
            offer: &Offer { by: Role::Client, number: 5, connection: Connection::from(&held) },
            peer: &db,
            suite: CipherSuite::TLS13_AES_128_GCM_SHA256,
            facts: &facts("0a1b", "ff", 1_900_000_000),
            bond: &Bonds::default().bond(),
        };
        let written = live(&opened, &web).unwrap();
        assert_eq!(self::held(&written), held);
        assert_eq!((identity(&written.local), identity(&written.peer)), (Some(web), Some(db.clone())));
        assert_eq!(Proof::from(&written), Proof::from(opened.facts));
        assert_eq!(Proof::from(&written).serials.map(|serial| serial.to_string()), ["0a1b", "00ff"]);

        let again = Proof::from(&facts("0c", "0d", 1_900_000_060));
        let renewed = again.renews(&written);
        assert_eq!(Proof::from(&renewed), again);
        assert_eq!((renewed.offer, renewed.opened), (written.offer, written.opened));
    }
}
