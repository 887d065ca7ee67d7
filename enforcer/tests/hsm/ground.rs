//! A process and a folder of tokens for each test.
//!
//! SoftHSM reads where its tokens are from a file that an environment variable names, once for a process. So each test
//! is run again, by itself, in a process that has its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use cryptoki::context::Pkcs11 as Context;
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use enforcer::ca::keys::pkcs11::{Config, Pkcs11};
use enforcer::ca::keys::{Error, Passphrase};

/// Where Debian's package softhsm2 puts it.
pub(super) const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
/// The label of the token that every test has.
pub(super) const TOKEN: &str = "authority";
/// The PIN of its user.
pub(super) const PIN: &str = "1234";

const FOLDER: &str = "ENFORCER_TEST_TOKENS";
const STEP: &str = "ENFORCER_TEST_STEP";

/// Runs a test once with tokens of its own, in a process of its own. The folder is given to it.
pub(super) fn alone(test: &str, body: impl FnOnce(&Path)) {
    in_steps(test, 1, |_first, folder| body(folder));
}

/// Runs a test several times with the same tokens, each time in another process.
pub(super) fn in_steps(test: &str, steps: usize, body: impl FnOnce(usize, &Path)) {
    if let (Some(folder), Ok(step)) = (env::var_os(FOLDER), env::var(STEP)) {
        return body(step.parse().unwrap(), Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let configuration = folder.path().join("softhsm2.conf");
    fs::create_dir(tokens(folder.path())).unwrap();
    let lines = format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens(folder.path()).display());
    fs::write(&configuration, lines).unwrap();
    let with = |command: &mut Command, expected: &str| {
        let output = command.env("SOFTHSM2_CONF", &configuration).env(FOLDER, folder.path()).output();
        let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}; run `cargo xtask setup`"));
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success() && said.contains(expected), "{test}: {}\n{said}", output.status);
    };
    for label in [TOKEN, "another"] {
        let init = ["--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "5678"];
        with(Command::new("softhsm2-util").args(init), "initialized");
    }
    for step in 0..steps {
        let itself = ["--exact", test, "--nocapture"];
        // With a wrong name no test runs, which is a success, too.
        with(Command::new(env::current_exe().unwrap()).args(itself).env(STEP, step.to_string()), "1 passed");
    }
}

/// Where SoftHSM keeps its tokens.
pub(super) fn tokens(folder: &Path) -> PathBuf {
    folder.join("tokens")
}

/// How the token is opened.
pub(super) fn config() -> Config {
    Config { module: MODULE.into(), token: TOKEN.to_owned(), pin: pin(PIN) }
}

/// A PIN.
pub(super) fn pin(text: &str) -> Passphrase {
    Passphrase::from_octets(text.into()).unwrap()
}

/// Opens a token.
pub(super) fn open(config: Config) -> Result<Pkcs11, Error> {
    wait(Pkcs11::open(config))
}

/// Waits for an answer.
pub(super) fn wait<T>(answer: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(answer)
}

/// The module as somebody else in this process sees it; it is initialized already.
pub(super) fn module() -> Context {
    Context::new(MODULE).unwrap()
}

/// The slot of the token.
pub(super) fn slot(module: &Context) -> Slot {
    let slots = module.get_slots_with_token().unwrap();
    slots.into_iter().find(|slot| module.get_token_info(*slot).unwrap().label() == TOKEN).unwrap()
}

/// A session of somebody else in this process, which is logged in.
pub(super) fn session(module: &Context) -> Session {
    let session = module.open_rw_session(slot(module)).unwrap();
    // The process may be logged in already.
    let _logged_in = session.login(UserType::User, Some(&AuthPin::new(PIN.into())));
    session
}
