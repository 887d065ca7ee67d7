//! SoftHSM, as Debian has it: a token in a directory of its own, and a control whose keys are in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use enforcer_tests::control::Control;
use enforcer_tests::process;

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
/// The PIN of the token's user.
pub(crate) const PIN: &str = "4711";

/// A control whose keys are in a token.
pub(crate) fn control(directory: &Path, accounts: &[&str]) -> Result<Control> {
    fs::create_dir_all(directory)?;
    let environment = token(directory)?;
    let pin = pin_file(directory);
    write_pin(directory, PIN)?;
    let place = format!("module: {MODULE}, token: enforcer, pin: {{ file: {} }}", pin.display());
    Control::with_environment(directory, accounts, &format!("  keys: {{ pkcs11: {{ {place} }} }}\n"), &[environment])
}

/// Writes the PIN that control is given.
pub(crate) fn write_pin(directory: &Path, pin: &str) -> Result<()> {
    let path = pin_file(directory);
    fs::write(&path, pin)?;
    Ok(fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?)
}

fn pin_file(directory: &Path) -> PathBuf {
    directory.join("pin")
}

/// A token, and the variable by which the module finds it.
fn token(directory: &Path) -> Result<(String, String)> {
    ensure!(Path::new(MODULE).is_file(), "this machine has no {MODULE}: run `cargo xtask setup`");
    let (tokens, config) = (directory.join("tokens"), directory.join("softhsm2.conf"));
    fs::create_dir(&tokens)?;
    fs::write(&config, format!("directories.tokendir = {}\n", tokens.display()))?;
    let variable = ("SOFTHSM2_CONF".to_owned(), config.to_str().context("a path that is not text")?.to_owned());
    let mut tool = Command::new("softhsm2-util");
    tool.args(["--init-token", "--free", "--label", "enforcer", "--so-pin", "12345678", "--pin", PIN]);
    process::run(tool.env(&variable.0, &variable.1))?;
    Ok(variable)
}
