//! Which connections the programs take, and how: the maps of peers, of workloads and of their ports.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, MapData, MapError};
use enforcer_ebpf::{PORT_RELAY, PortKey, WorkloadValue};
use ipnet::IpNet;

use super::Error;
use super::maps::{failed, take};
use super::tables::{Tables, puts, removals};

/// Bits of a key before those of an IPv4 address: that is v4-mapped.
const MAPPED: u32 = 96;

/// The maps. Clones are the same ones.
#[derive(Clone)]
pub struct Taken(Arc<Mutex<Maps>>);

struct Maps {
    peers: LpmTrie<MapData, [u8; 16], u32>,
    workloads: HashMap<MapData, u64, WorkloadValue>,
    ports: HashMap<MapData, PortKey, u32>,
}

impl Taken {
    pub(super) fn take(programs: &mut Ebpf) -> Result<Self, Error> {
        let (peers, workloads) = (take(programs, "PEERS")?, take(programs, "WORKLOADS")?);
        Ok(Self(Arc::new(Mutex::new(Maps { peers, workloads, ports: take(programs, "PORTS")? }))))
    }

    /// What is in the maps now.
    ///
    /// # Errors
    ///
    /// [`Error::Map`].
    pub fn read(&self) -> Result<Tables, Error> {
        let Maps { peers, workloads, ports } = &*self.locked();
        let peers = peers.iter().map(|entry| entry.map(|(key, kind)| (prefix(&key), kind)));
        Ok(Tables {
            peers: peers.collect::<Result<_, _>>().map_err(|cause| failed("list", "PEERS", cause))?,
            workloads: workloads
                .iter()
                .collect::<Result<_, _>>()
                .map_err(|cause| failed("list", "WORKLOADS", cause))?,
            ports: ports.iter().collect::<Result<_, _>>().map_err(|cause| failed("list", "PORTS", cause))?,
        })
    }

    /// Puts in what is new and what is another value, and leaves the rest alone. Returns how many entries that were.
    ///
    /// # Errors
    ///
    /// [`Error::Map`], when a map is full. [`Self::restore`] undoes what was put in.
    pub fn put(&self, before: &Tables, after: &Tables) -> Result<usize, Error> {
        let mut maps = self.locked();
        let mut written = 0;
        for (cgroup, value) in puts(&before.workloads, &after.workloads) {
            maps.workloads.insert(cgroup, value, 0).map_err(|cause| failed("insert", "WORKLOADS", cause))?;
            written += 1;
        }
        for (port, kind) in puts(&before.ports, &after.ports) {
            maps.ports.insert(port, kind, 0).map_err(|cause| failed("insert", "PORTS", cause))?;
            written += 1;
        }
        for (prefix, kind) in puts(&before.peers, &after.peers) {
            maps.peers.insert(&key(*prefix), kind, 0).map_err(|cause| failed("insert", "PEERS", cause))?;
            written += 1;
        }
        Ok(written)
    }

    /// Takes out what is not to be there any more. Returns how many entries that were.
    ///
    /// # Errors
    ///
    /// [`Error::Map`].
    pub fn remove(&self, before: &Tables, after: &Tables) -> Result<usize, Error> {
        let mut maps = self.locked();
        let mut removed = 0;
        for prefix in removals(&before.peers, &after.peers) {
            gone(maps.peers.remove(&key(*prefix))).map_err(|cause| failed("remove", "PEERS", cause))?;
            removed += 1;
        }
        for port in removals(&before.ports, &after.ports) {
            gone(maps.ports.remove(port)).map_err(|cause| failed("remove", "PORTS", cause))?;
            removed += 1;
        }
        for cgroup in removals(&before.workloads, &after.workloads) {
            gone(maps.workloads.remove(cgroup)).map_err(|cause| failed("remove", "WORKLOADS", cause))?;
            removed += 1;
        }
        Ok(removed)
    }

    /// Makes the maps what they were, when [`Self::put`] has done its work in part or in whole.
    ///
    /// # Errors
    ///
    /// [`Error::Map`].
    pub fn restore(&self, before: &Tables, after: &Tables) -> Result<(), Error> {
        self.remove(after, before)?;
        self.put(after, before).map(drop)
    }

    /// Whether a program of this workload has lost data on a direct connection, as this agent or one before has seen.
    #[must_use]
    pub fn loses_the_end(&self, cgroup: u64) -> bool {
        self.locked().workloads.get(&cgroup, 0).is_ok_and(|value| value.loses_the_end != 0)
    }

    /// From now on the connections of this workload to and from these ports are relayed, because one of its programs has
    /// lost data. Those that have begun go on as they are.
    ///
    /// # Errors
    ///
    /// [`Error::Map`].
    pub fn relay(&self, cgroup: u64, ports: &[PortKey]) -> Result<(), Error> {
        let Maps { workloads, ports: table, .. } = &mut *self.locked();
        let before = workloads.get(&cgroup, 0).map_err(|cause| failed("read", "WORKLOADS", cause))?;
        let value = WorkloadValue { direct: 0, loses_the_end: 1, ..before };
        workloads.insert(cgroup, value, 0).map_err(|cause| failed("write", "WORKLOADS", cause))?;
        for port in ports {
            table.insert(port, PORT_RELAY, 0).map_err(|cause| failed("write", "PORTS", cause))?;
        }
        Ok(())
    }

    fn locked(&self) -> MutexGuard<'_, Maps> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is not there needs no removal.
fn gone(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        // How aya tells it of a trie.
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        removed => removed,
    }
}

/// Length in bits, and the address in the programs' form.
pub(super) fn key(prefix: IpNet) -> Key<[u8; 16]> {
    let bits = u32::from(prefix.prefix_len());
    match prefix.network() {
        IpAddr::V4(v4) => Key::new(MAPPED + bits, v4.to_ipv6_mapped().octets()),
        IpAddr::V6(v6) => Key::new(bits, v6.octets()),
    }
}

/// The prefix of a key. One that no agent has made is the default route of IPv6, which is then removed.
fn prefix(key: &Key<[u8; 16]>) -> IpNet {
    let (bits, address) = (key.prefix_len(), Ipv6Addr::from(key.data()));
    let (address, bits) = match address.to_ipv4_mapped() {
        Some(v4) if bits >= MAPPED => (IpAddr::V4(v4), bits - MAPPED),
        _ => (IpAddr::V6(address), bits),
    };
    u8::try_from(bits).ok().and_then(|bits| IpNet::new(address, bits).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_become_keys_of_the_trie_and_back() {
        let of = |text: &str| {
            let prefix: IpNet = text.parse().unwrap();
            assert_eq!(super::prefix(&key(prefix)), prefix);
            (key(prefix).prefix_len(), key(prefix).data())
        };
        let (bits, address) = of("10.1.0.0/16");
        assert_eq!((bits, &address[10..]), (112, &[0xff, 0xff, 10, 1, 0, 0][..]));
        let (bits, address) = of("fd00:1::/32");
        assert_eq!((bits, &address[..4]), (32, &[0xfd, 0, 0, 1][..]));
        for text in ["0.0.0.0/0", "10.0.0.2/32", "::/0", "fd00::2/128"] {
            of(text);
        }
    }
}
