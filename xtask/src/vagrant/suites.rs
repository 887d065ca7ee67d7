//! The two-node suites: what is promised across a real virtual network, one function a promise.
//!
//! Unmodified programs talk from `node-a` to `node-b`; the wire at `node-b` is captured. First the control experiments,
//! without an agent: what is captured must show the marker, or finding none later would prove nothing. Then the agents
//! start, sharing one CA, and the marker must arrive in the application and never show on the wire.

mod apps;
mod control;
mod mesh;
mod promises;

use std::time::Instant;

use anyhow::{Result, anyhow};

use super::bed::Bed;
use super::node::{Family, Node};
use apps::Program;

/// Where the suites run.
#[derive(Debug)]
struct World<'bed> {
    /// The clients' machine.
    a: Node<'bed>,
    /// The servers' machine.
    b: Node<'bed>,
}

/// Something that must hold.
struct Promise {
    name: &'static str,
    check: fn(&World<'_>) -> Result<()>,
}

/// Without agents.
const CONTROL: &[Promise] = &[
    promise("control: without agents the capture shows the marker, over IPv4", |w| control::shows(w, Family::V4)),
    promise("control: without agents the capture shows the marker, over IPv6", |w| control::shows(w, Family::V6)),
];

/// Everything after this one needs it.
const START: Promise = promise("agents that share a CA start on both nodes", mesh::start);

/// With agents. Those that stop or replace an agent come last, and put it back.
const MESH: &[Promise] = &[
    promise("nginx and curl, IPv4: arrives, hidden on the wire", |w| promises::carries(w, Program::Http, Family::V4)),
    promise("nginx and curl, IPv6: arrives, hidden on the wire", |w| promises::carries(w, Program::Http, Family::V6)),
    promise("redis, both directions, IPv4", |w| promises::carries(w, Program::Redis, Family::V4)),
    promise("redis, both directions, IPv6", |w| promises::carries(w, Program::Redis, Family::V6)),
    promise("a server that speaks first, IPv4", |w| promises::carries(w, Program::Banner, Family::V4)),
    promise("a server that speaks first, IPv6", |w| promises::carries(w, Program::Banner, Family::V6)),
    promise("ssh, IPv4", |w| promises::carries(w, Program::Ssh, Family::V4)),
    promise("ssh, IPv6", |w| promises::carries(w, Program::Ssh, Family::V6)),
    promise("the kernel writes the TLS records on both nodes", promises::kernel_tls),
    promise("a client outside of every enrolled cgroup is refused, IPv4", |w| promises::unenrolled(w, Family::V4)),
    promise("a client outside of every enrolled cgroup is refused, IPv6", |w| promises::unenrolled(w, Family::V6)),
    promise("a node with a certificate of another CA is refused", promises::other_authority),
    promise("with its agent killed a node accepts nothing", promises::agent_killed),
];

/// How many promises held.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Score {
    passed: usize,
    failed: usize,
}

impl Score {
    /// Whether all promises held, and there were any.
    pub(super) fn holds(self) -> bool {
        self.failed == 0 && self.passed > 0
    }

    /// The closing line.
    #[expect(clippy::print_stdout, reason = "the result is the verb's output")]
    pub(super) fn print(self) {
        println!("{} passed, {} failed", self.passed, self.failed);
    }

    /// Checks one promise and says how that went.
    #[expect(clippy::print_stdout, reason = "the results are the verb's output")]
    fn check(&mut self, promise: &Promise, check: impl FnOnce() -> Result<()>) -> bool {
        let start = Instant::now();
        let outcome = check();
        let took = start.elapsed().as_secs_f64();
        match &outcome {
            Ok(()) => println!("ok      {} ({took:.1} s)", promise.name),
            Err(error) => println!("FAILED  {} ({took:.1} s): {error:#}", promise.name),
        }
        match outcome {
            Ok(()) => self.passed += 1,
            Err(_) => self.failed += 1,
        }
        outcome.is_ok()
    }
}

/// Runs all suites on the machines of the bed.
pub(super) fn run(bed: &Bed) -> Result<Score> {
    // The numbers are those of the Vagrantfile.
    let world = World { a: Node::find(bed, "node-a", 10)?, b: Node::find(bed, "node-b", 20)? };
    mesh::remove(&world)?;
    apps::start(&world)?;
    let mut score = Score::default();
    for promise in CONTROL {
        score.check(promise, || (promise.check)(&world));
    }
    let started = score.check(&START, || (START.check)(&world));
    for promise in MESH {
        // A promise that cannot be checked is not kept.
        score.check(
            promise,
            || if started { (promise.check)(&world) } else { Err(anyhow!("the agents did not start")) },
        );
    }
    Ok(score)
}

const fn promise(name: &'static str, check: fn(&World<'_>) -> Result<()>) -> Promise {
    Promise { name, check }
}
