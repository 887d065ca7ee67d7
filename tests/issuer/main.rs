//! The suites of the authority: what it promises of its state, tried with real servers on this machine, without worlds
//! and namespaces, as whatever user.
//!
//! Every suite starts the servers that it wants, on free ports of the loopback device and in a directory of its own, and
//! ends them; `stage` sees to it. What is missing on this machine fails the suite that wants it.
//!
//! This program is also some of the processes that the suites start and kill: see [`child`].

mod control;
mod etcd;
mod softhsm;
mod stage;
mod stores;
mod workload_api;

use std::process::ExitCode;

use libtest_mimic::{Arguments, run};

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(1).collect();
    if let [first, role, rest @ ..] = words.as_slice()
        && first == stage::CHILD
    {
        return child(role, rest);
    }
    let mut arguments = Arguments::from_args();
    // Some suites measure times, and all of them wait for the disk.
    arguments.test_threads.get_or_insert(1);
    stage::sweep();
    let trials = [stores::trials(), control::trials(), workload_api::trials()].into_iter().flatten().collect();
    run(&arguments, trials).exit_code()
}

/// Plays a role that a suite has given to another process of this program.
fn child(role: &str, words: &[String]) -> ExitCode {
    let played = match role {
        stores::killed::ROLE => stores::killed::play(words),
        stores::full::ROLE => stores::full::play(words),
        _ => Err(anyhow::anyhow!("no role is called {role}")),
    };
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
