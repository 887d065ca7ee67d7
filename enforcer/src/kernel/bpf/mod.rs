//! The eBPF programs and maps of the relay path, pinned so that they outlive the agent.
//!
//! Life of the guard: [`Guard::open`] loads the programs and creates the maps, or adopts those that an earlier agent
//! pinned; the agent writes down where it listens; [`Guard::enrol`] and [`Guard::guard_namespace`] attach the
//! programs, or replace them in links that are attached already, without a moment in between; [`Guard::sweep`] lets
//! go of what is no longer wanted; [`remove`] undoes everything. When the agent dies nothing changes in the kernel,
//! except that its listeners are gone: from then on the programs refuse.

mod link;
mod maps;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, Program, SkLookup, SockOps};
use aya::{Ebpf, EbpfLoader};

use super::cgroup::Cgroup;
use super::netns::Namespace;
pub use maps::{Flows, Maps, Shown, Sources};

/// The object that `cargo xtask build-ebpf` made from `enforcer-ebpf`.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../enforcer-ebpf/enforcer.bpf.o"));

/// Changes with every incompatible change of a map, so that no agent adopts maps that it would misread.
const LAYOUT: &str = "v1";

/// Maps that are pinned under their own names.
const MAPS: [&str; 8] = ["PEERS", "WORKLOADS", "FLOWS", "SOURCES", "PORTS", "LISTENERS", "REFUSALS", "REDIRECTS"];

/// Programs attached to the cgroup of every workload.
const CGROUP_PROGRAMS: [&str; 5] = ["connect4", "connect6", "follow", "getpeername4", "getpeername6"];

/// The program attached to every namespace.
const NAMESPACE_PROGRAM: &str = "inbound";

/// Loading, attaching or pinning failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pin directory cannot be made or read.
    #[error("use pin directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The kernel refused a program or a map, or the object is not what this agent expects.
    #[error("load eBPF object")]
    Load(#[from] aya::EbpfError),
    /// A program cannot be loaded or attached.
    #[error("load or attach eBPF program {name}")]
    Program {
        /// Its name.
        name: &'static str,
        /// Why.
        #[source]
        cause: Box<aya::programs::ProgramError>,
    },
    /// The object lacks a program or a map, or it has another type.
    #[error("eBPF object has no {kind} {name}")]
    Missing {
        /// `program` or `map`.
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// A link cannot be pinned, opened or updated.
    #[error("{operation} link {path}")]
    Link {
        /// What was tried.
        operation: &'static str,
        /// The pin.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// A map operation failed.
    #[error("{operation} in eBPF map {name}")]
    Map {
        /// What was tried.
        operation: &'static str,
        /// The map.
        name: &'static str,
        /// Why.
        #[source]
        cause: Box<aya::maps::MapError>,
    },
}

/// The programs and where they are pinned.
pub struct Guard {
    directory: PathBuf,
    programs: Ebpf,
    /// The maps, for everybody who needs one.
    pub maps: Maps,
    /// Names of the link pins that this agent wants.
    wanted: HashSet<String>,
}

impl Guard {
    /// Loads the programs. `directory` must be on a bpf file system and is made if it does not exist; maps that are
    /// pinned there are adopted.
    ///
    /// # Errors
    ///
    /// [`Error`]; nothing is attached then.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let directory = directory.join(LAYOUT);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(links(&directory))
            .map_err(|cause| Error::Directory { path: directory.clone(), cause })?;
        let mut programs = load(&directory, 0)?;
        for name in CGROUP_PROGRAMS {
            match program(&mut programs, name)? {
                Program::CgroupSockAddr(program) => program.load(),
                Program::SockOps(program) => program.load(),
                _ => return Err(Error::Missing { kind: "program", name }),
            }
            .map_err(|cause| Error::Program { name, cause: Box::new(cause) })?;
        }
        let maps = Maps::take(&mut programs)?;
        Ok(Self { directory, programs, maps, wanted: HashSet::new() })
    }

    /// Puts the workload of a cgroup under the programs.
    ///
    /// # Errors
    ///
    /// [`Error::Program`] and [`Error::Link`].
    pub fn enrol(&mut self, cgroup: &Cgroup) -> Result<(), Error> {
        for name in CGROUP_PROGRAMS {
            let pin = format!("{name}-{}", cgroup.id());
            let path = links(&self.directory).join(&pin);
            let program = program(&mut self.programs, name)?;
            if !link::replace(&path, program)? {
                pin_link(attach_cgroup(name, program, cgroup)?, &path)?;
            }
            self.wanted.insert(pin);
        }
        Ok(())
    }

    /// Hands connections that arrive in a namespace to the agent's listeners there.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn guard_namespace(&mut self, namespace: &Namespace) -> Result<(), Error> {
        let name = NAMESPACE_PROGRAM;
        // An instance of its own, because the program must know its namespace and has no way to ask.
        let mut instance = load(&self.directory, namespace.cookie())?;
        let program = program(&mut instance, name)?;
        let failed = |cause| Error::Program { name, cause: Box::new(cause) };
        let Program::SkLookup(inbound) = program else { return Err(Error::Missing { kind: "program", name }) };
        inbound.load().map_err(failed)?;
        let pin = format!("{name}-{}", namespace.cookie());
        let path = links(&self.directory).join(&pin);
        if !link::replace(&path, program)? {
            let inbound: &mut SkLookup = program.try_into().map_err(failed)?;
            let id = inbound.attach(namespace).map_err(failed)?;
            pin_link(inbound.take_link(id).map_err(failed)?.into(), &path)?;
        }
        self.wanted.insert(pin);
        Ok(())
    }

    /// Lets go of cgroups and namespaces that an earlier agent guarded and this one does not.
    ///
    /// # Errors
    ///
    /// [`Error::Directory`].
    pub fn sweep(&self) -> Result<(), Error> {
        let path = links(&self.directory);
        let failed = |cause| Error::Directory { path: path.clone(), cause };
        for entry in fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if !self.wanted.contains(entry.file_name().to_string_lossy().as_ref()) {
                fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// Detaches and removes everything that any agent pinned under `directory`: the workloads are open again.
///
/// # Errors
///
/// [`Error::Directory`], when a pin cannot be removed.
pub fn remove(directory: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(directory) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(Error::Directory { path: directory.to_owned(), cause })
        }
        _ => Ok(()),
    }
}

fn load(directory: &Path, netns: u64) -> Result<Ebpf, Error> {
    let mut loader = EbpfLoader::new();
    for name in MAPS {
        loader.map_pin_path(name, directory.join(name));
    }
    Ok(loader.override_global("NETNS_COOKIE", &netns, true).load(OBJECT)?)
}

fn program<'a>(programs: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Program, Error> {
    programs.program_mut(name).ok_or(Error::Missing { kind: "program", name })
}

fn attach_cgroup(name: &'static str, program: &mut Program, cgroup: &Cgroup) -> Result<FdLink, Error> {
    let failed = |cause| Error::Program { name, cause: Box::new(cause) };
    // `Single` is no flag at all, and links are never exclusive; with the other flags the kernel says EINVAL.
    let mode = CgroupAttachMode::Single;
    let link = if let Program::SockOps(_) = program {
        let program: &mut SockOps = program.try_into().map_err(failed)?;
        let id = program.attach(cgroup, mode).map_err(failed)?;
        program.take_link(id).map_err(failed)?.try_into()
    } else {
        let program: &mut CgroupSockAddr = program.try_into().map_err(failed)?;
        let id = program.attach(cgroup, mode).map_err(failed)?;
        program.take_link(id).map_err(failed)?.try_into()
    };
    link.map_err(|_not_a_link| Error::Missing { kind: "link of program", name })
}

fn pin_link(link: FdLink, path: &Path) -> Result<(), Error> {
    link.pin(path).map(drop).map_err(|cause| Error::Link {
        operation: "pin",
        path: path.to_owned(),
        cause: io::Error::other(cause),
    })
}

fn links(directory: &Path) -> PathBuf {
    directory.join("links")
}
