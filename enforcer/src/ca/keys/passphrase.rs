//! What keys are encrypted under, or what a token asks for: octets that are wiped from memory when they are not needed
//! any more, and that are never shown.
//!
//! They come from a file, from a systemd credential, or from an environment variable. A file that others may read is
//! refused. The environment is the least of the three: it stays readable in `/proc/PID/environ` for this user and for
//! root as long as the process lives.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::{env, fmt};

use zeroize::Zeroizing;

/// The longest passphrase, in octets.
const LONGEST_PASSPHRASE: usize = 4096;

/// Others than the owner.
const GROUP_OR_WORLD: u32 = 0o077;
/// Others than the owner and the group.
const WORLD: u32 = 0o007;

/// A passphrase, or the PIN of a token.
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// The content of a file, without one newline at its end.
    ///
    /// # Errors
    ///
    /// [`PassphraseError`], also when the group or the world may read, write or execute the file.
    pub fn from_file(path: &Path) -> Result<Self, PassphraseError> {
        read(path, GROUP_OR_WORLD)
    }

    /// A credential that systemd passes to this service (`LoadCredential=`, systemd.exec(5)), without one newline at
    /// its end.
    ///
    /// # Errors
    ///
    /// [`PassphraseError`].
    pub fn from_credential(name: &str) -> Result<Self, PassphraseError> {
        let folder = env::var_os("CREDENTIALS_DIRECTORY")
            .ok_or_else(|| PassphraseError::NoCredentials { name: name.to_owned() })?;
        credential(Path::new(&folder), name)
    }

    /// The value of an environment variable, as it is.
    ///
    /// # Errors
    ///
    /// [`PassphraseError`].
    pub fn from_variable(name: &str) -> Result<Self, PassphraseError> {
        let value = env::var_os(name).ok_or_else(|| PassphraseError::NoVariable { name: name.to_owned() })?;
        checked(Zeroizing::new(value.into_vec()), || format!("environment variable {name}"))
    }

    /// Octets from elsewhere, as they are: what somebody has typed.
    ///
    /// # Errors
    ///
    /// [`PassphraseError::Empty`], [`PassphraseError::TooLong`].
    pub fn from_octets(octets: Vec<u8>) -> Result<Self, PassphraseError> {
        checked(Zeroizing::new(octets), || "what was given".to_owned())
    }

    /// What must not be shown.
    pub(super) fn octets(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase")
    }
}

/// There is no passphrase. What was read is not in the message.
#[derive(Debug, thiserror::Error)]
pub enum PassphraseError {
    /// The file cannot be read.
    #[error("read passphrase file {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// A pipe, a device or a directory.
    #[error("passphrase file {path} is no regular file")]
    NoFile {
        /// Which.
        path: PathBuf,
    },
    /// Others could read it.
    #[error(
        "passphrase file {path} may be used by others (mode {mode:o}): chmod 600 {path}, or in Kubernetes \
             `defaultMode: 0400` for its volume"
    )]
    Open {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// There is nothing in it.
    #[error("no passphrase in {place}: it is empty")]
    Empty {
        /// Where.
        place: String,
    },
    /// This is no passphrase.
    #[error("the passphrase in {place} has more than {LONGEST_PASSPHRASE} octets")]
    TooLong {
        /// Where.
        place: String,
    },
    /// The variable is not set.
    #[error("no passphrase: environment variable {name} is not set")]
    NoVariable {
        /// Which.
        name: String,
    },
    /// This process has no credentials.
    #[error(
        "no passphrase: credential {name} was not passed to this process; add `LoadCredential={name}:FILE` to the \
             service"
    )]
    NoCredentials {
        /// Which was wanted.
        name: String,
    },
    /// It would lead out of the folder of credentials.
    #[error("credential {name:?}: this is no file name")]
    CredentialName {
        /// What was given.
        name: String,
    },
}

/// Systemd keeps everybody but the service out of the folder. For a service that does not run as root the file's mode
/// has a bit for the group: it stands for the entry of the access control list that lets the service read it.
fn credential(folder: &Path, name: &str) -> Result<Passphrase, PassphraseError> {
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(PassphraseError::CredentialName { name: name.to_owned() });
    }
    read(&folder.join(name), WORLD)
}

fn read(path: &Path, others: u32) -> Result<Passphrase, PassphraseError> {
    let failed = |cause| PassphraseError::File { path: path.to_owned(), cause };
    // Opening a pipe must not wait for somebody who writes into it.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(PassphraseError::NoFile { path: path.to_owned() });
    }
    let mode = metadata.mode() & 0o777;
    if mode & others != 0 {
        return Err(PassphraseError::Open { path: path.to_owned(), mode });
    }
    let mut octets = read_bounded(file).map_err(failed)?;
    if octets.last() == Some(&b'\n') {
        octets.pop();
    }
    checked(octets, || path.display().to_string())
}

/// Reads into memory that does not move, because what has been moved stays where it was.
fn read_bounded(file: File) -> io::Result<Zeroizing<Vec<u8>>> {
    // One for the newline, one to see that there is more.
    const MOST: usize = LONGEST_PASSPHRASE + 2;
    let mut octets = Zeroizing::new(vec![0; MOST]);
    let mut file = file.take(MOST as u64);
    let mut filled = 0;
    while filled < MOST {
        match file.read(&mut octets[filled..]) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    octets.truncate(filled);
    Ok(octets)
}

fn checked(octets: Zeroizing<Vec<u8>>, place: impl Fn() -> String) -> Result<Passphrase, PassphraseError> {
    match octets.len() {
        0 => Err(PassphraseError::Empty { place: place() }),
        1..=LONGEST_PASSPHRASE => Ok(Passphrase(octets)),
        _ => Err(PassphraseError::TooLong { place: place() }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use nix::sys::stat::Mode;
    use tempfile::TempDir;

    use super::*;

    fn file(content: &[u8], mode: u32) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passphrase");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    #[test]
    fn one_newline_at_the_end_is_no_part_of_it() {
        for (content, octets) in [("abc", "abc"), ("abc\n", "abc"), ("abc\n\n", "abc\n"), (" abc ", " abc ")] {
            let (_folder, path) = file(content.as_bytes(), 0o600);
            assert_eq!(Passphrase::from_file(&path).unwrap().octets(), octets.as_bytes(), "{content:?}");
        }
        let longest = [b"x".repeat(LONGEST_PASSPHRASE), b"\n".to_vec()].concat();
        let (_folder, path) = file(&longest, 0o400);
        assert_eq!(Passphrase::from_file(&path).unwrap().octets().len(), LONGEST_PASSPHRASE);
    }

    #[test]
    fn a_file_that_others_may_use_is_refused() {
        for mode in [0o640, 0o604, 0o620, 0o601, 0o444] {
            let (_folder, path) = file(b"abc", mode);
            let refused = Passphrase::from_file(&path);
            assert!(
                matches!(&refused, Err(PassphraseError::Open { mode: named, .. }) if *named == mode),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn what_is_empty_too_long_or_no_file_is_refused() {
        for content in [&b""[..], b"\n"] {
            let (_folder, path) = file(content, 0o600);
            assert!(matches!(Passphrase::from_file(&path), Err(PassphraseError::Empty { .. })));
        }
        for length in [LONGEST_PASSPHRASE + 1, LONGEST_PASSPHRASE + 2, 100_000] {
            let (_folder, path) = file(&b"x".repeat(length), 0o600);
            assert!(matches!(Passphrase::from_file(&path), Err(PassphraseError::TooLong { .. })), "{length}");
        }
        let (folder, path) = file(b"abc", 0o600);
        assert!(matches!(Passphrase::from_file(folder.path()), Err(PassphraseError::NoFile { .. })));
        let pipe = path.with_extension("pipe");
        nix::unistd::mkfifo(&pipe, Mode::S_IRUSR).unwrap();
        assert!(matches!(Passphrase::from_file(&pipe), Err(PassphraseError::NoFile { .. })));
        let nowhere = path.with_extension("nowhere");
        assert!(matches!(Passphrase::from_file(&nowhere), Err(PassphraseError::File { .. })));
        assert!(matches!(Passphrase::from_octets(Vec::new()), Err(PassphraseError::Empty { .. })));
    }

    #[test]
    fn credentials_are_files_of_one_folder() {
        let (folder, path) = file(b"abc\n", 0o440);
        assert_eq!(credential(folder.path(), "passphrase").unwrap().octets(), b"abc");
        for name in ["", ".", "..", "../passphrase", "/etc/hostname"] {
            let refused = credential(folder.path(), name);
            assert!(matches!(refused, Err(PassphraseError::CredentialName { .. })), "{name}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o444)).unwrap();
        assert!(matches!(credential(folder.path(), "passphrase"), Err(PassphraseError::Open { .. })));
    }

    #[test]
    fn variables_are_taken_as_they_are() {
        // Cargo sets this one for every test.
        let passphrase = Passphrase::from_variable("CARGO_PKG_NAME").unwrap();
        assert_eq!(passphrase.octets(), b"enforcer");
        let absent = Passphrase::from_variable("ENFORCER_NO_SUCH_VARIABLE");
        assert!(matches!(absent, Err(PassphraseError::NoVariable { .. })));
    }

    #[test]
    fn it_is_never_shown() {
        let passphrase = Passphrase::from_octets(b"secret".to_vec()).unwrap();
        assert_eq!(format!("{passphrase:?}"), "Passphrase");
    }
}
