//! Undoing what agents have put into the kernel.
//!
//! The order matters: what is held is ended before its locks go, so that nothing that was to be encrypted leaves in the
//! clear. Open direct connections go on: their keys are in their sockets, and need no program.

use std::fs;
use std::io;
use std::path::Path;

use aya::maps::{HashMap, Map, MapData};
use enforcer_ebpf::{DIRECTION_OUTBOUND, Held};

use super::maps::failed;
use super::{Error, LAYOUT};
use crate::kernel::destroy::Destroyer;
use crate::kernel::netns::Namespace;

/// What was undone.
#[derive(Debug, Default)]
pub struct Removal {
    /// Namespaces whose sockets are as they were before.
    pub opened: usize,
    /// Namespaces that are gated and were not found: what is in them can send only where it asks for it itself.
    pub lost: usize,
    /// Connections that were waiting for their keys.
    pub ended: usize,
}

/// Detaches and removes everything that any agent pinned under `directory`: the workloads are open again.
/// `namespaces` are all that can be found; those that were gated are among them.
///
/// # Errors
///
/// [`Error`], when a pin or a gate cannot be removed.
pub fn remove(directory: &Path, namespaces: &[Namespace]) -> Result<Removal, Error> {
    let mut removal = Removal::default();
    let pins = directory.join(LAYOUT);
    let gated: HashMap<MapData, u64, u32> = match pinned(&pins, "NAMESPACES")? {
        Some(gated) => gated,
        None => return unpin(directory).map(|()| removal),
    };
    let gated: Vec<(u64, u32)> =
        gated.iter().collect::<Result<_, _>>().map_err(|cause| failed("list", "NAMESPACES", cause))?;
    for (cookie, usual) in gated {
        let Some(namespace) = namespaces.iter().find(|namespace| namespace.cookie() == cookie) else {
            removal.lost += 1;
            continue;
        };
        removal.ended += end_held(&pins, namespace)?;
        namespace.set_notsent_lowat(usual).map_err(Error::Gate)?;
        removal.opened += 1;
    }
    unpin(directory).map(|()| removal)
}

fn end_held(pins: &Path, namespace: &Namespace) -> Result<usize, Error> {
    let Some(held) = pinned::<Held>(pins, "HELD")? else { return Ok(0) };
    let destroyer = Destroyer::open(namespace).map_err(Error::Gate)?;
    let held: Vec<(u64, Held)> =
        held.iter().collect::<Result<_, _>>().map_err(|cause| failed("list", "HELD", cause))?;
    let mut ended = 0;
    for (cookie, held) in held.into_iter().filter(|(_, held)| held.netns == namespace.cookie()) {
        let (source, destination) = (held.source.into(), held.destination.into());
        let ends = if held.direction == DIRECTION_OUTBOUND { (source, destination) } else { (destination, source) };
        destroyer.destroy(ends, cookie).map_err(Error::Gate)?;
        ended += 1;
    }
    Ok(ended)
}

/// A map of an earlier agent. `None`: none was left, or not by an agent of this kind.
fn pinned<V: aya::Pod>(pins: &Path, name: &'static str) -> Result<Option<HashMap<MapData, u64, V>>, Error> {
    let path = pins.join(name);
    if !path.exists() {
        return Ok(None);
    }
    let data = MapData::from_pin(&path).map_err(|cause| failed("open", name, cause))?;
    HashMap::try_from(Map::HashMap(data)).map(Some).map_err(|cause| failed("open", name, cause))
}

fn unpin(directory: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(directory) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(Error::Directory { path: directory.to_owned(), cause })
        }
        _ => Ok(()),
    }
}
