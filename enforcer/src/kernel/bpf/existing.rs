//! Opens the sockets that were in a namespace before it is gated, so that they go on as they were.

use std::io::Read;

use aya::programs::{Iter, Program};
use aya::{Btf, Ebpf};

use super::{Error, program};
use crate::kernel::netns::Namespace;

const NAME: &str = "existing";

/// Walks through the TCP sockets of the namespace. Those that are made meanwhile are opened by the programs of their
/// cgroup.
pub(super) fn open((instance, kernel): (&mut Ebpf, &Btf), namespace: &Namespace) -> Result<(), Error> {
    let failed = |cause| Error::Program { name: NAME, cause: Box::new(cause) };
    let Program::Iter(walk) = program(instance, NAME)? else {
        return Err(Error::Missing { kind: "program", name: NAME });
    };
    walk.load("tcp", kernel).map_err(failed)?;
    let id = walk.attach().map_err(failed)?;
    let link = Iter::take_link(walk, id).map_err(failed)?;
    // The walk is through the namespace of the thread that begins it; the program prints nothing.
    let walked = namespace.enter(|| {
        let mut file = link.into_file().map_err(std::io::Error::other)?;
        file.read_to_end(&mut Vec::new())
    });
    walked.map(drop).map_err(Error::Gate)
}
