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
mod impact;
mod lifecycle;
mod memory;
mod observed;
mod reload;
mod verify;

use std::process::ExitCode;

use enforcer_tests::settings::{Depth, direct_depth, is_quick};
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
    // What has nothing to do with kernel TLS and is the same on every kernel is tried where it is quick, and the rest of what
    // is the same on every kernel on one with kernel TLS too.
    if is_quick() {
        trials.extend([
            refuses::trials(),
            certificates::trials(),
            workload_api::trials(),
            public::trials(),
            observed::trials(),
        ]);
    }
    if direct_depth() != Depth::Everyday {
        trials.extend([
            admits::trials(),
            federation::trials(),
            clocks::trials(),
            control::trials(),
            policy::trials(),
            memory::trials(),
            fairness::trials(),
            configuration::trials(),
            reload::trials(),
            impact::trials(),
            verify::trials(),
        ]);
    }
    let conclusion = run(&arguments, stage::in_order(trials.into_iter().flatten()));
    stage::print_slowest();
    teardown::sweep();
    conclusion.exit_code()
}
