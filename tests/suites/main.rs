//! The suites: what enforcer promises, tried with real programs, judged by what is seen on the wire.
//!
//! Every test is named for its promise. Tests that want the same world share one; when all are done, or when
//! somebody interrupts them, every world of this process is taken down, and so are those that an earlier,
//! killed run has left. That is why the runner is not libtest, which ends the process without a word; the
//! command line and the output are the same.

mod stage;

mod oracle;

mod addresses;
mod connections;
mod direct;
mod programs;

mod admits;
mod certificates;
mod clocks;
mod control;
mod fairness;
mod federation;
mod guard;
mod outside;
mod policy;
mod public;
mod refuses;
mod workload_api;

mod configuration;
mod lifecycle;
mod memory;
mod observed;
mod reload;
mod verify;

use std::process::ExitCode;

use enforcer_tests::settings::{Depth, direct_depth};
use enforcer_tests::teardown;
use libtest_mimic::{Arguments, run};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if let Err(error) = teardown::begin() {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    let mut trials = vec![
        oracle::trials(),
        programs::trials(),
        connections::trials(),
        direct::trials(),
        addresses::trials(),
        outside::trials(),
        guard::trials(),
        lifecycle::trials(),
    ];
    // What is the same on every kernel is tried on this machine's own and on one with kernel TLS.
    if direct_depth() != Depth::Everyday {
        trials.extend([
            refuses::trials(),
            admits::trials(),
            certificates::trials(),
            workload_api::trials(),
            federation::trials(),
            clocks::trials(),
            control::trials(),
            policy::trials(),
            public::trials(),
            memory::trials(),
            fairness::trials(),
            observed::trials(),
            configuration::trials(),
            reload::trials(),
            verify::trials(),
        ]);
    }
    let conclusion = run(&arguments, trials.into_iter().flatten().collect());
    stage::print_slowest();
    teardown::sweep();
    conclusion.exit_code()
}
