//! One program, loaded for many namespaces: read once, and filled in for each of them.
//!
//! A program of sk_lookup must know its namespace and has no way to ask, so each namespace has an instance of its own,
//! which differs from the others in a constant. To load the whole object for each of them would take longer than anything
//! else at a start: it would be read, its types told to the kernel, and all its maps opened every time.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use aya_obj::generated::{BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE, bpf_insn};
use aya_obj::{Function, Object};

use super::call::{self, Source};
use super::{Error, OBJECT};

/// Where the object keeps the constants of its programs.
const CONSTANTS: &str = ".rodata";
/// Load of 64 bits at once, in two instructions (BPF_LD | BPF_IMM | BPF_DW).
const LOAD: u8 = 0x18;

/// A program whose constants are not filled in.
pub(super) struct Stencil {
    name: &'static str,
    instructions: Vec<bpf_insn>,
    license: CString,
    /// The object, for its constants alone.
    object: Object,
    /// The instructions that refer to them.
    blanks: Vec<usize>,
    /// The maps, whose descriptors the instructions have.
    maps: HashMap<String, OwnedFd>,
}

impl Stencil {
    /// Of the program with this name. Its maps are those that are pinned in the directory.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] and [`Error::Instance`].
    pub(super) fn of(name: &'static str, directory: &Path) -> Result<Self, Error> {
        let failed = |cause| Error::Instance { name, cause };
        let mut object = Object::parse(OBJECT).map_err(|cause| Error::Load(cause.into()))?;
        let (names, linked) = link(&mut object, name)?;
        let mut stencil = Self {
            name,
            instructions: linked.instructions,
            license: object.license.clone(),
            object,
            blanks: Vec::new(),
            maps: HashMap::new(),
        };
        for at in 0..stencil.instructions.len() {
            let Some(map) = map_of(&stencil.instructions[at], &names) else { continue };
            if map == CONSTANTS {
                stencil.blanks.push(at);
                continue;
            }
            let opened = match stencil.maps.entry(map.to_owned()) {
                Entry::Occupied(opened) => opened.into_mut(),
                Entry::Vacant(vacant) => vacant.insert(call::open(&directory.join(map)).map_err(failed)?),
            };
            stencil.instructions[at].imm = opened.as_raw_fd();
        }
        Ok(stencil)
    }

    /// Loads the program, of this kind and for this way to attach it, with a constant: its name and its value.
    ///
    /// # Errors
    ///
    /// [`Error::Instance`].
    pub(super) fn load(&mut self, (kind, attach_type): (u32, u32), constant: (&str, u64)) -> Result<OwnedFd, Error> {
        let failed = |cause| Error::Instance { name: self.name, cause };
        let value = constant.1.to_ne_bytes();
        let globals = HashMap::from([(constant.0, (&value[..], true))]);
        self.object.patch_map_data(globals).map_err(|cause| failed(io::Error::other(cause)))?;
        let data = self.object.maps.get(CONSTANTS).map(aya_obj::Map::data).unwrap_or_default();
        let constants = call::constants(data).map_err(failed)?;
        for &at in &self.blanks {
            self.instructions[at].imm = constants.as_raw_fd();
        }
        let (name, instructions, license) = (self.name, &self.instructions[..], &*self.license);
        call::load(&Source { kind, attach_type, name, instructions, license }).map_err(failed)
    }
}

/// The program with all functions that it calls. Where an instruction needs the descriptor of a map it has the number of
/// the map's name among those that are returned.
fn link(object: &mut Object, name: &'static str) -> Result<(Vec<String>, Function), Error> {
    let missing = || Error::Missing { kind: "program", name };
    let unfit = |cause| Error::Load(aya::EbpfError::RelocationError(cause));
    object.programs.retain(|program, _| program == name);
    let key = object.programs.get(name).ok_or_else(missing)?.function_key();
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    let maps: Vec<_> = object.maps.iter().map(|(name, map)| (name.clone(), map.clone())).collect();
    let numbered = (0..).zip(&maps).map(|(number, (name, map))| (name.as_str(), number, map));
    object.relocate_maps(numbered, &sections).map_err(unfit)?;
    object.relocate_calls(&sections).map_err(unfit)?;
    let linked = object.functions.remove(&key).ok_or_else(missing)?;
    object.functions.clear();
    Ok((maps.into_iter().map(|(name, _)| name).collect(), linked))
}

/// The name of the map that an instruction needs the descriptor of.
fn map_of<'a>(instruction: &bpf_insn, names: &'a [String]) -> Option<&'a str> {
    let refers = [BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE].contains(&u32::from(instruction.src_reg()));
    let number = usize::try_from(instruction.imm).ok().filter(|_| instruction.code == LOAD && refers)?;
    names.get(number).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn linked(name: &'static str) -> Result<BTreeSet<String>, Error> {
        let (names, function) = link(&mut Object::parse(OBJECT).unwrap(), name)?;
        Ok(function
            .instructions
            .iter()
            .filter_map(|instruction| map_of(instruction, &names))
            .map(str::to_owned)
            .collect())
    }

    #[test]
    fn the_program_of_a_namespace_has_its_maps_and_one_place_for_constants() {
        let maps = linked(super::super::namespaces::NAMESPACE_PROGRAM).unwrap();
        assert_eq!(maps, [CONSTANTS, "LISTENERS", "PEERS", "PORTS", "REFUSALS"].map(str::to_owned).into());
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        assert!(matches!(linked("no such program"), Err(Error::Missing { kind: "program", .. })));
    }
}
