//! The maps as the agent uses them. The kernel is the second writer of `FLOWS` only; all others are written here.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};

use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, SockHash};
use enforcer_ebpf::{Endpoint, FlowKey, ListenerKey, OFFSET_OPEN_RECORD, OFFSET_ULP_DATA, Reason, Redirect, SourceKey};

use super::Error;
use super::btf::Description;
use super::misses::Misses;
use super::outside::Outside;
use super::taken::Taken;

/// All maps.
pub struct Maps {
    namespaces: HashMap<MapData, u64, u32>,
    taken: Taken,
    misses: Misses,
    outside: Outside,
    listeners: SockHash<MapData, ListenerKey>,
    pub(super) refusals: Arc<PerCpuArray<MapData, u64>>,
    flows: Flows,
    sources: Sources,
}

/// Tells the programs where the kernel has what they look for. Not in their own read-only data, which would make each
/// agent's programs other ones than the last agent's.
pub(super) fn set_offsets(programs: &mut Ebpf, kernel: &Description) -> Result<(), Error> {
    // Left where it is: programs that are not loaded yet need it.
    let map = programs.map_mut("OFFSETS").ok_or(Error::Missing { kind: "map", name: "OFFSETS" })?;
    let mut offsets = Array::try_from(map).map_err(|cause| failed("open", "OFFSETS", cause))?;
    let members = [
        (OFFSET_ULP_DATA, kernel.offset("inet_connection_sock", "icsk_ulp_data")),
        (OFFSET_OPEN_RECORD, kernel.offset("tls_context", "pending_open_record_frags")),
    ];
    for (number, offset) in members {
        // Without one a stream that kernel TLS cuts short is not noticed.
        offsets.set(number, offset.unwrap_or_default(), 0).map_err(|cause| failed("write", "OFFSETS", cause))?;
    }
    Ok(())
}

impl Maps {
    pub(super) fn take(programs: &mut Ebpf) -> Result<Self, Error> {
        let mut flows: HashMap<MapData, FlowKey, Redirect> = take(programs, "FLOWS")?;
        let mut sources: HashMap<MapData, SourceKey, Endpoint> = take(programs, "SOURCES")?;
        // What an earlier agent left: its relayed connections ended with it.
        retain("FLOWS", &mut flows, |_flow| false)?;
        retain("SOURCES", &mut sources, |_source| false)?;
        Ok(Self {
            namespaces: take(programs, "NAMESPACES")?,
            taken: Taken::take(programs)?,
            misses: Misses::take(programs)?,
            outside: Outside::take(programs)?,
            listeners: take(programs, "LISTENERS")?,
            refusals: Arc::new(take(programs, "REFUSALS")?),
            flows: Flows(Arc::new(Mutex::new(flows))),
            sources: Sources(Arc::new(Mutex::new(sources))),
        })
    }

    /// Which connections the programs take, and how.
    pub fn taken(&self) -> Taken {
        self.taken.clone()
    }

    /// What programs of workloads miss.
    pub fn misses(&self) -> Misses {
        self.misses.clone()
    }

    /// What programs know of destinations outside the mesh.
    pub fn outside(&self) -> Outside {
        self.outside.clone()
    }

    /// What was usual for TCP_NOTSENT_LOWAT in a namespace before its sockets were gated; `None`: they are not.
    ///
    /// # Errors
    ///
    /// [`Error::Map`].
    pub fn usual_lowat(&self, netns: u64) -> Result<Option<u32>, Error> {
        match self.namespaces.get(&netns, 0) {
            Ok(usual) => Ok(Some(usual)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(cause) => Err(failed("read", "NAMESPACES", cause)),
        }
    }

    /// From now on programs open the sockets of this namespace that are not held.
    ///
    /// # Errors
    ///
    /// [`Error::Map`], when the map is full.
    pub fn set_usual_lowat(&mut self, netns: u64, usual: u32) -> Result<(), Error> {
        self.namespaces.insert(netns, usual, 0).map_err(|cause| failed("insert", "NAMESPACES", cause))
    }

    /// From now on programs leave the sockets of this namespace as they are.
    ///
    /// # Errors
    ///
    /// [`Error::Map`].
    pub fn forget_usual_lowat(&mut self, netns: u64) -> Result<(), Error> {
        match self.namespaces.remove(&netns) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(cause) => Err(failed("remove", "NAMESPACES", cause)),
        }
    }

    /// Makes a listening socket known. The kernel forgets it when the socket is closed.
    ///
    /// # Errors
    ///
    /// [`Error::Map`].
    pub fn set_listener(&mut self, key: ListenerKey, listener: &impl AsRawFd) -> Result<(), Error> {
        self.listeners.insert(key, listener.as_raw_fd(), 0).map_err(|cause| failed("insert", "LISTENERS", cause))
    }

    /// What `connect` was asked for, of connections that were sent to the agent.
    pub fn flows(&self) -> Flows {
        self.flows.clone()
    }

    /// The true clients of connections that the agent opens.
    pub fn sources(&self) -> Sources {
        self.sources.clone()
    }

    /// A reader of the programs' refusal counters.
    pub fn refusals(&self) -> impl Fn() -> Vec<(Reason, u64)> + Send + Sync + 'static {
        let counters = Arc::clone(&self.refusals);
        move || Reason::ALL.iter().filter_map(|&reason| Some((reason, count(&counters, reason)?))).collect()
    }
}

/// See [`Maps::flows`].
#[derive(Clone)]
pub struct Flows(Arc<Mutex<HashMap<MapData, FlowKey, Redirect>>>);

impl Flows {
    /// Takes the entry of the connection that came from this source. `None`: no program sent it here.
    #[must_use]
    pub fn take(&self, netns: u64, source: SocketAddr) -> Option<Redirect> {
        let version = if source.is_ipv4() { 4 } else { 6 };
        let key = FlowKey { netns, port: u32::from(source.port()), version };
        let mut flows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let redirect = flows.get(&key, 0).ok()?;
        // The kernel removes it too, when the application's socket is closed.
        let _gone = flows.remove(&key);
        Some(redirect)
    }
}

/// See [`Maps::sources`].
#[derive(Clone)]
pub struct Sources(Arc<Mutex<HashMap<MapData, SourceKey, Endpoint>>>);

impl Sources {
    /// Lets the application see `client` as the other end of a connection from `source`, until the result is
    /// dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Map`], when the map is full.
    pub fn show(&self, netns: u64, source: SocketAddr, client: SocketAddr) -> Result<Shown, Error> {
        let key = SourceKey { netns, source: source.into(), reserved: 0 };
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sources.insert(key, Endpoint::from(client), 0).map_err(|cause| failed("insert", "SOURCES", cause))?;
        Ok(Shown { sources: self.clone(), key })
    }
}

/// An entry that goes when this is dropped.
#[must_use]
pub struct Shown {
    sources: Sources,
    key: SourceKey,
}

impl Drop for Shown {
    fn drop(&mut self) {
        let mut sources = self.sources.0.lock().unwrap_or_else(PoisonError::into_inner);
        // It can only be missing if somebody cleared the map; there is nothing left to do then.
        let _gone = sources.remove(&self.key);
    }
}

pub(super) fn take<T: TryFrom<Map, Error = MapError>>(programs: &mut Ebpf, name: &'static str) -> Result<T, Error> {
    let map = programs.take_map(name).ok_or(Error::Missing { kind: "map", name })?;
    T::try_from(map).map_err(|cause| failed("open", name, cause))
}

pub(super) fn retain<K: aya::Pod, V: aya::Pod>(
    name: &'static str,
    map: &mut HashMap<MapData, K, V>,
    keep: impl Fn(&K) -> bool,
) -> Result<(), Error> {
    let keys: Vec<K> = map.keys().collect::<Result<_, _>>().map_err(|cause| failed("list", name, cause))?;
    for key in keys.iter().filter(|key| !keep(key)) {
        match map.remove(key) {
            // The kernel may have been faster.
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(cause) => return Err(failed("remove", name, cause)),
        }
    }
    Ok(())
}

pub(super) fn failed(operation: &'static str, name: &'static str, cause: MapError) -> Error {
    Error::Map { operation, name, cause: Box::new(cause) }
}

fn count(counters: &PerCpuArray<MapData, u64>, reason: Reason) -> Option<u64> {
    let total = counters.get(&(reason as u32), 0).ok()?.iter().sum();
    (total > 0).then_some(total)
}
