//! The programs at kernel functions, which take notes of who holds a held socket. One set serves the whole node.
//!
//! They are pinned like the others: connections that are opened while no agent runs have owners too. A successor whose
//! program is the same leaves the link as it is, because attaching rewrites the code of a function that the whole node
//! is running. A link of this kind cannot be given another program, so another version attaches its own before it lets
//! go of the old one; meanwhile both take the same notes.

use std::fs;
use std::path::Path;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{FEntry, FExit, Program, ProgramError, ProgramInfo, loaded_programs};
use aya::{Btf, BtfError, Ebpf};

use super::{Error, pin_link, program};

/// Programs and the kernel functions that they are attached to.
const TRACED: [(&str, &str); 12] = [
    ("connect_begins", "__x64_sys_connect"),
    ("grafted", "security_sock_graft"),
    ("installed", "fd_install"),
    ("released", "inet_release"),
    ("send_enters", "tcp_sendmsg"),
    ("send_leaves", "tcp_sendmsg"),
    ("receive_enters", "tcp_recvmsg"),
    ("receive_leaves", "tcp_recvmsg"),
    ("receive_waits", "sk_wait_data"),
    ("send_waits", "sk_stream_wait_memory"),
    ("splice_enters", "tcp_splice_read"),
    ("splice_leaves", "tcp_splice_read"),
];
/// How `sendfile` and `splice` send until Linux 6.4; later kernels have only `tcp_sendmsg`.
const PAGES: [(&str, &str); 2] = [("page_enters", "tcp_sendpage"), ("page_leaves", "tcp_sendpage")];
/// Accepting through io_uring; a kernel may be built without it.
const IO_URING: (&str, &str) = ("io_accept_returns", "io_accept");
/// Correcting FIONREAD, where the function is one that answers into the application's memory: `tcp_ioctl` until Linux
/// 6.4, `sk_ioctl` since. A locked-down kernel (`lockdown=integrity`) lets no program write there.
const UNREAD: (&str, [&str; 2]) = ("ioctl_returns", ["sk_ioctl", "tcp_ioctl"]);

/// Attaches all of them, and pins the links in `directory`.
pub(super) fn attach((programs, btf): (&mut Ebpf, &Btf), directory: &Path) -> Result<Vec<String>, Error> {
    let links = Links { directory, loaded: loaded_programs().filter_map(Result::ok).collect() };
    let mut pins = Vec::new();
    for (name, function) in TRACED.into_iter().chain(PAGES) {
        match load(program(programs, name)?, function, btf) {
            Ok(()) => pins.push(links.replace(program(programs, name)?, (name, function))?),
            Err(ProgramError::Btf(BtfError::UnknownBtfTypeName { .. })) if PAGES.contains(&(name, function)) => {}
            Err(cause) => return Err(Error::Program { name, cause: Box::new(cause) }),
        }
    }
    let (name, function) = IO_URING;
    // Without it such a connection is found by searching, when its peer's offer comes.
    if load(program(programs, name)?, function, btf).is_ok() {
        pins.push(links.replace(program(programs, name)?, (name, function))?);
    }
    let (name, functions) = UNREAD;
    if let Some(function) = functions.into_iter().find(|function| load_if_there(programs, name, (function, btf))) {
        pins.push(links.replace(program(programs, name)?, (name, function))?);
    } else {
        tracing::warn!("FIONREAD on direct sockets is not corrected: programs that trust it, such as nginx, may stall");
    }
    Ok(pins)
}

fn load_if_there(programs: &mut Ebpf, name: &'static str, (function, btf): (&str, &Btf)) -> bool {
    program(programs, name).is_ok_and(|program| load(program, function, btf).is_ok())
}

fn load(program: &mut Program, function: &str, btf: &Btf) -> Result<(), ProgramError> {
    match program {
        Program::FEntry(program) => program.load(function, btf),
        Program::FExit(program) => program.load(function, btf),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Where links are pinned, and the programs that the kernel had before ours.
struct Links<'a> {
    directory: &'a Path,
    loaded: Vec<ProgramInfo>,
}

impl Links<'_> {
    /// Attaches a loaded program to its function and puts its pin into the place of an earlier agent's, unless that one
    /// has the same program there. Returns the name of the pin.
    fn replace(&self, program: &mut Program, (name, function): (&'static str, &str)) -> Result<String, Error> {
        // What a program is attached to is no part of what it is, so the name tells.
        let pin = format!("trace-{name}-{function}");
        if self.serves(&pin, program) {
            return Ok(pin);
        }
        let fresh = self.directory.join(format!("fresh-{name}"));
        let renamed = |cause| Error::Directory { path: fresh.clone(), cause };
        let link = attach_one(program, name)?;
        if fresh.exists() {
            // Of an agent that was killed at this very place.
            fs::remove_file(&fresh).map_err(renamed)?;
        }
        pin_link(link, &fresh)?;
        fs::rename(&fresh, self.directory.join(&pin)).map_err(renamed)?;
        Ok(pin)
    }

    /// Whether the pinned link is there, and its program has the same instructions and maps as this one.
    fn serves(&self, pin: &str, program: &Program) -> bool {
        let (Ok(link), Ok(own)) = (PinnedLink::from_pin(self.directory.join(pin)), program.info()) else {
            return false;
        };
        let Ok(link) = FdLink::from(link).info() else { return false };
        let theirs = self.loaded.iter().find(|info| info.id() == link.program_id());
        let maps = |info: &ProgramInfo| info.map_ids().ok().flatten();
        theirs.is_some_and(|theirs| {
            theirs.tag() == own.tag() && maps(theirs).is_some_and(|theirs| Some(theirs) == maps(&own))
        })
    }
}

fn attach_one(program: &mut Program, name: &'static str) -> Result<FdLink, Error> {
    let failed = |cause| Error::Program { name, cause: Box::new(cause) };
    match program {
        Program::FEntry(program) => {
            let program: &mut FEntry = program;
            let id = program.attach().map_err(failed)?;
            Ok(program.take_link(id).map_err(failed)?.into())
        }
        Program::FExit(program) => {
            let program: &mut FExit = program;
            let id = program.attach().map_err(failed)?;
            Ok(program.take_link(id).map_err(failed)?.into())
        }
        _ => Err(Error::Missing { kind: "tracing program", name }),
    }
}
