//! The application is this test program, run again with the name of its part in the environment; it is told what to
//! do on its standard input, and tells what it sees.

mod application;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::*;

/// The environment variable that makes an application of [`application_entry`].
const PART: &str = "ENFORCER_TEST_RESTART";

/// The application's `main`.
#[test]
fn application_entry() {
    if let Ok(part) = std::env::var(PART) {
        application::run(&part);
    }
}

struct Application {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// The thread that is inside the call.
    tid: u32,
}

impl Application {
    fn start(part: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kernel::restart::tests::application_entry", "--nocapture"])
            .env(PART, part)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut application = Self { child, input, output, tid: 0 };
        application.tid = application.hear("tid ").parse().unwrap();
        application
    }

    /// Waits for the line that begins like this; returns its rest.
    fn hear(&mut self, prefix: &str) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the application has ended");
            // The test harness writes the beginning of a line before the application's first one.
            if let Some((_harness, rest)) = line.split_once(prefix) {
                return rest.trim().to_owned();
            }
        }
    }

    /// Waits until the thread sleeps inside a system call.
    fn wait_until_inside(&self, calls: &[libc::c_long]) {
        self.wait_for("syscall", |text| {
            calls.iter().any(|call| text.split(' ').next() == Some(call.to_string().as_str()))
        });
    }

    fn wait_for(&self, file: &str, condition: impl Fn(&str) -> bool) {
        let path = format!("/proc/{}/task/{}/{file}", self.child.id(), self.tid);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if condition(&text) {
                return;
            }
            assert!(Instant::now() < deadline, "{path} is {text:?}");
            std::thread::yield_now();
        }
    }

    /// Lets the call end, and returns what the application saw.
    fn finish(&mut self) -> String {
        self.input.write_all(b"go\n").unwrap();
        self.hear("saw ")
    }

    fn kill(&self, tid: u32, signal: libc::c_int) {
        // SAFETY: takes numbers and no pointer.
        let result = unsafe { libc::syscall(libc::SYS_tgkill, self.child.id(), tid, signal) };
        assert_eq!(result, 0);
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _ended = self.child.wait();
    }
}

#[test]
fn calls_go_on_as_if_nothing_had_been() {
    for (part, call, octets) in [
        ("receive", libc::SYS_recvfrom, "5 octets"),
        ("receive-timeout", libc::SYS_recvfrom, "5 octets"),
        ("send", libc::SYS_sendto, "at least 1048576 octets"),
        ("send-timeout", libc::SYS_sendto, "at least 1048576 octets"),
        ("poll", libc::SYS_poll, "1 octets"),
        ("poll-timeout", libc::SYS_poll, "1 octets"),
        ("epoll", libc::SYS_epoll_wait, "1 octets"),
        ("epoll-timeout", libc::SYS_epoll_wait, "1 octets"),
    ] {
        let mut application = Application::start(part);
        for _time in 0..50 {
            // After a restart poll sleeps in restart_syscall.
            application.wait_until_inside(&[call, libc::SYS_restart_syscall]);
            assert_eq!(restart_call(application.tid).unwrap(), Restarted::Left, "{part}");
        }
        application.wait_for("status", |status| status.contains("TracerPid:\t0"));
        assert_eq!(application.finish(), format!("{octets}, 0 interruptions, 0 signals"), "{part}");
    }
}

#[test]
fn signals_are_neither_lost_nor_doubled() {
    /// Queued one by one, as real-time signals are.
    const SIGNALS: usize = 400;
    for (part, may_interrupt) in [
        ("receive-restarting", false),
        ("receive-interrupted", true),
        ("receive-timeout-restarting", true),
        ("receive-timeout-interrupted", true),
        ("receive-timeout-ignoring", false),
    ] {
        let mut application = Application::start(part);
        let tid = application.tid;
        application.wait_until_inside(&[libc::SYS_recvfrom]);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _signal in 0..SIGNALS {
                    application.kill(tid, application::signal());
                    std::thread::yield_now();
                }
            });
            for _time in 0..SIGNALS {
                assert_eq!(restart_call(tid).unwrap(), Restarted::Left, "{part}");
            }
        });
        let saw = application.finish();
        let handled = if part.ends_with("ignoring") { 0 } else { SIGNALS };
        assert!(saw.starts_with("5 octets, "), "{part}: {saw}");
        assert!(saw.ends_with(&format!(" {handled} signals")), "{part}: {saw}");
        assert_eq!(!saw.contains(" 0 interruptions"), may_interrupt, "{part}: {saw}");
    }
}

/// What a handler does to a call with a timeout is the same with and without us: EINTR.
#[test]
fn a_signal_during_the_stop_interrupts_as_always() {
    for _time in 0..10 {
        let mut application = Application::start("receive-timeout-restarting");
        application.wait_until_inside(&[libc::SYS_recvfrom]);
        let seized = std::thread::scope(|scope| {
            let tracing = scope.spawn(|| {
                assert_eq!(seize(application.tid).unwrap(), Restarted::Left);
                ptrace(libc::PTRACE_INTERRUPT, application.tid, 0).unwrap();
                application.kill(application.tid, application::signal());
                let Change::Stopped { code } = wait(application.tid, Instant::now() + DEADLINE).unwrap() else {
                    return false;
                };
                let_go(application.tid, Signal::of(code)).is_ok()
            });
            tracing.join().unwrap()
        });
        assert!(seized);
        assert_eq!(application.finish(), "5 octets, 1 interruptions, 1 signals");
    }
}

#[test]
fn a_traced_thread_is_left_to_its_tracer() {
    let mut application = Application::start("receive");
    application.wait_until_inside(&[libc::SYS_recvfrom]);
    let tid = application.tid;
    // The end of the thread is the end of its tracing.
    let (result, own) = std::thread::scope(|scope| {
        let tracing = scope.spawn(|| {
            assert_eq!(seize(tid).unwrap(), Restarted::Left);
            (restart_call(tid), nix::unistd::gettid().as_raw().cast_unsigned())
        });
        tracing.join().unwrap()
    });
    assert!(matches!(result, Err(Error::AlreadyTraced { tracer, .. }) if tracer == own), "{result:?}");
    assert_eq!(application.finish(), "5 octets, 0 interruptions, 0 signals");
}

#[test]
fn threads_that_have_ended_are_gone() {
    let mut application = Application::start("end");
    application.hear("ended");
    assert_eq!(restart_call(application.tid).unwrap(), Restarted::Gone);
    application.child.kill().unwrap();
    let pid = application.child.id();
    // A zombie, until somebody waits for it, which the agent must not do to its own child.
    application.tid = pid;
    application.wait_for("stat", |stat| stat.contains(") Z "));
    assert_eq!(restart_call(pid).unwrap(), Restarted::Gone);
    assert!(!application.child.wait().unwrap().success());
    assert_eq!(restart_call(pid).unwrap(), Restarted::Gone);
}

#[test]
fn a_stopped_process_stays_stopped() {
    let mut application = Application::start("receive");
    application.wait_until_inside(&[libc::SYS_recvfrom]);
    application.kill(application.child.id(), libc::SIGSTOP);
    application.wait_for("stat", |stat| stat.contains(") T "));
    for _time in 0..3 {
        assert_eq!(restart_call(application.tid).unwrap(), Restarted::Left);
        application.wait_for("stat", |stat| stat.contains(") T "));
    }
    application.kill(application.child.id(), libc::SIGCONT);
    assert_eq!(application.finish(), "5 octets, 0 interruptions, 0 signals");
}

#[test]
fn a_thread_that_does_not_stop_in_time_is_let_go_when_it_does() {
    let mut application = Application::start("vfork");
    application.wait_for("stat", |stat| stat.contains(") D "));
    let started = Instant::now();
    let result = restart_call(application.tid);
    assert!(matches!(result, Err(Error::Timeout { .. })), "{result:?}");
    assert!(started.elapsed() < 4 * DEADLINE);
    assert_eq!(application.finish(), "the end of its child");
    application.wait_for("status", |status| status.contains("TracerPid:\t0"));
}

/// One that runs another program meanwhile changes its id.
#[test]
fn a_program_that_a_thread_becomes_goes_on() {
    for _time in 0..20 {
        let mut application = Application::start("exec");
        application.input.write_all(b"go\n").unwrap();
        let _restarted = restart_call(application.tid).unwrap();
        assert_eq!(application.hear("saw "), "another program");
    }
}

/// Other tasks of a runtime go on while one of its threads waits.
#[test]
fn a_thread_that_does_not_stop_keeps_nobody_waiting() {
    let mut application = Application::start("vfork");
    application.wait_for("stat", |stat| stat.contains(") D "));
    let (tid, runtime) =
        (application.tid, tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap());
    runtime.block_on(async {
        let restarting = tokio::spawn(async move { restart_call(tid) });
        tokio::task::yield_now().await;
        let started = Instant::now();
        tokio::spawn(async {}).await.unwrap();
        assert!(started.elapsed() < DEADLINE / 2);
        assert!(matches!(restarting.await.unwrap(), Err(Error::Timeout { .. })));
    });
    assert_eq!(application.finish(), "the end of its child");
}

#[test]
fn a_process_that_is_killed_meanwhile_is_gone_or_left() {
    for _time in 0..20 {
        let application = Application::start("receive");
        application.wait_until_inside(&[libc::SYS_recvfrom]);
        std::thread::scope(|scope| {
            scope.spawn(|| application.kill(application.child.id(), libc::SIGKILL));
            restart_call(application.tid).unwrap();
        });
    }
}

/// Among 500 threads, a call is restarted in less time than it takes only to read their ids.
#[test]
fn the_number_of_threads_does_not_matter() {
    let application = Application::start("receive-among-500");
    application.wait_until_inside(&[libc::SYS_recvfrom]);
    let restart = best(|| assert_eq!(restart_call(application.tid).unwrap(), Restarted::Left));
    let directory = format!("/proc/{}/task", application.child.id());
    let reading = best(|| assert!(std::fs::read_dir(&directory).unwrap().count() > 500));
    eprintln!("restart among 503 threads: {restart:?}, reading their ids: {reading:?}");
    assert!(restart < reading, "{restart:?} to restart, {reading:?} to read the ids");
}

/// The shortest time that this takes, of many.
fn best(once: impl Fn()) -> Duration {
    let time = |_time| {
        let started = Instant::now();
        once();
        started.elapsed()
    };
    (0..200).map(time).min().unwrap()
}
