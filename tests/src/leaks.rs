//! What could leak, counted: by the kernel's own lists, not by the agent's.
//!
//! A program, map or link lives as long as a file descriptor, a pin or an attachment holds it; the kernel lists it
//! for exactly that time, so a count that comes back to what it was says that nothing is held.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData, loaded_maps};
use aya::programs::{loaded_links, loaded_programs};
use enforcer_ebpf::{Endpoint, FlowKey, Redirect, SourceKey};

use crate::netns::Namespace;

/// What the kernel holds, for everybody on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelObjects {
    programs: usize,
    maps: usize,
    links: usize,
    namespaces: usize,
}

impl KernelObjects {
    /// Counts them. An object that disappears while it is looked at is not counted.
    pub fn count() -> Result<KernelObjects> {
        Ok(KernelObjects {
            programs: loaded_programs().filter(Result::is_ok).count(),
            maps: loaded_maps().filter(Result::is_ok).count(),
            links: loaded_links().filter(Result::is_ok).count(),
            namespaces: Namespace::with_prefix("")?.len(),
        })
    }
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
    Ok(flows.keys().count() + sources.keys().count())
}

fn pinned<M: TryFrom<Map>>(pins: &Path, name: &str) -> Result<M>
where
    M::Error: std::error::Error + Send + Sync + 'static,
{
    let path = pins.join("v1").join(name);
    let map = MapData::from_pin(&path).with_context(|| format!("open the map {}", path.display()))?;
    M::try_from(Map::HashMap(map)).with_context(|| format!("read the map {}", path.display()))
}
