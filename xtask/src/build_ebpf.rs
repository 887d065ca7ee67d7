//! `cargo xtask build-ebpf`: from the programs in `enforcer-ebpf` to the object that the agent embeds.
//!
//! The object is checked in, so that building the agent needs no BPF tools. It comes out the same, byte for byte, in any
//! folder, as long as the compiler and the linker are the same ones; which they were is written beside it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};

use crate::setup::{self, Need};
use crate::{cache, process};

/// Build the eBPF object that is checked in; plain `cargo build` embeds it and needs nothing of this.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build elsewhere and compare; fails when the bytes differ and the compiler is the recorded one.
    #[arg(long)]
    check: bool,
}

/// Relative to the workspace.
const OBJECT: &str = "enforcer-ebpf/enforcer.bpf.o";
/// The compiler and the linker that made it.
const RECORD: &str = "enforcer-ebpf/enforcer.bpf.toolchain";

const TARGET: &str = "bpfel-unknown-none";
/// Debian's compiler, whose packages bring a `core` that is compiled for BPF.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const LINKER_VERSION: &str = "0.13.0";

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let toolchain = Toolchain::find()?;
    let object = toolchain.build()?;
    let (kept, record) = (process::workspace().join(OBJECT), process::workspace().join(RECORD));
    if !args.check {
        fs::copy(&object, &kept).with_context(|| format!("write {OBJECT}"))?;
        fs::write(&record, toolchain.record()?)?;
        eprintln!("build-ebpf: wrote {OBJECT}");
        return Ok(ExitCode::SUCCESS);
    }
    let recorded = fs::read_to_string(&record).with_context(|| format!("read {RECORD}"))?;
    if recorded != toolchain.record()? {
        eprintln!(
            "build-ebpf: the programs build; not compared, because {RECORD} names another toolchain:\n{recorded}"
        );
        return Ok(ExitCode::SUCCESS);
    }
    let same = fs::read(&object)? == fs::read(&kept).with_context(|| format!("read {OBJECT}"))?;
    ensure!(same, "{OBJECT} is not what its sources give: run `cargo xtask build-ebpf` and commit the result");
    eprintln!("build-ebpf: {OBJECT} is what its sources give, byte for byte");
    Ok(ExitCode::SUCCESS)
}

/// A compiler for BPF, and what it needs to be told.
struct Toolchain {
    rustc: PathBuf,
    linker: PathBuf,
    core: Core,
}

/// Where `core` comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Core {
    /// Compiled already.
    Prebuilt,
    /// From the sources of a nightly toolchain.
    FromSource,
}

impl Toolchain {
    /// Debian's compiler where it can be had, else a nightly one with sources.
    fn find() -> Result<Self> {
        let debian = setup::ensure(&[Need::Bpf]);
        let (rustc, core) = if debian.is_ok() && Path::new(DEBIAN_RUSTC).exists() {
            (PathBuf::from(DEBIAN_RUSTC), Core::Prebuilt)
        } else {
            (nightly()?, Core::FromSource)
        };
        let linker = linker(&rustc)?;
        Ok(Self { rustc, linker, core })
    }

    fn build(&self) -> Result<PathBuf> {
        let workspace = process::workspace();
        let target = workspace.join("target/bpf");
        let mut cargo = process::command(env!("CARGO"));
        cargo.args([
            "build",
            "--quiet",
            "--locked",
            "--release",
            "--package",
            "enforcer-ebpf",
            "--bin",
            "enforcer-ebpf",
        ]);
        cargo.args(["--features", "programs", "--target", TARGET, "--target-dir"]).arg(&target);
        if self.core == Core::FromSource {
            cargo.args(["-Z", "build-std=core"]);
        }
        // A stable compiler builds its own target's `core` with the features that `core` itself uses.
        cargo.env("RUSTC", &self.rustc).env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTFLAGS");
        cargo.env("CARGO_ENCODED_RUSTFLAGS", self.flags(&workspace)?);
        process::run(&mut cargo)?;
        Ok(target.join(TARGET).join("release/enforcer-ebpf"))
    }

    fn flags(&self, workspace: &Path) -> Result<OsString> {
        let cargo_home = cargo_home()?;
        let flags = [
            format!("-Clinker={}", self.linker.display()),
            // Maps are described in BTF.
            "-Clink-arg=--btf".to_owned(),
            "-Cdebuginfo=2".to_owned(),
            // The verifier of 6.1 bounds the size of a program, and inlining everything keeps calls out of it.
            "-Copt-level=3".to_owned(),
            format!("--remap-path-prefix={}=.", workspace.display()),
            format!("--remap-path-prefix={}=cargo", cargo_home.display()),
        ];
        Ok(flags.join("\x1f").into())
    }

    fn record(&self) -> Result<String> {
        let rustc = process::output(process::command(&self.rustc).arg("-vV"))?;
        Ok(format!("{rustc}bpf-linker {LINKER_VERSION}\n"))
    }
}

fn nightly() -> Result<PathBuf> {
    let which = process::output(process::command("rustup").args(["which", "--toolchain", "nightly", "rustc"]));
    let rustc = which.context("no compiler for BPF: install Debian's rustc-web, or rustup's nightly with rust-src")?;
    let rustc = PathBuf::from(rustc.trim());
    let source = rustc.with_file_name("../lib/rustlib/src/rust/library/core");
    ensure!(source.exists(), "nightly has no sources: run `rustup component add rust-src --toolchain nightly`");
    Ok(rustc)
}

/// The linker, built once for the LLVM that the compiler itself uses: two versions would not understand each other.
fn linker(rustc: &Path) -> Result<PathBuf> {
    let llvm = llvm(rustc)?;
    let name = llvm.file_name().context("libLLVM without a name")?.to_string_lossy().into_owned();
    let major = major(&name).with_context(|| format!("{name} tells no version"))?;
    let folder = cache::entry("bpf-linker", &[LINKER_VERSION, &llvm.to_string_lossy()], |folder| {
        let prefix = folder.join("llvm");
        fs::create_dir_all(prefix.join("lib"))?;
        for link in ["libLLVM.so", name.as_str()] {
            std::os::unix::fs::symlink(&llvm, prefix.join("lib").join(link))?;
        }
        eprintln!("build-ebpf: building bpf-linker {LINKER_VERSION} for LLVM {major}");
        let mut cargo = process::command(env!("CARGO"));
        cargo.args([
            "install",
            "bpf-linker",
            "--quiet",
            "--locked",
            "--version",
            LINKER_VERSION,
            "--no-default-features",
        ]);
        cargo.args(["--features", &format!("llvm-{major}"), "--root"]).arg(folder);
        cargo.arg("--target-dir").arg(folder.join("build")).env("LLVM_PREFIX", &prefix);
        process::run(&mut cargo)?;
        cache::remove(&folder.join("build"))
    })?;
    Ok(folder.join("bin/bpf-linker"))
}

/// The libLLVM that the compiler loads.
fn llvm(rustc: &Path) -> Result<PathBuf> {
    let listing = process::output(process::command("ldd").arg(rustc))?;
    let driver = loaded(&listing, "librustc_driver").unwrap_or_else(|| rustc.to_owned());
    let listing = process::output(process::command("ldd").arg(driver))?;
    match loaded(&listing, "libLLVM") {
        Some(llvm) => llvm.canonicalize().with_context(|| format!("find {}", llvm.display())),
        None => bail!("{} loads no libLLVM", rustc.display()),
    }
}

/// The path of a library in what ldd prints: `NAME => PATH (ADDRESS)`.
fn loaded(listing: &str, library: &str) -> Option<PathBuf> {
    let line = listing.lines().map(str::trim).find(|line| line.starts_with(library))?;
    line.split_whitespace().nth(2).map(PathBuf::from)
}

/// 22, of `libLLVM.so.22.1` and of `libLLVM.so.22.1-rust-1.97.0-nightly`.
fn major(name: &str) -> Option<u32> {
    name.strip_prefix("libLLVM.so.")?.split(['.', '-']).next()?.parse().ok()
}

fn cargo_home() -> Result<PathBuf> {
    match (std::env::var_os("CARGO_HOME"), std::env::var_os("HOME")) {
        (Some(home), _) => Ok(home.into()),
        (None, Some(home)) => Ok(PathBuf::from(home).join(".cargo")),
        (None, None) => bail!("neither CARGO_HOME nor HOME is set"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_llvm_is_in_its_name() {
        assert_eq!(major("libLLVM.so.22.1"), Some(22));
        assert_eq!(major("libLLVM.so.22.1-rust-1.97.0-nightly"), Some(22));
        assert_eq!(major("libLLVM-15.so"), None);
    }

    #[test]
    fn loaded_libraries_are_read_from_ldd() {
        let listing = "\tlibc.so.6 => /lib/libc.so.6 (0x7f00)\n\tlibLLVM.so.22.1 => /lib/libLLVM.so.22.1 (0x7f01)\n";
        assert_eq!(loaded(listing, "libLLVM"), Some("/lib/libLLVM.so.22.1".into()));
        assert_eq!(loaded(listing, "librustc_driver"), None);
    }
}
