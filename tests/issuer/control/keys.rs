//! An authority whose keys are in a token that they never leave (SoftHSM).

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::{Node, known};
use crate::softhsm::{self, PIN, write_pin};
use crate::stage::promises;

pub(super) fn trials() -> Vec<Trial> {
    promises![an_authority_signs_with_keys_that_are_in_a_token]
}

async fn an_authority_signs_with_keys_that_are_in_a_token(directory: PathBuf) -> Result<()> {
    let mut control = softhsm::control(&directory, &["a"])?;
    let node = Node::join(&control, "node-a", &directory).await?;
    let first = node.issue("a").await?;
    control.done(&["ca", "revoke", "--serial", &first.serial])?;
    control.done(&["ca", "rotate", "prepare"])?;
    // The same keys after a restart, and no key anywhere else.
    control.stop()?;
    control.restart()?;
    ensure!(known(&control)?.contains(&first.serial), "the journal was lost");
    let store = fs::read(control.state.join("control.redb"))?;
    ensure!(!store.windows(4).any(|octets| octets == b"key/"), "a key is in the store");
    control.stop()?;
    write_pin(&directory, "0000")?;
    let wrong = control.refuse_to_start()?;
    ensure!(wrong.contains("PIN"), "{wrong}");
    write_pin(&directory, PIN)?;
    control.restart()
}
