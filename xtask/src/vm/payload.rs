//! What one run takes into the virtual machine: its command and its files, as a tar archive that the guest unpacks over
//! its root filesystem.
//!
//! Binaries are taken in without debug information, which makes the difference between 300 MB and 10 MB; the files on
//! the host are not touched.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};

use crate::cache::Scratch;
use crate::process;

const RUN: &str = include_str!("run.sh");

/// A file of the host and where it is to appear in the guest (mode and content are kept).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Put {
    pub(crate) host: PathBuf,
    pub(crate) guest: PathBuf,
}

impl FromStr for Put {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (host, guest) = text.rsplit_once(':').context("expected HOSTFILE:GUESTPATH")?;
        if host.is_empty() || !guest.starts_with('/') || guest.ends_with('/') {
            bail!("expected HOSTFILE:GUESTPATH, and GUESTPATH to begin with / and to name a file");
        }
        Ok(Self { host: host.into(), guest: guest.into() })
    }
}

/// Packs `command` and `files` and returns the archive, open for reading and without a name on disk any more.
pub(crate) fn pack(command: &[String], files: &[Put]) -> Result<File> {
    let scratch = Scratch::new()?;
    let tree = scratch.path().join("tree");
    let mut names = vec![PathBuf::from(".enforcer/run")];
    fs::create_dir_all(tree.join(".enforcer"))?;
    fs::write(tree.join(".enforcer/run"), script(command))?;
    for put in files {
        let name = put.guest.strip_prefix("/").unwrap_or(&put.guest);
        let target = tree.join(name);
        fs::create_dir_all(target.parent().unwrap_or(&tree))?;
        copy_stripped(&put.host, &target)?;
        names.push(name.to_owned());
    }
    let archive = scratch.path().join("payload.tar");
    let mut tar = process::command("tar");
    tar.args(["--create", "--format=ustar", "--owner=0", "--group=0", "--file"]).arg(&archive);
    process::run(tar.arg("--directory").arg(&tree).arg("--").args(&names))?;
    File::open(&archive).with_context(|| format!("open {}", archive.display()))
}

/// The guest's script with the command in it.
fn script(command: &[String]) -> String {
    let words: Vec<_> = command.iter().map(|word| quoted(word)).collect();
    format!("ENFORCER_COMMAND={}\n{RUN}", quoted(&words.join(" ")))
}

/// `word` such that a shell takes it literally.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Copies a file; an ELF file loses its debug information on the way.
fn copy_stripped(from: &Path, to: &Path) -> Result<()> {
    let mut magic = Vec::new();
    let file = File::open(from).with_context(|| format!("open {}", from.display()))?;
    file.take(4).read_to_end(&mut magic).with_context(|| format!("read {}", from.display()))?;
    if magic == b"\x7fELF" {
        return process::run(process::command("strip").args(["--strip-debug", "-o"]).arg(to).arg(from));
    }
    fs::copy(from, to).map(drop).with_context(|| format!("copy {} to {}", from.display(), to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn put_is_a_host_file_and_an_absolute_guest_path() {
        let put: Put = "some:file:/usr/bin/tool".parse().unwrap();
        assert_eq!(put, Put { host: "some:file".into(), guest: "/usr/bin/tool".into() });
        for wrong in ["file", "file:relative", ":/guest", "file:/folder/"] {
            assert!(wrong.parse::<Put>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn words_reach_the_guest_as_they_are() {
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
    }
}
