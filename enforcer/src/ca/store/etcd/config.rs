//! Where etcd is, and how it is reached.
//!
//! With [`Tls`] every connection is mutual TLS, and an endpoint without is refused; there is no other way to ask for TLS.
//! The files are read once: a new certificate counts from the next start.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

/// The longest prefix, in octets.
pub const LONGEST_PREFIX: usize = 256;

/// A connection to an endpoint.
const CONNECTED_WITHIN: Duration = Duration::from_secs(2);
/// Between two signs of life while something is asked or watched; etcd ends connections with more than one in 5 s.
const ALIVE_EVERY: Duration = Duration::from_secs(10);
/// For an answer to one.
const ALIVE_WITHIN: Duration = Duration::from_secs(5);

/// Where etcd is, and how it is reached.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its members: `https://NAME-OR-ADDRESS:PORT`, or `http://` without TLS.
    pub endpoints: Vec<String>,
    /// What its keys begin with: printable ASCII, [`LONGEST_PREFIX`] octets at most. `/` is put between it and the key
    /// if it does not end so.
    pub prefix: String,
    /// Certificates; without them nothing is encrypted.
    pub tls: Option<Tls>,
    /// Whom etcd knows us as, where that is not in the certificate.
    pub user: Option<User>,
}

/// Files in PEM.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Whom etcd's certificate must come from.
    pub ca: PathBuf,
    /// Our certificate, then its issuers.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// One of etcd's users.
#[derive(Clone)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its password.
    pub password: String,
}

/// What is wrong with it.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigError {
    #[error("no endpoint is given")]
    NoEndpoint,
    #[error("endpoint {0} must begin with https://, because certificates are given")]
    Plain(String),
    #[error("endpoint {0} must begin with http://, or CA, certificate and key must be given")]
    Encrypted(String),
    #[error("prefix {0:?} must be 1 to {LONGEST_PREFIX} octets of printable ASCII")]
    Prefix(String),
    #[error("read {path}")]
    File {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

impl Config {
    /// For messages.
    pub(super) fn name(&self) -> String {
        format!("etcd at {}", self.endpoints.join(", "))
    }

    pub(super) fn prefix(&self) -> Result<String, ConfigError> {
        let prefix = &self.prefix;
        let printable = prefix.bytes().all(|octet| octet.is_ascii_graphic());
        if !printable || prefix.is_empty() || prefix.len() > LONGEST_PREFIX {
            return Err(ConfigError::Prefix(prefix.clone()));
        }
        Ok(if prefix.ends_with('/') { prefix.clone() } else { format!("{prefix}/") })
    }

    pub(super) fn options(&self) -> Result<ConnectOptions, ConfigError> {
        if self.endpoints.is_empty() {
            return Err(ConfigError::NoEndpoint);
        }
        let scheme = if self.tls.is_some() { "https://" } else { "http://" };
        if let Some(other) = self.endpoints.iter().find(|endpoint| !endpoint.starts_with(scheme)) {
            let wrong = if self.tls.is_some() { ConfigError::Plain } else { ConfigError::Encrypted };
            return Err(wrong(other.clone()));
        }
        // A member that has lost its cluster says so, and does not keep a watch that hears nothing.
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECTED_WITHIN)
            .with_keep_alive(ALIVE_EVERY, ALIVE_WITHIN)
            .with_keep_alive_while_idle(false)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(tls) = &self.tls {
            options = options.with_tls(tls.options()?);
        }
        if let Some(User { name, password }) = &self.user {
            options = options.with_user(name, password);
        }
        Ok(options)
    }
}

impl Tls {
    fn options(&self) -> Result<TlsOptions, ConfigError> {
        let ca = Certificate::from_pem(read(&self.ca)?);
        let identity = Identity::from_pem(read(&self.certificate)?, read(&self.key)?);
        Ok(TlsOptions::new().ca_certificate(ca).identity(identity))
    }
}

impl fmt::Debug for User {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    fs::read(path).map_err(|cause| ConfigError::File { path: path.to_owned(), cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(endpoint: &str, prefix: &str) -> Config {
        Config { endpoints: vec![endpoint.to_owned()], prefix: prefix.to_owned(), tls: None, user: None }
    }

    #[test]
    fn a_prefix_ends_with_a_slash() {
        assert_eq!(config("http://e", "/a").prefix().unwrap(), "/a/");
        assert_eq!(config("http://e", "/a/").prefix().unwrap(), "/a/");
        for wrong in ["", "a b", "\u{e4}", &"a".repeat(LONGEST_PREFIX + 1)] {
            assert!(config("http://e", wrong).prefix().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_to_be_encrypted_is_never_plain() {
        let files = Tls { ca: "/nowhere".into(), certificate: "/nowhere".into(), key: "/nowhere".into() };
        let encrypted = |endpoint| Config { tls: Some(files.clone()), ..config(endpoint, "/a") };
        assert!(matches!(encrypted("http://e:1").options(), Err(ConfigError::Plain(_))));
        assert!(matches!(encrypted("e:1").options(), Err(ConfigError::Plain(_))));
        assert!(matches!(config("https://e:1", "/a").options(), Err(ConfigError::Encrypted(_))));
        assert!(matches!(Config { endpoints: Vec::new(), ..encrypted("") }.options(), Err(ConfigError::NoEndpoint)));
    }

    #[test]
    fn a_password_is_not_shown() {
        let user = User { name: "me".into(), password: "hunter2".into() };
        let config = Config { user: Some(user), ..config("http://e", "/a") };
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
