//! What programs know of destinations outside the mesh: the terms of workloads, the addresses that never leave a
//! namespace, what was refused or let pass with a reason, and all that there was to judge.
//!
//! Terms have numbers, and a workload has one of them, so that they change in one step: new ones are written first, then
//! the workload is given their number, then [`Outside::sweep`] removes those that nobody has.

use std::collections::{HashMap as Table, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, MapData};
use enforcer_ebpf::{DEPARTURES, Departed, EGRESS_SET_BITS, EgressKey, Endpoint, NotedKey, OwnAddress, Reason, Terms};
use ipnet::IpNet;

use super::Error;
use super::maps::{failed, retain, take};
use super::taken::key;

/// The tables. Clones are the same maps.
#[derive(Clone)]
pub struct Outside(Arc<Mutex<Tables>>);

struct Tables {
    egress: LpmTrie<MapData, EgressKey, Terms>,
    own: HashMap<MapData, OwnAddress, u32>,
    noted: HashMap<MapData, NotedKey, u64>,
    departed: HashMap<MapData, NotedKey, Departed>,
    /// What is written, with the numbers.
    written: Table<Written, u32>,
    /// No terms in the map have this number or a higher one.
    next: u32,
}

/// Terms by prefix.
type Written = Arc<[(IpNet, Terms)]>;

/// Something that a program refused, or let pass with a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// Id of the workload's cgroup.
    pub cgroup: u64,
    /// Where it was to go; unspecified where that is not known.
    pub destination: SocketAddr,
    /// Number of the protocol (IANA).
    pub protocol: u32,
    /// Why; `None`: another version's.
    pub reason: Option<Reason>,
    /// How often.
    pub count: u64,
}

/// What was to leave a workload without mutual TLS, whatever became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Id of the workload's cgroup.
    pub cgroup: u64,
    /// Where it was to go; unspecified where that is not known.
    pub destination: SocketAddr,
    /// Number of the protocol (IANA).
    pub protocol: u32,
    /// How often.
    pub count: u64,
    /// How long ago the first one was.
    pub first: Duration,
    /// How long ago the last one was.
    pub last: Duration,
}

impl Outside {
    pub(super) fn take(programs: &mut Ebpf) -> Result<Self, Error> {
        let egress: LpmTrie<MapData, EgressKey, Terms> = take(programs, "EGRESS")?;
        let mut next = 1;
        for key in egress.keys() {
            let key = key.map_err(|cause| failed("list", "EGRESS", cause))?;
            next = next.max(number(&key.data()).saturating_add(1));
        }
        let (own, noted) = (take(programs, "OWN_ADDRESSES")?, take(programs, "NOTED")?);
        let departed = take(programs, "DEPARTED")?;
        Ok(Self(Arc::new(Mutex::new(Tables { egress, own, noted, departed, written: Table::new(), next }))))
    }

    /// The number of these terms, by prefix, which are in the map from now on.
    ///
    /// # Errors
    ///
    /// [`Error::Map`], when the map is full.
    pub fn number(&self, terms: &Written) -> Result<u32, Error> {
        let tables = &mut *self.locked();
        if let Some(number) = tables.written.get(terms) {
            return Ok(*number);
        }
        let number = tables.next;
        for (prefix, terms) in &**terms {
            let within = key(*prefix);
            let key = Key::new(EGRESS_SET_BITS + within.prefix_len(), egress_key(number, &within.data()));
            tables.egress.insert(&key, terms, 0).map_err(|cause| failed("insert", "EGRESS", cause))?;
        }
        tables.next += 1;
        tables.written.insert(Arc::clone(terms), number);
        Ok(number)
    }

    /// Removes the terms that no workload has any more, and what could not be written whole.
    ///
    /// # Errors
    ///
    /// [`Error::Map`].
    pub fn sweep(&self, numbers: &HashSet<u32>) -> Result<(), Error> {
        let tables = &mut *self.locked();
        let keys: Vec<_> =
            tables.egress.keys().collect::<Result<_, _>>().map_err(|cause| failed("list", "EGRESS", cause))?;
        for key in keys.iter().filter(|key| !numbers.contains(&number(&key.data()))) {
            tables.egress.remove(key).map_err(|cause| failed("remove", "EGRESS", cause))?;
        }
        tables.written.retain(|_, number| numbers.contains(number));
        Ok(())
    }

    /// Makes the addresses of a namespace, by its cookie, exactly these: what goes there does not leave.
    ///
    /// # Errors
    ///
    /// [`Error::Map`], when the map is full.
    pub fn set_own_addresses(&self, netns: u64, addresses: &[IpAddr]) -> Result<(), Error> {
        let own = &mut self.locked().own;
        let mut wanted = HashSet::new();
        for address in addresses {
            let key = OwnAddress { netns, address: Endpoint::from(SocketAddr::new(*address, 0)).address };
            own.insert(key, 0, 0).map_err(|cause| failed("insert", "OWN_ADDRESSES", cause))?;
            wanted.insert(key);
        }
        retain("OWN_ADDRESSES", own, |key| key.netns != netns || wanted.contains(key))
    }

    /// Forgets the addresses of other namespaces than these.
    ///
    /// # Errors
    ///
    /// [`Error::Map`].
    pub fn retain_namespaces(&self, namespaces: &HashSet<u64>) -> Result<(), Error> {
        retain("OWN_ADDRESSES", &mut self.locked().own, |key| namespaces.contains(&key.netns))
    }

    /// What programs have refused, or let pass with a reason. Only the latest 4,096 different things are known.
    #[must_use]
    pub fn noted(&self) -> Vec<Noted> {
        // What is forgotten while it is read is not there.
        self.locked().noted.iter().filter_map(Result::ok).map(|(key, count)| Noted::of(&key, count)).collect()
    }

    /// All that programs have judged, and whether some of it may be forgotten: only the latest 16,384 different things are
    /// known. The kernel begins to forget before that, because each processor keeps 128 free places for itself.
    #[must_use]
    pub fn remembered(&self) -> (Vec<Remembered>, bool) {
        let now = since_start();
        let remembered: Vec<_> = self.locked().departed.iter().filter_map(Result::ok).collect();
        let is_full = remembered.len() >= usize::try_from(DEPARTURES / 2).unwrap_or(usize::MAX);
        (remembered.iter().map(|(key, departed)| Remembered::of(key, departed, now)).collect(), is_full)
    }

    fn locked(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Noted {
    fn of(key: &NotedKey, count: u64) -> Self {
        let destination = Endpoint { address: key.address, port: key.port }.into();
        let NotedKey { cgroup, protocol, reason, .. } = *key;
        Self { cgroup, destination, protocol, reason: Reason::try_from(reason).ok(), count }
    }
}

impl Remembered {
    fn of(key: &NotedKey, departed: &Departed, now: Duration) -> Self {
        let ago = |moment| now.saturating_sub(Duration::from_nanos(moment));
        Self {
            cgroup: key.cgroup,
            destination: Endpoint { address: key.address, port: key.port }.into(),
            protocol: key.protocol,
            count: departed.count,
            first: ago(departed.first),
            last: ago(departed.last),
        }
    }
}

/// What programs go by: CLOCK_BOOTTIME, which goes on while the machine sleeps.
fn since_start() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes a `timespec`, which is ours. The clock has been there since Linux 2.6.39, so nothing fails.
    let _told = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    Duration::new(now.tv_sec.try_into().unwrap_or_default(), now.tv_nsec.try_into().unwrap_or_default())
}

fn egress_key(number: u32, address: &[u8; 16]) -> EgressKey {
    let mut key = EgressKey::default();
    key[..4].copy_from_slice(&number.to_be_bytes());
    key[4..].copy_from_slice(address);
    key
}

fn number(key: &EgressKey) -> u32 {
    u32::from_be_bytes([key[0], key[1], key[2], key[3]])
}
