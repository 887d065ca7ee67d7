//! On children: each test is run again in a process of its own, because what it does cannot be undone.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::{env, fs};

use nix::unistd::{Uid, getuid, setuid};

use super::*;

/// Says what a child is to do.
const TASK: &str = "ENFORCER_TEST_HARDEN";
/// Nobody in particular.
const USER: u32 = 65534;

/// This test in a process of its own, which says one line and then waits for the end of its input.
fn child(test: &str, task: &str) -> Child {
    let name = format!("kernel::harden::tests::{test}");
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", &name, "--nocapture", "--test-threads=1"]).env(TASK, task);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// What a child does when it is ready.
fn ready() {
    println!("\nready");
    io::stdout().flush().unwrap();
    let _end = io::stdin().read(&mut [0]).unwrap();
}

fn wait_until_ready(child: &mut Child) {
    let mut said = Vec::new();
    let stdout = child.stdout.as_mut().unwrap();
    while !said.ends_with(b"\nready\n") {
        let mut octet = [0];
        stdout.read_exact(&mut octet).unwrap();
        said.push(octet[0]);
    }
}

/// The one test of a child has run.
fn check_passed(task: &str, output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{task}: {said}");
}

/// The one that sees everything becomes one that does not.
fn become_user() {
    if getuid().is_root() {
        setuid(Uid::from_raw(USER)).unwrap();
        // Changing the user has forbidden inspection already.
        prctl::set_dumpable(true).unwrap();
    }
}

#[test]
fn another_process_of_the_same_user_cannot_look_into_it() {
    const TEST: &str = "another_process_of_the_same_user_cannot_look_into_it";
    match env::var(TASK).as_deref() {
        Ok("open") => {
            become_user();
            return ready();
        }
        Ok("closed") => {
            become_user();
            forbid_inspection().unwrap();
            assert!(!prctl::get_dumpable().unwrap());
            return ready();
        }
        Ok(task) => {
            let (pid, expected) = task.split_once(' ').unwrap();
            become_user();
            let readable = expected == "readable";
            assert_eq!(fs::read(format!("/proc/{pid}/environ")).is_ok(), readable);
            // Yama may forbid it anyway.
            assert!(readable || fs::File::open(format!("/proc/{pid}/mem")).is_err());
            return;
        }
        Err(_) => {}
    }
    for (task, expected) in [("open", "readable"), ("closed", "unreadable")] {
        let mut observed = child(TEST, task);
        wait_until_ready(&mut observed);
        let observer = child(TEST, &format!("{} {expected}", observed.id())).wait_with_output().unwrap();
        drop(observed.stdin.take());
        assert!(observed.wait().unwrap().success(), "{task}");
        check_passed(task, &observer);
    }
}

#[test]
fn no_core_is_dumped() {
    if env::var_os(TASK).is_some() {
        forbid_inspection().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
        std::process::abort();
    }
    let status = child("no_core_is_dumped", "abort").wait().unwrap();
    assert_eq!((status.signal(), status.core_dumped()), (Some(libc::SIGABRT), false));
}

/// KiB, from /proc/self/status.
fn status(field: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().unwrap()
}

#[test]
fn memory_is_locked_when_it_is_touched_or_not_at_all() {
    const TEST: &str = "memory_is_locked_when_it_is_touched_or_not_at_all";
    const BIG: usize = 256 << 20;
    match env::var(TASK).as_deref() {
        Ok("right") => {
            let before = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();
            match lock_memory() {
                Ok(()) => {
                    let (locked, resident) = (status("VmLck"), status("VmRSS"));
                    let big = Vec::<u8>::with_capacity(BIG);
                    assert!(status("VmLck") >= locked + (BIG as u64 >> 10), "what comes later is locked, too");
                    assert!(status("VmRSS") < resident + (BIG as u64 >> 11), "and takes no memory yet");
                    drop(big);
                }
                // Where the tests run without the right.
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EPERM)),
            }
            let after = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();
            assert!(after == before || after.0 == RLIM_INFINITY);
            return;
        }
        Ok(_no_right) => {
            let (_, hard) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();
            // Enough for what is there, and not for what may come.
            let limit = hard.min(1 << 40);
            setrlimit(Resource::RLIMIT_MEMLOCK, limit, limit).unwrap();
            become_user();
            assert_eq!(lock_memory().unwrap_err().raw_os_error(), Some(libc::EPERM));
            assert_eq!(getrlimit(Resource::RLIMIT_MEMLOCK).unwrap(), (limit, limit));
            assert_eq!(status("VmLck"), 0);
            return;
        }
        Err(_) => {}
    }
    for task in ["right", "no right"] {
        check_passed(task, &child(TEST, task).wait_with_output().unwrap());
    }
}
