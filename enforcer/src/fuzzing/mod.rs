//! What the fuzz targets of `tests/fuzz` run: the functions that production calls, on whatever octets libFuzzer thinks up.
//!
//! Compiled with `--cfg fuzzing` alone, which cargo-fuzz and `cargo xtask fuzz` set. What a target looks at is private, so
//! each part has its `fuzz` module where its tests would be; here they are gathered, one function a target. A target
//! fails by a panic: of what it looks at, or because a promise that is checked here does not hold.

mod input;
mod signed;

use std::cell::OnceCell;

use tokio::runtime::{Builder, Runtime};

use crate::{ca, cli, connection, control, identity, kernel};
pub(crate) use input::Input;
pub(crate) use signed::{key, signed};

/// A target: any octets, and no result.
pub type Target = fn(&[u8]);

/// All of them by name.
pub const TARGETS: [(&str, Target); 7] = [
    ("configuration", configuration),
    ("pair", pair),
    ("certificates", certificates),
    ("messages", messages),
    ("acme", acme),
    ("connection", connection),
    ("store", store),
];

/// Configuration files of agents and of control, and what is asked of `enforcer explain`.
pub fn configuration(data: &[u8]) {
    // Never in a text: it parts the file from the questions.
    let mut parts = data.splitn(3, |&octet| octet == 0xff);
    let file = parts.next().unwrap_or_default();
    let mut question = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let (source, destination) = (question(), question());
    control::fuzz::issuing(file);
    if let Some(snapshot) = control::fuzz::agent(file) {
        cli::explain::fuzz::explain(&snapshot, (&source, &destination));
    }
}

/// What another agent says in a pair session.
pub fn pair(data: &[u8]) {
    connection::pair::fuzz::message(data);
    connection::pair::fuzz::session(data);
}

/// Chains, bundles and revocation lists.
pub fn certificates(data: &[u8]) {
    identity::verify::fuzz::chain(data);
}

/// What agents and control say to each other, what a Workload API answers, and what comes on paper: tokens, names, bundles.
pub fn messages(data: &[u8]) {
    choose(
        data,
        &[
            identity::client::fuzz::certificate,
            identity::client::fuzz::trust,
            identity::workload_source::fuzz::answer,
            identity::fuzz::bundle,
            identity::fuzz::names,
            ca::fuzz::request,
            ca::domain::fuzz::token,
        ],
    );
}

/// What an ACME server answers.
pub fn acme(data: &[u8]) {
    use identity::acme::fuzz::{chain, conversation, document};
    choose(data, &[conversation, chain, document]);
}

/// What clients and peers send before they are known, and what the kernel answers about their sockets.
pub fn connection(data: &[u8]) {
    choose(data, &[connection::public::fuzz::hello, connection::fuzz_records, kernel::fuzz::answer]);
}

/// What was kept on a disk, by an agent or by control.
pub fn store(data: &[u8]) {
    choose(
        data,
        &[
            ca::keys::sealed::fuzz::open,
            ca::domain::fuzz::journal,
            ca::domain::fuzz::slots,
            identity::client::fuzz::membership,
            identity::acme::fuzz::shelf,
        ],
    );
}

/// The first octet says what the others are for.
fn choose(data: &[u8], targets: &[Target]) {
    if let Some((&choice, rest)) = data.split_first()
        && let Some(target) = targets.get(usize::from(choice))
    {
        target(rest);
    }
}

/// Runs to the end; a clock that nobody waits for stands still.
pub(crate) fn run<F: Future>(future: F) -> F::Output {
    thread_local! {
        static RUNTIME: OnceCell<Runtime> = const { OnceCell::new() };
    }
    let build = || Builder::new_current_thread().enable_time().start_paused(true).build();
    RUNTIME.with(|runtime| runtime.get_or_init(|| build().expect("a runtime needs no descriptor")).block_on(future))
}
