//! A disk that is full for a while, played by a limit on how long a file may be.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use enforcer::ca::store::embedded::Embedded;
use enforcer::ca::store::{Error, Store, Transaction};
use enforcer_tests::process::Running;
use libtest_mimic::Trial;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::conformance::committed;
use crate::stage::{self, promises};

/// What this program is told to be.
pub(crate) const ROLE: &str = "embedded-on-a-full-disk";

/// What is committed at most until the disk is full.
const MOST: u32 = 1000;
/// The size of a value, in octets.
const VALUE: usize = 60_000;

pub(crate) fn trials() -> Vec<Trial> {
    promises![the_embedded_store_survives_a_full_disk]
}

/// In a process of its own, which is not ended by the signal that comes with the limit.
async fn the_embedded_store_survives_a_full_disk(directory: PathBuf) -> Result<()> {
    let child = stage::child(ROLE)?;
    let mut command = stage::server("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]).arg(child.get_program()).args(child.get_args());
    command.arg(directory.join("state/store.redb"));
    Running::start(&mut command, "full", &directory)?.finish()?.success().map(drop)
}

pub(crate) fn play(words: &[String]) -> Result<()> {
    let [file] = words else { bail!("say which file") };
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    runtime.block_on(fill(Path::new(file)))
}

async fn fill(file: &Path) -> Result<()> {
    let store = Embedded::open(file)?;
    committed(store.commit(Transaction::new().put("first", "there")).await?)?;
    let (_, most) = getrlimit(Resource::RLIMIT_FSIZE)?;
    let length = fs::metadata(file)?.len();
    setrlimit(Resource::RLIMIT_FSIZE, length, most).context("limit the file")?;

    let mut answered = 0;
    let refusal = loop {
        ensure!(answered < MOST, "a file of {length} octets took {MOST} values of {VALUE}");
        match store.commit(filling(answered)).await {
            Ok(outcome) => committed(outcome)?,
            Err(error) => break error,
        }
        answered += 1;
    };
    ensure!(matches!(refusal, Error::Unanswered { .. }), "{refusal:?}");
    // Whether it can be opened again depends on what there is to repair; nothing else may happen.
    if let Err(error) = store.get("first").await {
        ensure!(matches!(error, Error::Failed { .. }), "{error:?}");
    }
    if let Err(error) = store.commit(filling(MOST)).await {
        ensure!(matches!(error, Error::Unanswered { .. }), "{error:?}");
    }

    setrlimit(Resource::RLIMIT_FSIZE, most, most).context("lift the limit")?;
    committed(store.commit(Transaction::new().put("last", "there")).await?)?;
    ensure!(store.get("first").await?.is_some(), "the first entry is lost");
    for number in 0..answered {
        ensure!(store.get(&key(number)).await? == Some(value(number)), "entry {number} is lost");
    }
    drop(store);
    ensure!(Embedded::open(file)?.get("last").await?.is_some(), "the last entry is lost");
    Ok(())
}

fn filling(number: u32) -> Transaction {
    Transaction::new().put(key(number), value(number))
}

fn key(number: u32) -> String {
    format!("filling/{number}")
}

fn value(number: u32) -> Vec<u8> {
    number.to_be_bytes().repeat(VALUE / 4)
}
