//! An authority whose keys are in a token that they never leave (SoftHSM).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use enforcer_tests::control::Control;
use enforcer_tests::process;
use libtest_mimic::Trial;

use super::{Node, known};
use crate::stage::{installed, promises};

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const PIN: &str = "4711";

pub(super) fn trials() -> Vec<Trial> {
    promises![an_authority_signs_with_keys_that_are_in_a_token]
}

async fn an_authority_signs_with_keys_that_are_in_a_token(directory: PathBuf) -> Result<()> {
    let environment = token(&directory)?;
    let pin = directory.join("pin");
    write_secret(&pin, PIN)?;
    let keys =
        format!("  keys: {{ pkcs11: {{ module: {MODULE}, token: enforcer, pin: {{ file: {} }} }} }}\n", pin.display());
    let mut control = Control::with_environment(&directory, &["a"], &keys, &[environment])?;
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
    write_secret(&pin, "0000")?;
    let wrong = control.refuse_to_start()?;
    ensure!(wrong.contains("PIN"), "{wrong}");
    write_secret(&pin, PIN)?;
    control.restart()
}

/// A token in a directory of its own, and the variable by which the module finds it.
fn token(directory: &Path) -> Result<(String, String)> {
    installed(MODULE)?;
    let (tokens, config) = (directory.join("tokens"), directory.join("softhsm2.conf"));
    fs::create_dir(&tokens)?;
    fs::write(&config, format!("directories.tokendir = {}\n", tokens.display()))?;
    let variable = ("SOFTHSM2_CONF".to_owned(), config.to_str().context("a path that is not text")?.to_owned());
    let mut tool = Command::new("softhsm2-util");
    tool.args(["--init-token", "--free", "--label", "enforcer", "--so-pin", "12345678", "--pin", PIN]);
    process::run(tool.env(&variable.0, &variable.1))?;
    Ok(variable)
}

fn write_secret(path: &Path, secret: &str) -> Result<()> {
    fs::write(path, secret)?;
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(())
}
