//! The emulator: QEMU out of Debian's backports, unpacked in the cache; where instructions are counted, the one that is
//! installed.
//!
//! Debian 12's own, 7.2, translates a page while another virtual processor writes to it (mended in QEMU 8.1: "accel/tcg:
//! Always lock pages before translation"). A kernel that changes its own code, as each one does that puts programs at its
//! functions, now and then executes what was there before, and dies. Where instructions are counted there is one processor,
//! and figures shall be those of before: 10.0 shows the kernel another processor, for which it takes other code (a round trip
//! of plain TCP then costs 7 % more, and of kernel TLS 14 %).

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::Clock;
use crate::apt::{self, Apt};
use crate::{cache, process};

const PROGRAM: &str = "qemu-system-x86_64";
/// The release whose libraries it is linked with.
const RELEASE: &str = "bookworm";
/// The program, what it loads into machines, and their firmware.
const PACKAGES: [&str; 3] = ["qemu-system-x86", "qemu-system-data", "seabios"];

/// A QEMU: in this folder, or installed.
pub(crate) struct Emulator(Option<PathBuf>);

impl Emulator {
    /// For runs by this clock; fetched when the cache has none.
    pub(crate) fn get(clock: Clock) -> Result<Self> {
        if clock == Clock::Instructions {
            return Ok(Self(None));
        }
        let folder = cache::entry("qemu", &[RELEASE, &PACKAGES.join(",")], |folder| {
            let apt = Apt::new(&folder.join("apt"), &apt::backports(RELEASE)?)?;
            PACKAGES.iter().try_for_each(|package| apt.unpack(package, folder))?;
            cache::remove(&folder.join("apt"))
        })?;
        Ok(Self(Some(folder)))
    }

    /// Its command, which knows where its files are.
    pub(crate) fn command(&self) -> std::process::Command {
        let Some(folder) = &self.0 else { return process::command(PROGRAM) };
        let mut command = process::command(folder.join("usr/bin").join(PROGRAM));
        for files in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(folder.join(files));
        }
        command
    }

    /// What it says that it is.
    pub(crate) fn version(&self) -> Result<String> {
        let says = process::output(self.command().arg("--version"))?;
        Ok(says.lines().next().context("QEMU does not say which one it is")?.to_owned())
    }
}
