//! The application: one thread sits in a system call, the other waits to be told to let it end.

use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::unistd::gettid;

/// What a call came to: its result, or the operating system's error.
type Call = fn(&TcpStream, Option<Duration>) -> io::Result<usize>;

/// What is sent at once; nothing that fits into socket buffers.
const LARGE: usize = 1 << 20;

static SIGNALS: AtomicUsize = AtomicUsize::new(0);

pub(super) fn signal() -> libc::c_int {
    libc::SIGRTMIN() + 1
}

/// Plays a part; its name's words say what differs.
pub(super) fn run(part: &str) {
    let has = |word| part.split('-').any(|part| part == word);
    let timeout = has("timeout").then_some(Duration::from_secs(60));
    match () {
        () if has("restarting") => handle(counting as *const () as usize, libc::SA_RESTART),
        () if has("interrupted") => handle(counting as *const () as usize, 0),
        () if has("ignoring") => handle(libc::SIG_IGN, 0),
        () => {}
    }
    if has("500") {
        for _thread in 0..500 {
            thread::Builder::new().stack_size(16 * 1024).spawn(thread::park).unwrap();
        }
    }
    match () {
        () if has("receive") => sit_in(receive, timeout),
        () if has("send") => sit_in(send, timeout),
        () if has("poll") => sit_in(poll, timeout),
        () if has("epoll") => sit_in(epoll, timeout),
        () if has("vfork") => vfork(),
        () if has("exec") => exec(),
        () => end(),
    }
}

fn sit_in(call: Call, timeout: Option<Duration>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut peer, _address) = listener.accept().unwrap();
    socket.set_read_timeout(timeout).unwrap();
    socket.set_write_timeout(timeout).unwrap();
    let is_sending = ptr::fn_addr_eq(call, send as Call);
    if is_sending {
        fill(&socket);
    }
    let worker = thread::spawn(move || {
        println!("tid {}", gettid());
        let (mut octets, mut interruptions) = (0, 0);
        loop {
            match call(&socket, timeout) {
                Ok(number) => octets += number,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => interruptions += 1,
                Err(error) => return format!("{error}"),
            }
            // A send that had room for some of it has sent that much when it is interrupted, and is made again.
            let octets = match octets {
                LARGE.. => format!("at least {LARGE}"),
                1.. if !is_sending => octets.to_string(),
                _ => continue,
            };
            let signals = SIGNALS.load(Ordering::SeqCst);
            return format!("{octets} octets, {interruptions} interruptions, {signals} signals");
        }
    });
    io::stdin().read_line(&mut String::new()).unwrap();
    if is_sending {
        // Reads on while the worker writes; ends with the connection.
        io::copy(&mut peer, &mut io::sink()).unwrap();
    } else {
        peer.write_all(b"hello").unwrap();
    }
    println!("saw {}", worker.join().unwrap());
}

fn receive(socket: &TcpStream, _timeout: Option<Duration>) -> io::Result<usize> {
    let mut buffer = [0_u8; 16];
    // SAFETY: the kernel writes at most the length given.
    result(unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) })
}

fn send(socket: &TcpStream, _timeout: Option<Duration>) -> io::Result<usize> {
    let buffer = vec![7_u8; LARGE];
    // SAFETY: the kernel reads the length given.
    result(unsafe { libc::send(socket.as_raw_fd(), buffer.as_ptr().cast(), buffer.len(), libc::MSG_NOSIGNAL) })
}

fn poll(socket: &TcpStream, timeout: Option<Duration>) -> io::Result<usize> {
    let mut wanted = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which lives.
    result(unsafe { libc::poll(&raw mut wanted, 1, milliseconds(timeout)) as isize })
}

fn epoll(socket: &TcpStream, timeout: Option<Duration>) -> io::Result<usize> {
    // SAFETY: takes a number. The descriptor is left to the end of the process.
    let epoll = unsafe { libc::epoll_create1(0) };
    let mut event = libc::epoll_event { events: libc::EPOLLIN.cast_unsigned(), u64: 0 };
    // SAFETY: the event lives.
    result(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, socket.as_raw_fd(), &raw mut event) as isize })?;
    // SAFETY: room for one event, which lives.
    result(unsafe { libc::epoll_wait(epoll, &raw mut event, 1, milliseconds(timeout)) as isize })
}

fn milliseconds(timeout: Option<Duration>) -> libc::c_int {
    timeout.map_or(-1, |timeout| timeout.as_millis().try_into().unwrap())
}

fn result(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_negative| io::Error::last_os_error())
}

fn fill(socket: &TcpStream) {
    socket.set_nonblocking(true).unwrap();
    while (&mut &*socket).write(&[0; 4096]).is_ok() {}
    socket.set_nonblocking(false).unwrap();
}

fn handle(handler: usize, flags: libc::c_int) {
    // SAFETY: zeros are a valid sigaction, with an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    (action.sa_sigaction, action.sa_flags) = (handler, flags);
    // SAFETY: the handler does nothing that a handler must not do.
    assert_eq!(unsafe { libc::sigaction(signal(), &raw const action, ptr::null_mut()) }, 0);
}

extern "C" fn counting(_signal: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::SeqCst);
}

/// A thread that sleeps without being interruptible until its child ends, which does so when it is told anything.
fn vfork() {
    println!("tid {}", gettid());
    // SAFETY: the child has its own copy of the memory, and makes nothing but system calls.
    let child = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_VFORK | libc::SIGCHLD, 0, 0, 0, 0) };
    if child == 0 {
        let mut told = 0_u8;
        // SAFETY: takes numbers and no pointer.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        // SAFETY: the kernel writes one octet, which is alive.
        unsafe { libc::read(0, (&raw mut told).cast(), 1) };
        // SAFETY: takes a number and does not return.
        unsafe { libc::_exit(0) };
    }
    println!("saw the end of its child");
    thread::park();
}

/// A thread, not the first one, that becomes another program when it is told anything.
fn exec() {
    let worker = thread::spawn(|| {
        println!("tid {}", gettid());
        let mut line = String::new();
        io::stdin().read_line(&mut line).unwrap();
        let error = std::process::Command::new("/bin/echo").arg("saw another program").exec();
        println!("saw {error}");
    });
    worker.join().unwrap();
}

fn end() {
    let worker = thread::spawn(|| println!("tid {}", gettid()));
    worker.join().unwrap();
    println!("ended");
    thread::park();
}
