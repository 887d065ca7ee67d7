//! A shell that holds a socket of ours is the application.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};

use super::*;

/// Runs `sleep` with the socket as its standard input. Killed when the test ends.
struct Application {
    child: Child,
}

impl Application {
    fn with(socket: impl Into<OwnedFd>) -> Self {
        let stdin: Stdio = Stdio::from(socket.into());
        Self { child: Command::new("sleep").arg("60").stdin(stdin).spawn().unwrap() }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn end(&mut self) {
        let _killed = self.child.kill();
        let _ended = self.child.wait();
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.end();
    }
}

#[test]
fn the_socket_is_reached_and_is_the_same() {
    let (socket, mut peer) = pair();
    let cookie = socket::cookie(&socket).unwrap();
    let application = Application::with(socket);
    let processes = Processes::default();
    for _remembered in 0..2 {
        let found = TcpStream::from(processes.socket_of(application.pid(), 0, cookie).unwrap());
        peer.write_all(b"x").unwrap();
        assert_eq!(found.peek(&mut [0; 1]).unwrap(), 1);
    }
}

#[test]
fn another_socket_or_file_is_not_handed_out() {
    let (socket, _peer) = pair();
    let cookie = socket::cookie(&socket).unwrap();
    let application = Application::with(socket);
    let processes = Processes::default();
    let of = |fd, cookie| processes.socket_of(application.pid(), fd, cookie);
    assert!(matches!(of(0, cookie + 1), Err(Error::NoSuchSocket { .. })));
    assert!(matches!(of(1, cookie), Err(Error::NoSuchSocket { .. })), "no socket");
    assert!(matches!(of(999, cookie), Err(Error::NoSuchSocket { .. })), "closed");
    assert!(matches!(of(-1, cookie), Err(Error::NoSuchSocket { .. })));
}

#[test]
fn a_process_that_has_ended_is_told() {
    let (socket, _peer) = pair();
    let cookie = socket::cookie(&socket).unwrap();
    let mut application = Application::with(socket);
    let processes = Processes::default();
    processes.socket_of(application.pid(), 0, cookie).unwrap();
    application.end();
    for _remembered_or_not in 0..2 {
        let result = processes.socket_of(application.pid(), 0, cookie);
        assert!(matches!(result, Err(Error::ProcessGone { .. })), "{result:?}");
    }
    assert!(processes.with_slot(application.pid(), |slot| slot.is_none()));
    assert!(processes.find_among(&[application.pid()], cookie).unwrap().is_none());
}

#[test]
fn a_remembered_handle_of_a_dead_process_is_replaced_once() {
    let (socket, _peer) = pair();
    let cookie = socket::cookie(&socket).unwrap();
    let application = Application::with(socket);
    let mut dead = Application::with(pair().0);
    let stale = Arc::new(open(dead.pid()).unwrap());
    dead.end();
    let processes = Processes::default();
    // As if the dead process had had the same id.
    let known = Known { pid: application.pid(), handle: stale };
    processes.with_slot(application.pid(), |slot| slot.replace(known));
    processes.socket_of(application.pid(), 0, cookie).unwrap();
}

#[test]
fn searches_find_the_process_that_has_it() {
    let (socket, _peer) = pair();
    let cookie = socket::cookie(&socket).unwrap();
    let (without, with) = (Application::with(pair().0), Application::with(socket));
    let processes = Processes::default();
    let found = processes.find_among(&[4_000_000, without.pid(), with.pid()], cookie).unwrap();
    assert_eq!(found.map(|(pid, socket)| (pid, socket::cookie(&socket).unwrap())), Some((with.pid(), cookie)));
    assert!(processes.find_among(&[without.pid()], cookie).unwrap().is_none());
    let many: Vec<u32> = (5_000_000..5_005_000).collect();
    assert!(matches!(processes.find_among(&many, cookie), Err(Error::TooMany { what: "processes", .. })));

    // A directory that looks like a control group is one to the search.
    let root = tempfile::tempdir().unwrap();
    let below = root.path().join("below/further");
    std::fs::create_dir_all(&below).unwrap();
    std::fs::write(root.path().join("cgroup.procs"), "0\n4000000\n").unwrap();
    assert!(processes.find_in_cgroup(root.path(), cookie).unwrap().is_none());
    std::fs::write(root.path().join("below/cgroup.procs"), "").unwrap();
    std::fs::write(below.join("cgroup.procs"), format!("{}\n", with.pid())).unwrap();
    assert_eq!(processes.find_in_cgroup(root.path(), cookie).unwrap().map(|(pid, _socket)| pid), Some(with.pid()));
    let missing = processes.find_in_cgroup(&root.path().join("missing"), cookie);
    assert!(matches!(missing, Err(Error::System { .. })));
}

#[test]
fn the_copy_is_not_inherited() {
    let (socket, _peer) = pair();
    let cookie = socket::cookie(&socket).unwrap();
    let application = Application::with(socket);
    let found = Processes::default().socket_of(application.pid(), 0, cookie).unwrap();
    // SAFETY: takes numbers and no pointer.
    let flags = unsafe { libc::fcntl(found.as_raw_fd(), libc::F_GETFD) };
    assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (socket, listener.accept().unwrap().0)
}
