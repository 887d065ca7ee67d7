//! The virtual machine's root filesystem: Debian 12 with all programs of the suites, as an ext4 image in the cache.
//!
//! It is the same for every kernel and never written to; our own binaries and scripts are not in it, so it is made again
//! only when the list of packages changes. A run that needs more packages has an image of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::setup::Need;
use crate::{apt, cache, process};

const RELEASE: &str = "bookworm";
/// For the guest's own scripts and for looking around in it, beside what the suites need.
const BASE_PACKAGES: &[&str] = &["busybox-static", "less", "mount", "strace"];
/// Left out of the image: nobody reads them there. PostgreSQL does without its compiler, which is half of its size.
const LEFT_OUT: &[&str] = &[
    "/usr/share/doc/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
    "/var/cache/apt/*",
    "/usr/lib/x86_64-linux-gnu/libLLVM*",
    "/usr/lib/llvm*",
    "/usr/lib/postgresql/*/lib/llvmjit*",
    "/usr/lib/postgresql/*/lib/bitcode/*",
];
/// Runs before the packages are set up: PostgreSQL would make a database of 40 MB that no suite uses.
const NO_DATABASE: &str = r#"mkdir -p "$1/etc/postgresql-common" && echo create_main_cluster=false >"$1/etc/postgresql-common/createcluster.conf""#;

/// Returns the path of the image with `more` packages, made when the cache has none.
pub(crate) fn image(more: &[&str]) -> Result<PathBuf> {
    let suites = Need::Suites.packages().iter().map(|package| package.name);
    let packages =
        suites.chain(BASE_PACKAGES.iter().copied()).chain(more.iter().copied()).collect::<Vec<_>>().join(",");
    let folder = cache::entry("root", &[RELEASE, &packages, &LEFT_OUT.join(","), NO_DATABASE], |folder| {
        make(&packages, folder)
    })?;
    Ok(folder.join("root.ext4"))
}

/// Packs the tree at `folder` into a new ext4 image at `image`, just large enough.
pub(crate) fn pack_ext4(folder: &Path, image: &Path) -> Result<()> {
    let used = process::output(process::root_command("du").args(["-s", "-k"]).arg(folder))?;
    let used: u64 = used.split_whitespace().next().unwrap_or_default().parse()?;
    // A quarter more for inodes and tables, and some for a tree that is nearly empty. The file is sparse.
    let size = format!("{}k", used + used / 4 + 16 * 1024);
    File::create(image).with_context(|| format!("create {}", image.display()))?;
    let mut mke2fs = process::root_command("mke2fs");
    mke2fs.args(["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d"]).arg(folder).arg(image).arg(size);
    process::run(&mut mke2fs)
}

fn make(packages: &str, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let (sources, tree) = (folder.join("release.sources"), folder.join("tree"));
    fs::write(&sources, apt::sources(RELEASE)?)?;

    eprintln!("making a Debian root filesystem, this takes some minutes: {packages}");
    let mut mmdebstrap = process::root_command("mmdebstrap");
    mmdebstrap.args(["--quiet", "--variant=essential", "--mode=root", "--architectures=amd64"]);
    mmdebstrap.args(["--aptopt=Acquire::Check-Valid-Until \"false\"", "--aptopt=Acquire::Languages \"none\""]);
    mmdebstrap.arg(format!("--essential-hook={NO_DATABASE}"));
    mmdebstrap.arg(format!("--include={packages}"));
    mmdebstrap.args(LEFT_OUT.iter().map(|path| format!("--dpkgopt=path-exclude={path}")));
    process::run(mmdebstrap.arg(RELEASE).arg(&tree).arg(&sources))?;

    pack_ext4(&tree, &folder.join("root.ext4"))?;
    process::run(process::root_command("rm").args(["-rf", "--one-file-system"]).arg(&tree))
}
