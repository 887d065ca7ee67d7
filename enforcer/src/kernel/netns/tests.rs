//! Namespaces made for a test.

use std::sync::mpsc;
use std::thread;

use nix::sched::unshare;
use nix::unistd::gettid;

use super::*;

#[test]
fn sysctls_are_those_of_the_namespace() {
    let other = new_namespace();
    let own = Namespace::open(Path::new("/proc/self/ns/net")).unwrap();
    assert!(own.is_own() && !other.is_own());
    let before = own.notsent_lowat().unwrap();
    for lowat in [0, 1, u32::MAX] {
        other.set_notsent_lowat(lowat).unwrap();
        assert_eq!(other.notsent_lowat().unwrap(), lowat);
        assert_eq!(other.try_clone().unwrap().notsent_lowat().unwrap(), lowat);
        assert_eq!(own.notsent_lowat().unwrap(), before);
    }
}

#[test]
fn a_process_is_in_the_namespace_that_it_is_in() {
    let own = Namespace::open(Path::new("/proc/self/ns/net")).unwrap();
    assert_eq!(Id::of_process(std::process::id()).unwrap(), own.id().unwrap());
    assert_ne!(new_namespace().id().unwrap(), own.id().unwrap());
    assert!(Id::of_process(u32::MAX).is_err());
}

/// A namespace with nothing but a loopback, made by a thread that ends.
pub(crate) fn new_namespace() -> Namespace {
    let (made, path) = mpsc::channel();
    let (opened, wait) = mpsc::channel::<()>();
    thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        loopback_up().unwrap();
        made.send(format!("/proc/self/task/{}/ns/net", gettid())).unwrap();
        let _opened = wait.recv();
    });
    let namespace = Namespace::open(Path::new(&path.recv().unwrap())).unwrap();
    drop(opened);
    namespace
}

fn loopback_up() -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // SAFETY: an ifreq of zeros is a valid one, without a name and with no flag set.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    (request.ifr_name[0], request.ifr_name[1]) = (b'l'.cast_signed(), b'o'.cast_signed());
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP).unwrap();
    // SAFETY: the kernel reads an ifreq, which lives until the call returns.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
