//! Opens the sockets that were in a namespace before it is gated, so that they go on as they were.

use std::io::Read;

use aya::programs::{Iter, Program, ProgramError};
use aya::{Btf, Ebpf};

use super::{Error, program};
use crate::kernel::netns::Namespace;

const NAME: &str = "existing";

/// Loads the program.
pub(super) fn load(programs: &mut Ebpf, kernel: &Btf) -> Result<(), Error> {
    walk(programs)?.load("tcp", kernel).map_err(failed)
}

/// Has the loaded program walk through the TCP sockets of the namespace. Those that are made meanwhile are opened by the
/// programs of their cgroup.
pub(super) fn open(programs: &mut Ebpf, namespace: &Namespace) -> Result<(), Error> {
    let walk = walk(programs)?;
    let id = walk.attach().map_err(failed)?;
    let link = Iter::take_link(walk, id).map_err(failed)?;
    // The walk is through the namespace of the thread that begins it; the program prints nothing.
    let walked = namespace.enter(|| {
        let mut file = link.into_file().map_err(std::io::Error::other)?;
        file.read_to_end(&mut Vec::new())
    });
    walked.map(drop).map_err(Error::Gate)
}

fn walk(programs: &mut Ebpf) -> Result<&mut Iter, Error> {
    match program(programs, NAME)? {
        Program::Iter(walk) => Ok(walk),
        _ => Err(Error::Missing { kind: "program", name: NAME }),
    }
}

fn failed(cause: ProgramError) -> Error {
    Error::Program { name: NAME, cause: Box::new(cause) }
}
