//! The kernels: Debian's cloud kernels of three releases, unpacked and packed for booting, kept in the cache.
//!
//! A [`Bootable`] is a kernel image, an initramfs with what the first seconds need, and a disk image with all modules of
//! that kernel, uncompressed (unpacking them in an emulated processor takes seconds). A kernel stays as it was first
//! fetched until the cache is deleted: runs are comparable.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::root;
use crate::apt::{self, Apt};
use crate::{cache, process};

/// A kernel series, each the newest that its Debian release has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 12, bookworm.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13, trixie.
    #[value(name = "6.12")]
    V6_12,
    /// Debian 14, forky; newer than the name says once forky has moved on.
    #[value(name = "7.2")]
    V7_2,
}

impl Kernel {
    /// Every series that we promise to run on, oldest first.
    pub(crate) const ALL: [Self; 3] = [Self::V6_1, Self::V6_12, Self::V7_2];

    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::V7_2 => "7.2",
        }
    }

    fn release(self) -> &'static str {
        match self {
            Self::V6_1 => "bookworm",
            Self::V6_12 => "trixie",
            Self::V7_2 => "forky",
        }
    }
}

/// The files from which a kernel boots.
pub(crate) struct Bootable {
    pub(crate) image: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) modules: PathBuf,
}

/// Modules that must be there before the disk with all modules is mounted; built in on some kernels.
const EARLY_MODULES: &[&str] = &["virtio_pci", "virtio_blk", "virtio_console", "ext4", "overlay"];
const INIT: &str = include_str!("init.sh");
/// Raised when this file makes something else of the same packages.
const LAYOUT: &str = "1";

/// Returns the kernel's files, fetching and packing them when the cache has none.
pub(crate) fn bootable(kernel: Kernel) -> Result<Bootable> {
    let name = format!("kernel-{}", kernel.name());
    let early = EARLY_MODULES.join(" ");
    let folder = cache::entry(&name, &[LAYOUT, kernel.release(), &early, INIT], |folder| make(kernel, folder))?;
    Ok(Bootable {
        image: folder.join("image"),
        initramfs: folder.join("initramfs"),
        modules: folder.join("modules.ext4"),
    })
}

fn make(kernel: Kernel, folder: &Path) -> Result<()> {
    let unpacked = folder.join("unpacked");
    let apt = Apt::new(&folder.join("apt"), &apt::sources(kernel.release())?)?;
    let depends = apt.depends("linux-image-cloud-amd64")?;
    let package = depends.iter().find(|package| package.starts_with("linux-image-"));
    let package = package.context("linux-image-cloud-amd64 depends on no kernel")?;
    let version = package.trim_start_matches("linux-image-");
    eprintln!("kernel {}: {version}", kernel.name());
    // Newer releases have the image and the modules in packages of their own, named by the first one.
    let parts = apt.depends(package)?;
    let parts = parts.iter().filter(|part| part.ends_with(version));
    for part in std::iter::once(package).chain(parts) {
        apt.unpack(part, &unpacked)?;
    }

    let modules = modules_folder(&unpacked)?;
    decompress(&modules.join(version))?;
    process::run(process::command("depmod").arg("-b").arg(&unpacked).arg(version))?;
    pack_initramfs(&modules.join(version), folder)?;
    root::pack_ext4(&modules, &folder.join("modules.ext4"))?;
    let images = [unpacked.join(format!("boot/vmlinuz-{version}")), modules.join(version).join("vmlinuz")];
    let image = images.iter().find(|image| image.exists()).context("the kernel's packages hold no image")?;
    fs::rename(image, folder.join("image"))?;
    cache::remove(&unpacked)?;
    cache::remove(&folder.join("apt"))
}

/// Releases differ in where modules are, and so do depmods in where they look: afterwards both places are one.
fn modules_folder(unpacked: &Path) -> Result<PathBuf> {
    let (old, new) = (unpacked.join("lib"), unpacked.join("usr/lib"));
    if old.exists() {
        fs::create_dir_all(unpacked.join("usr"))?;
        cache::remove(&new)?;
        fs::rename(&old, &new)?;
    }
    std::os::unix::fs::symlink("usr/lib", &old)?;
    Ok(new.join("modules"))
}

/// Decompresses every module below `folder` in place.
fn decompress(folder: &Path) -> Result<()> {
    let find = ["-name", "*.ko.xz", "-exec", "xz", "--decompress", "--threads=1", "{}", "+"];
    process::run(process::command("find").arg(folder).args(find))?;
    let left = process::output(process::command("find").arg(folder).args(["-name", "*.ko.*"]))?;
    ensure!(left.is_empty(), "modules are compressed in a way that is not known here: {left}");
    Ok(())
}

/// Packs busybox, the script of the first process and the early modules into `folder`/initramfs.
fn pack_initramfs(modules: &Path, folder: &Path) -> Result<()> {
    let tree = folder.join("tree");
    for directory in ["bin", "dev", "proc", "sys", "disk", "lower", "memory", "new", "modules"] {
        fs::create_dir_all(tree.join(directory))?;
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox")).context("copy busybox")?;
    for applet in ["sh", "cat", "insmod", "ln", "mkdir", "mount", "switch_root", "tar"] {
        std::os::unix::fs::symlink("busybox", tree.join("bin").join(applet))?;
    }
    fs::write(tree.join("init"), INIT)?;
    fs::set_permissions(tree.join("init"), fs::Permissions::from_mode(0o755))?;

    let listing = fs::read_to_string(modules.join("modules.dep")).context("read modules.dep")?;
    let mut order = String::new();
    for path in load_order(&listing, EARLY_MODULES) {
        let name = path.rsplit('/').next().unwrap_or(path);
        fs::copy(modules.join(path), tree.join("modules").join(name)).with_context(|| format!("copy {path}"))?;
        order.push_str(name);
        order.push('\n');
    }
    fs::write(tree.join("modules/order"), order)?;

    let files = folder.join("files");
    fs::write(&files, process::output(process::command("find").arg(".").current_dir(&tree))?)?;
    let mut cpio = process::command("cpio");
    cpio.args(["--create", "--quiet", "--format=newc", "--owner=+0:+0", "--file"]).arg(folder.join("initramfs"));
    process::run(cpio.current_dir(&tree).stdin(File::open(&files)?))?;
    cache::remove(&files)?;
    cache::remove(&tree)
}

/// The paths of `wanted` modules and of all that they need, in the order in which they must be loaded.
///
/// A line of `listing` (modules.dep) is a path, a colon and the paths of what it needs, the deepest last.
fn load_order<'a>(listing: &'a str, wanted: &[&str]) -> Vec<&'a str> {
    let mut order = Vec::new();
    for name in wanted {
        let lines = listing.lines().filter_map(|line| line.split_once(':'));
        let Some((path, needs)) = lines.into_iter().find(|(path, _)| path.ends_with(&format!("/{name}.ko"))) else {
            continue; // Built into this kernel.
        };
        for module in needs.split_whitespace().rev().chain([path]) {
            if !order.contains(&module) {
                order.push(module);
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_load_after_what_they_need_and_once() {
        let listing =
            "fs/ext4.ko: fs/jbd2.ko lib/crc16.ko\nfs/jbd2.ko:\nlib/crc16.ko:\ndrivers/virtio_blk.ko: lib/crc16.ko\n";
        let order = load_order(listing, &["virtio_blk", "not_a_module", "ext4"]);
        assert_eq!(order, ["lib/crc16.ko", "drivers/virtio_blk.ko", "fs/jbd2.ko", "fs/ext4.ko"]);
    }
}
