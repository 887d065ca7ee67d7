//! What could leak, counted: by the kernel's own lists, not by the agent's.
//!
//! A program, map or link lives as long as a file descriptor, a pin or an attachment holds it; the kernel lists it
//! for exactly that time, so a count that comes back to what it was says that nothing is held.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData, loaded_maps};
use aya::programs::{loaded_links, loaded_programs};
use enforcer_ebpf::{Endpoint, FlowKey, Held, Live, MissedKey, PortKey, Redirect, SourceKey, WorkloadValue};

use crate::netns::Namespace;
use crate::wait;

/// Where agents of this version pin, below the directory that they are told.
pub const LAYOUT: &str = "v6";

/// What the kernel holds, for everybody on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelObjects {
    programs: usize,
    maps: usize,
    links: usize,
    namespaces: usize,
}

/// Programs, maps and links that there were at some time, by their ids. A socket that nobody has any more may hold some of
/// them a while longer: what shall be as before is without these.
#[derive(Debug)]
pub struct Existing {
    programs: BTreeSet<u32>,
    maps: BTreeSet<u32>,
    links: BTreeSet<u32>,
}

impl Existing {
    /// Those that there are now.
    pub fn list() -> Existing {
        Existing {
            programs: loaded_programs().flatten().map(|program| program.id()).collect(),
            maps: loaded_maps().flatten().map(|map| map.id()).collect(),
            links: loaded_links().flatten().map(|link| link.id()).collect(),
        }
    }

    /// Counts those that came later, and all namespaces. An object that disappears while it is looked at is not counted.
    pub fn others(&self) -> Result<KernelObjects> {
        let now = Existing::list();
        Ok(KernelObjects {
            programs: now.programs.difference(&self.programs).count(),
            maps: now.maps.difference(&self.maps).count(),
            links: now.links.difference(&self.links).count(),
            namespaces: Namespace::with_prefix("")?.len(),
        })
    }
}

/// Waits until the count is what it was: the kernel frees its objects a little after the last holder let go of them.
pub fn settles_at<T: PartialEq + Debug>(before: &T, count: impl Fn() -> Result<T>) -> Result<()> {
    let settled =
        wait::until("everything to be as before", wait::patience(), || Ok((count()? == *before).then_some(())));
    settled.with_context(|| format!("before: {before:#?}\nnow: {:#?}", count()))
}

/// The paths below a directory of pins, sorted.
pub fn pins(directory: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut unread = vec![directory.to_owned()];
    while let Some(directory) = unread.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))? {
            let path = entry?.path();
            found.push(path.display().to_string());
            if path.is_dir() {
                unread.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Entries that live as long as a connection: they must be gone when it is.
pub fn connection_entries(pins: &Path) -> Result<usize> {
    let flows: HashMap<MapData, FlowKey, Redirect> = pinned(pins, "FLOWS")?;
    let sources: HashMap<MapData, SourceKey, Endpoint> = pinned(pins, "SOURCES")?;
    let held: HashMap<MapData, u64, Held> = pinned(pins, "HELD")?;
    let live: HashMap<MapData, u64, Live> = pinned(pins, "LIVE")?;
    Ok(flows.keys().count() + sources.keys().count() + held.keys().count() + live.keys().count())
}

/// Entries that live as long as a workload is enrolled.
pub fn enrolment_entries(pins: &Path) -> Result<usize> {
    let workloads: HashMap<MapData, u64, WorkloadValue> = pinned(pins, "WORKLOADS")?;
    let ports: HashMap<MapData, PortKey, u32> = pinned(pins, "PORTS")?;
    let missed: HashMap<MapData, MissedKey, u64> = pinned(pins, "MISSED")?;
    let gated: HashMap<MapData, u64, u32> = pinned(pins, "NAMESPACES")?;
    Ok(workloads.keys().count() + ports.keys().count() + missed.keys().count() + gated.keys().count())
}

/// The table of enrolled workloads, to be made full.
pub struct WorkloadTable {
    workloads: HashMap<MapData, u64, WorkloadValue>,
    /// Ids that no cgroup has.
    invented: Vec<u64>,
}

impl WorkloadTable {
    /// Of the agent with these pins.
    pub fn open(pins: &Path) -> Result<WorkloadTable> {
        Ok(WorkloadTable { workloads: pinned(pins, "WORKLOADS")?, invented: Vec::new() })
    }

    /// Inserts until there is no room.
    pub fn fill(&mut self) {
        let nobody = WorkloadValue { port_v4: 0, port_v6: 0, direct: 0, loses_the_end: 0, egress: 0, others: 0 };
        for cgroup in (0..u64::MAX).rev() {
            if self.workloads.insert(cgroup, nobody, 0).is_err() {
                break;
            }
            self.invented.push(cgroup);
        }
    }

    /// Takes out what was put in.
    pub fn empty(&mut self) -> Result<()> {
        self.invented.drain(..).try_for_each(|id| self.workloads.remove(&id)).context("empty the table of workloads")
    }
}

/// The table of held connections, to be made full.
pub struct HoldTable {
    held: HashMap<MapData, u64, Held>,
    /// Cookies that no socket has.
    invented: Vec<u64>,
}

impl HoldTable {
    /// Of the agent with these pins.
    pub fn open(pins: &Path) -> Result<HoldTable> {
        Ok(HoldTable { held: pinned(pins, "HELD")?, invented: Vec::new() })
    }

    /// Inserts until there is no room, and says how many it took.
    pub fn fill(&mut self) -> Result<usize> {
        let nowhere = Endpoint::from(SocketAddr::from(([0, 0, 0, 0], 0)));
        let held = Held {
            netns: 0,
            cgroup: 0,
            source: nowhere,
            destination: nowhere,
            direction: 0,
            stage: 0,
            process: 0,
            descriptor: -1,
        };
        for cookie in (0..u64::MAX).rev() {
            if self.held.insert(cookie, held, 0).is_err() {
                break;
            }
            self.invented.push(cookie);
        }
        Ok(self.invented.len())
    }

    /// Takes out what was put in.
    pub fn empty(&mut self) -> Result<()> {
        self.invented.drain(..).try_for_each(|cookie| self.held.remove(&cookie)).context("empty the hold table")
    }
}

fn pinned<M: TryFrom<Map>>(pins: &Path, name: &str) -> Result<M>
where
    M::Error: std::error::Error + Send + Sync + 'static,
{
    let path = pins.join(LAYOUT).join(name);
    let map = MapData::from_pin(&path).with_context(|| format!("open the map {}", path.display()))?;
    M::try_from(Map::HashMap(map)).with_context(|| format!("read the map {}", path.display()))
}
