//! The eBPF programs and maps, pinned so that they outlive the agent.
//!
//! Life of the guard: [`Guard::open`] loads the programs and creates the maps, or adopts those that an earlier agent
//! pinned; the agent writes down where it listens; [`Guard::enrol`] and [`Guard::guard_namespaces`] attach the
//! programs, or replace them in links that are attached already, without a moment in between; [`Guard::sweep`] lets
//! go of what an earlier agent wanted and this one does not, [`Guard::release_cgroup`] and [`Guard::release_namespace`] of
//! what is no longer wanted; [`remove`] undoes everything. When the agent dies nothing changes in the kernel,
//! except that its listeners are gone: from then on the programs refuse what would be relayed, and hold the rest.

mod btf;
mod call;
mod events;
mod existing;
mod hold;
mod link;
mod maps;
mod misses;
mod namespaces;
mod outside;
mod release;
mod remove;
mod stencil;
mod tables;
mod taken;
mod trace;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::programs::links::FdLink;
use aya::programs::{Program, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader};

use super::cgroup::Cgroup;
pub use events::Events;
pub use hold::Holds;
pub use maps::{Flows, Maps, Shown, Sources};
pub use misses::Misses;
pub use outside::{Noted, Outside, Remembered};
use release::Fresh;
pub use remove::{Removal, remove};
pub use tables::Tables;
pub use taken::Taken;

/// The object that `cargo xtask build-ebpf` made from `enforcer-ebpf`.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../enforcer-ebpf/enforcer.bpf.o"));

/// Changes with every incompatible change of a map, so that no agent adopts maps that it would misread.
const LAYOUT: &str = "v6";

/// Maps that are pinned under their own names.
const MAPS: [&str; 24] = [
    "PEERS",
    "EGRESS",
    "OWN_ADDRESSES",
    "NOTED",
    "DEPARTED",
    "WORKLOADS",
    "FLOWS",
    "SOURCES",
    "PORTS",
    "LISTENERS",
    "REFUSALS",
    "MISSED",
    "REDIRECTS",
    "NAMESPACES",
    "HELD",
    "LIVE",
    "EVENTS",
    "LOOKING",
    "CALLS",
    "ACCEPTING",
    "GATES",
    "WANTED",
    "CALLERS",
    "OFFSETS",
];

/// The program that refuses sockets to whoever is in no enrolled cgroup.
const SHUT: (&str, u32) = ("make_socket", 2);

/// Constants that tell programs where the kernel has members of `struct tcp_sock`.
const TCP_SOCK: [(&str, &str); 3] =
    [("WRITE_SEQ", "write_seq"), ("SND_NXT", "snd_nxt"), ("NOTSENT_LOWAT", "notsent_lowat")];
/// The constant that tells them what was usual in a namespace before it was gated.
const USUAL_LOWAT: &str = "USUAL_LOWAT";

/// Programs attached to the cgroup of every workload, and how (`enum bpf_attach_type` in linux/bpf.h).
const CGROUP_PROGRAMS: [(&str, u32); 8] = [
    SHUT,
    ("sendmsg4", 14),
    ("sendmsg6", 15),
    ("connect4", 10),
    ("connect6", 11),
    ("follow", 3),
    ("getpeername4", 29),
    ("getpeername6", 30),
];

/// Programs attached to the cgroup of a workload that may have direct connections.
const DIRECT_PROGRAMS: [(&str, u32); 4] = [("egress", 1), ("ingress", 0), ("set_option", 22), ("get_option", 21)];

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
        cause: Box<ProgramError>,
    },
    /// The program of a namespace cannot be loaded.
    #[error("load eBPF program {name} for a namespace")]
    Instance {
        /// Its name.
        name: &'static str,
        /// Why.
        #[source]
        cause: io::Error,
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
    /// The kernel does not describe itself.
    #[error("read the kernel's BTF")]
    Btf(#[source] aya::BtfError),
    /// The kernel does not describe its structures.
    #[error(
        "find `write_seq`, `snd_nxt` and `notsent_lowat` of `struct tcp_sock` in the kernel's BTF (/sys/kernel/btf/vmlinux)"
    )]
    Layout,
    /// The ring buffer cannot be waited for.
    #[error("wait for events of eBPF programs")]
    Events(#[source] io::Error),
    /// A namespace cannot be gated.
    #[error("gate the sockets of a network namespace")]
    Gate(#[source] io::Error),
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

/// Which paths the connections of a workload, or of a namespace, may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paths {
    /// Everything is relayed.
    Relay,
    /// Some connections are direct.
    WithDirect,
}

/// The programs and where they are pinned.
pub struct Guard {
    directory: PathBuf,
    programs: Ebpf,
    /// The maps, for everybody who needs one.
    pub maps: Maps,
    /// The maps of the direct path.
    pub holds: Holds,
    /// Names of the link pins that this agent wants.
    wanted: HashSet<String>,
    /// What was done since the last [`Guard::settle`].
    fresh: Vec<Fresh>,
    /// Whether the kernel has told where its structures have what programs read.
    has_layout: bool,
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
        let kernel = btf::Description::of_kernel();
        let members = TCP_SOCK.map(|(constant, member)| (constant, kernel.offset("tcp_sock", member)));
        let constants = members.map(|(constant, offset)| (constant, offset.unwrap_or_default()));
        let mut programs = load(&directory, &constants)?;
        load_programs(&mut programs, &CGROUP_PROGRAMS)?;
        let maps = Maps::take(&mut programs)?;
        maps::set_offsets(&mut programs, &kernel)?;
        let holds = Holds::take(&mut programs, Arc::clone(&maps.refusals))?;
        Ok(Self {
            directory,
            programs,
            maps,
            holds,
            wanted: HashSet::new(),
            fresh: Vec::new(),
            has_layout: members.iter().all(|(_, offset)| offset.is_some()),
        })
    }

    /// Prepares for workloads with direct connections: loads their programs, and attaches those that follow who holds
    /// a held socket. Returns where events come out.
    ///
    /// # Errors
    ///
    /// [`Error`], on a kernel that cannot do it.
    pub fn prepare_direct(&mut self) -> Result<Events, Error> {
        if !self.has_layout {
            return Err(Error::Layout);
        }
        load_programs(&mut self.programs, &DIRECT_PROGRAMS)?;
        let kernel = Btf::from_sys_fs().map_err(Error::Btf)?;
        existing::load(&mut self.programs, &kernel)?;
        self.wanted.extend(trace::attach((&mut self.programs, &kernel), &links(&self.directory))?);
        Events::take(&mut self.programs)
    }

    /// Puts the workload of a cgroup under the programs.
    ///
    /// # Errors
    ///
    /// [`Error::Program`] and [`Error::Link`].
    pub fn enrol(&mut self, cgroup: &Cgroup, path: Paths) -> Result<(), Error> {
        let direct = if path == Paths::WithDirect { &DIRECT_PROGRAMS[..] } else { &[] };
        // The locks come before the gates: nothing is held that is not locked.
        direct.iter().chain(&CGROUP_PROGRAMS).try_for_each(|&program| self.attach(cgroup, program))
    }

    /// From now on no process below this cgroup gets a socket that is in no enrolled one.
    ///
    /// # Errors
    ///
    /// [`Error::Program`] and [`Error::Link`].
    pub fn shut(&mut self, cgroup: &Cgroup) -> Result<(), Error> {
        self.attach(cgroup, SHUT)
    }

    fn attach(&mut self, cgroup: &Cgroup, (name, attach_type): (&'static str, u32)) -> Result<(), Error> {
        let pin = format!("{name}-{}", cgroup.id());
        let path = links(&self.directory).join(&pin);
        let program = program(&mut self.programs, name)?.fd();
        let program = program.map_err(|cause| Error::Program { name, cause: Box::new(cause) })?;
        if !link::replace(&path, program)? {
            link::create(&path, program, (cgroup, attach_type))?;
            self.fresh.push(Fresh::Pin(pin.clone()));
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

/// The object, with these of its constants. Maps are those that are pinned in the directory.
fn load(directory: &Path, constants: &[(&str, u32)]) -> Result<Ebpf, Error> {
    let mut loader = EbpfLoader::new();
    for name in MAPS {
        loader.map_pin_path(name, directory.join(name));
    }
    for (name, value) in constants {
        loader.override_global(name, value, true);
    }
    let programs = loader.load(OBJECT)?;
    debug_assert!(
        programs.maps().all(|(name, _)| MAPS.contains(&name) || name.starts_with('.')),
        "every map is pinned"
    );
    Ok(programs)
}

fn load_programs(programs: &mut Ebpf, names: &[(&'static str, u32)]) -> Result<(), Error> {
    for &(name, _) in names {
        match program(programs, name)? {
            Program::CgroupSock(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            Program::SockOps(program) => program.load(),
            Program::CgroupSkb(program) => program.load(),
            Program::CgroupSockopt(program) => program.load(),
            _ => return Err(Error::Missing { kind: "program", name }),
        }
        .map_err(|cause| Error::Program { name, cause: Box::new(cause) })?;
    }
    Ok(())
}

fn program<'a>(programs: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Program, Error> {
    programs.program_mut(name).ok_or(Error::Missing { kind: "program", name })
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
