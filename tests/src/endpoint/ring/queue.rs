//! An io_uring that owns what it lends to the kernel.
//!
//! The only `unsafe` of the tests. Promise: memory that a request names stays where it is until the request is done;
//! a queue that is dropped with requests under way leaks it. An interrupted wait is an error and not tried again: a
//! program that handles no signal must not see one.
#![expect(unsafe_code, reason = "the kernel reads and writes memory that only a raw request names")]

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use io_uring::types::{DestinationSlot, Fd, Fixed};
use io_uring::{IoUring, opcode, squeue};
use socket2::{Domain, Protocol, SockAddr, Type};

/// A ring with its requests.
pub(super) struct Queue {
    ring: IoUring,
    /// Sockets are slots of the ring, and no descriptors of the process.
    direct: bool,
    under_way: HashMap<u64, Request>,
    submitted: u64,
}

/// A connection.
pub(super) enum Socket {
    Descriptor(OwnedFd),
    Slot(u32),
}

/// A request that is done.
pub(super) enum Done {
    /// What a `connect` or an `accept` gave; with a `connect` it is 0.
    Opened(i32),
    /// How much of which bytes went out.
    Sent(usize, Vec<u8>),
    /// What came; nothing at the end.
    Received(Vec<u8>),
}

/// What the kernel may look at until the request is done.
enum Request {
    Open(#[expect(dead_code, reason = "held for the kernel")] Option<Box<SockAddr>>),
    Send(Vec<u8>),
    Receive(Vec<u8>),
}

impl Queue {
    /// Makes a ring; `direct` decides where its sockets live.
    pub(super) fn new(direct: bool) -> io::Result<Queue> {
        const ENTRIES: u32 = 8;
        let ring = IoUring::new(ENTRIES)?;
        if direct {
            ring.submitter().register_files_sparse(ENTRIES)?;
        }
        Ok(Queue { ring, direct, under_way: HashMap::new(), submitted: 0 })
    }

    /// Accepts one connection.
    pub(super) fn accept(&mut self, listener: &TcpListener) -> io::Result<Socket> {
        let accept = opcode::Accept::new(Fd(listener.as_raw_fd()), ptr::null_mut(), ptr::null_mut());
        let accept = if self.direct { accept.file_index(Some(DestinationSlot::auto_target())) } else { accept };
        self.submit(accept.build(), Request::Open(None))?;
        let opened = self.opened()?;
        self.socket(opened)
    }

    /// Makes a socket and connects it.
    pub(super) fn connect(&mut self, to: SocketAddr) -> io::Result<Socket> {
        let (domain, kind, protocol) = (Domain::for_address(to), Type::STREAM, Protocol::TCP);
        let make = opcode::Socket::new(domain.into(), kind.into(), protocol.into());
        let make = if self.direct { make.file_index(Some(DestinationSlot::auto_target())) } else { make };
        self.submit(make.build(), Request::Open(None))?;
        let opened = self.opened()?;
        let socket = self.socket(opened)?;
        let address = Box::new(SockAddr::from(to));
        let (pointer, length) = (address.as_ptr().cast(), address.len());
        let entry = match &socket {
            Socket::Descriptor(fd) => opcode::Connect::new(Fd(fd.as_raw_fd()), pointer, length).build(),
            Socket::Slot(slot) => opcode::Connect::new(Fixed(*slot), pointer, length).build(),
        };
        self.submit(entry, Request::Open(Some(address)))?;
        self.opened()?;
        Ok(socket)
    }

    /// Begins to send `bytes`.
    pub(super) fn send(&mut self, socket: &Socket, bytes: Vec<u8>) -> io::Result<()> {
        let (pointer, length) = (bytes.as_ptr(), length_of(&bytes)?);
        let entry = match socket {
            Socket::Descriptor(fd) => opcode::Send::new(Fd(fd.as_raw_fd()), pointer, length).build(),
            Socket::Slot(slot) => opcode::Send::new(Fixed(*slot), pointer, length).build(),
        };
        self.submit(entry, Request::Send(bytes))
    }

    /// Begins to receive.
    pub(super) fn receive(&mut self, socket: &Socket, at_most: usize) -> io::Result<()> {
        let mut bytes = vec![0; at_most];
        let (pointer, length) = (bytes.as_mut_ptr(), length_of(&bytes)?);
        let entry = match socket {
            Socket::Descriptor(fd) => opcode::Recv::new(Fd(fd.as_raw_fd()), pointer, length).build(),
            Socket::Slot(slot) => opcode::Recv::new(Fixed(*slot), pointer, length).build(),
        };
        self.submit(entry, Request::Receive(bytes))
    }

    /// Waits for the next request that is done.
    pub(super) fn wait(&mut self) -> io::Result<Done> {
        let done = loop {
            if let Some(done) = self.ring.completion().next() {
                break done;
            }
            self.ring.submit_and_wait(1)?;
        };
        let request = self.under_way.remove(&done.user_data()).ok_or(io::ErrorKind::NotFound)?;
        let result = done.result();
        let count = usize::try_from(result).map_err(|_negative| io::Error::from_raw_os_error(-result))?;
        Ok(match request {
            Request::Open(_) => Done::Opened(result),
            Request::Send(bytes) => Done::Sent(count, bytes),
            Request::Receive(mut bytes) => {
                bytes.truncate(count);
                Done::Received(bytes)
            }
        })
    }

    /// Waits for a request that is under way alone.
    fn opened(&mut self) -> io::Result<i32> {
        match self.wait()? {
            Done::Opened(opened) => Ok(opened),
            Done::Sent(..) | Done::Received(_) => Err(io::ErrorKind::Other.into()),
        }
    }

    fn socket(&self, opened: i32) -> io::Result<Socket> {
        if self.direct {
            let slot = u32::try_from(opened).map_err(|_negative| io::ErrorKind::InvalidData)?;
            return Ok(Socket::Slot(slot));
        }
        // SAFETY: the kernel has just made this descriptor for us, and nobody else has heard of it.
        Ok(Socket::Descriptor(unsafe { OwnedFd::from_raw_fd(opened) }))
    }

    fn submit(&mut self, entry: squeue::Entry, request: Request) -> io::Result<()> {
        self.submitted += 1;
        self.under_way.insert(self.submitted, request);
        let entry = entry.user_data(self.submitted);
        // SAFETY: what the entry points to lies on the heap, and `under_way` holds it until the entry is done.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)?;
        // At once, and not with the next wait: a receive shall be under way when the bytes come.
        self.ring.submit().map(drop)
    }
}

impl Drop for Queue {
    /// The kernel may still write into what was lent to it.
    fn drop(&mut self) {
        self.under_way.drain().for_each(|(_, request)| std::mem::forget(request));
    }
}

fn length_of(bytes: &[u8]) -> io::Result<u32> {
    u32::try_from(bytes.len()).map_err(|_too_long| io::ErrorKind::InvalidInput.into())
}
