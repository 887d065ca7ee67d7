//! `cargo xtask VERB`: what developers and CI do. One file a verb; this file only dispatches.

mod apt;
mod artifacts;
mod bench;
mod build_ebpf;
mod cache;
mod ci;
mod demo;
mod envoy;
mod fuzz;
mod process;
mod setup;
mod soak;
mod test;
mod tidy;
mod vagrant;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// What developers and CI do with this workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
enum Verb {
    Setup(setup::Args),
    Demo(demo::Args),
    Test(test::Args),
    Fuzz(fuzz::Args),
    Vm(vm::Args),
    Vagrant(vagrant::Args),
    Bench(bench::Args),
    Soak(soak::Args),
    BuildEbpf(build_ebpf::Args),
    Tidy(tidy::Args),
    Ci(ci::Args),
}

/// What `xtask` exits with when it fails itself: as docker and git bisect do it, not a code that programs use.
const OWN_FAILURE: u8 = 125;

fn main() -> ExitCode {
    dispatch(&Verb::parse()).unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::from(OWN_FAILURE)
    })
}

fn dispatch(verb: &Verb) -> Result<ExitCode> {
    match verb {
        Verb::Setup(args) => setup::run(args),
        Verb::Demo(args) => demo::run(args),
        Verb::Test(args) => test::run(args),
        Verb::Fuzz(args) => fuzz::run(args),
        Verb::Vm(args) => vm::run(args),
        Verb::Vagrant(args) => vagrant::run(args),
        Verb::Bench(args) => bench::run(args),
        Verb::Soak(args) => soak::run(args),
        Verb::BuildEbpf(args) => build_ebpf::run(args),
        Verb::Tidy(args) => tidy::run(args),
        Verb::Ci(args) => ci::run(args),
    }
}
