//! Debian packages from another release than this machine's, fetched with a private apt configuration.
//!
//! Promises: the system's sources, lists and package database are neither changed nor asked, except for the mirror and
//! for apt's own settings (proxies), which are taken over. Nothing is installed. Signatures are checked against Debian's
//! keyring; only the expiry date of a release file is not, because a suite may be moving or a mirror be a snapshot.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Where Debian's own installer looks by default.
const DEFAULT_SITE: &str = "http://deb.debian.org";

/// An apt of its own.
pub(crate) struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Sets it up in `folder` and fetches the lists of `sources`, in the deb822 style of sources.list(5).
    pub(crate) fn new(folder: &Path, sources: &str) -> Result<Self> {
        for inner in ["lists/partial", "archives/partial", "state"] {
            fs::create_dir_all(folder.join(inner)).with_context(|| format!("create {inner}"))?;
        }
        fs::write(folder.join("status"), "")?;
        fs::write(folder.join("release.sources"), sources)?;
        let apt = Self { folder: folder.to_owned() };
        process::run(apt.command("apt-get").args(["update", "--quiet", "--quiet"]))
            .with_context(|| format!("fetch the package lists of\n{sources}"))?;
        Ok(apt)
    }

    /// What `package` depends on directly.
    pub(crate) fn depends(&self, package: &str) -> Result<Vec<String>> {
        let shown = process::output(self.command("apt-cache").args(["show", "--no-all-versions", package]))?;
        let line = shown.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
        Ok(line.split(", ").filter_map(|item| item.split(' ').next()).map(str::to_owned).collect())
    }

    /// Downloads `package` and unpacks its files into `target`; its scripts do not run.
    pub(crate) fn unpack(&self, package: &str, target: &Path) -> Result<()> {
        let archives = self.folder.join("archives");
        process::run(self.command("apt-get").args(["download", "--quiet", "--quiet", package]).current_dir(&archives))?;
        for file in fs::read_dir(&archives)? {
            let file = file?.path();
            if file.extension().is_some_and(|extension| extension == "deb") {
                process::run(process::command("dpkg-deb").arg("-x").arg(&file).arg(target))?;
                fs::remove_file(&file)?;
            }
        }
        Ok(())
    }

    fn command(&self, program: &str) -> std::process::Command {
        let folder = self.folder.display();
        let mut command = process::command(program);
        for option in [
            format!("Dir::State={folder}/state"),
            format!("Dir::State::status={folder}/status"),
            format!("Dir::State::lists={folder}/lists"),
            format!("Dir::Cache={folder}"),
            format!("Dir::Etc::sourcelist={folder}/release.sources"),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            "Dir::Etc::preferencesparts=/dev/null".to_owned(),
            "APT::Architecture=amd64".to_owned(),
            "APT::Sandbox::User=root".to_owned(), // The default user may not enter a home folder.
            "APT::Update::Post-Invoke=".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "Acquire::Check-Valid-Until=false".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command
    }
}

/// The sources of a release (a code name, as "bookworm") and its security updates.
pub(crate) fn sources(release: &str) -> Result<String> {
    let configured = configured()?;
    let security = source(&configured, "debian-security", &format!("{release}-security"));
    Ok(format!("{}\n{security}", source(&configured, "debian", release)))
}

/// The source of what newer releases have, built for this one.
pub(crate) fn backports(release: &str) -> Result<String> {
    Ok(source(&configured()?, "debian", &format!("{release}-backports")))
}

fn source(configured: &[String], archive: &str, suite: &str) -> String {
    let mirror = configured.iter().find(|uri| uri.ends_with(&format!("/{archive}")));
    let uri = mirror.cloned().unwrap_or_else(|| format!("{DEFAULT_SITE}/{archive}"));
    format!("Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n")
}

/// The archives that this machine's own sources name, without a slash at the end.
fn configured() -> Result<Vec<String>> {
    let targets = ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"];
    let uris = process::output(process::command("apt-get").args(targets))?;
    Ok(uris.lines().map(|uri| uri.trim_end_matches('/').to_owned()).collect())
}
