//! The emulator: QEMU out of Debian's backports, unpacked in the cache.
//!
//! Debian 12's own, 7.2, translates a page while another virtual processor writes to it (mended in QEMU 8.1: "accel/tcg:
//! Always lock pages before translation"). A kernel that changes its own code, as each one does that puts programs at its
//! functions, now and then executes what was there before, and dies. The package of 7.2 is installed for its libraries.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::apt::{self, Apt};
use crate::{cache, process};

/// The release whose libraries it is linked with.
const RELEASE: &str = "bookworm";
/// The program, what it loads into machines, and their firmware.
const PACKAGES: [&str; 3] = ["qemu-system-x86", "qemu-system-data", "seabios"];

/// A QEMU that is not installed.
pub(crate) struct Emulator(PathBuf);

impl Emulator {
    /// Fetches it when the cache has none.
    pub(crate) fn get() -> Result<Self> {
        let folder = cache::entry("qemu", &[RELEASE, &PACKAGES.join(",")], |folder| {
            let apt = Apt::new(&folder.join("apt"), &apt::backports(RELEASE)?)?;
            PACKAGES.iter().try_for_each(|package| apt.unpack(package, folder))?;
            cache::remove(&folder.join("apt"))
        })?;
        Ok(Self(folder))
    }

    /// Its command, which knows where its files are.
    pub(crate) fn command(&self) -> std::process::Command {
        let mut command = process::command(self.0.join("usr/bin/qemu-system-x86_64"));
        for files in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(self.0.join(files));
        }
        command
    }

    /// What it says that it is.
    pub(crate) fn version(&self) -> Result<String> {
        let says = process::output(self.command().arg("--version"))?;
        Ok(says.lines().next().context("QEMU does not say which one it is")?.to_owned())
    }
}
