//! OpenSSH and socat.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{Server, fresh_directory, text, write};
use crate::ground::unused_port;
use crate::place::Place;
use crate::process;

/// OpenSSH with keys of its own: a server, and what a client needs to log in to it as root.
#[derive(Debug)]
pub struct Ssh {
    /// The server.
    pub server: Server,
    client_key: PathBuf,
}

impl Ssh {
    /// Starts sshd.
    pub fn start(place: &Place) -> Result<Ssh> {
        let port = unused_port();
        let directory = fresh_directory(place, "ssh", port)?;
        let (host_key, client_key) = (directory.join("host"), directory.join("client"));
        for key in [&host_key, &client_key] {
            process::run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(key))?;
        }
        // sshd insists on this directory for its unprivileged half; Debian's service makes it.
        fs::create_dir_all("/run/sshd").context("create /run/sshd")?;
        let configuration = format!(
            "Port {port}\nListenAddress 0.0.0.0\nListenAddress ::\nHostKey {}\nAuthorizedKeysFile {}.pub\n\
             PermitRootLogin yes\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\n",
            host_key.display(),
            client_key.display(),
        );
        let file = directory.join("sshd_config");
        write(&file, &configuration)?;
        // sshd wants to be started by its full path, because it starts itself again for every connection.
        let server = Server::start(place, port, "/usr/sbin/sshd", &["-D", "-e", "-f", text(&file)?])?;
        Ok(Ssh { server, client_key })
    }

    /// Logs in from `place` and runs a command there.
    pub fn run(&self, place: &Place, host: IpAddr, command: &str) -> Result<String> {
        let login = self.login(host)?;
        let login: Vec<&str> = login.iter().map(String::as_str).collect();
        place.run("ssh", &[&["-n"], &login[..], &[command]].concat())
    }

    /// Sends a file there and back again over one connection, and gives the SHA-256 of what came back.
    pub fn send_and_return(&self, place: &Place, host: IpAddr, file: &Path) -> Result<String> {
        const PIPE: &str = r#"set -e; file="$1"; shift; "$@" cat <"$file" | sha256sum"#;
        let login = self.login(host)?;
        let login: Vec<&str> = login.iter().map(String::as_str).collect();
        place.run("sh", &[&["-c", PIPE, "sh", text(file)?, "ssh"], &login[..]].concat())
    }

    fn login(&self, host: IpAddr) -> Result<Vec<String>> {
        let options = "-F none -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null";
        let mut words: Vec<String> = options.split(' ').map(str::to_owned).collect();
        let (port, login) = (self.server.port.to_string(), format!("root@{host}"));
        let mine = ["-o", "LogLevel=ERROR", "-i", text(&self.client_key)?, "-p", &port, &login];
        words.extend(mine.map(str::to_owned));
        Ok(words)
    }
}

/// The SHA-256 of a file, as `send_and_return` gives it.
pub fn sha256(file: &Path) -> Result<String> {
    process::run(Command::new("sh").args(["-c", r#"sha256sum <"$1""#, "sh", text(file)?]))
}

/// socat as an echo server.
pub fn socat_echo(place: &Place) -> Result<Server> {
    let port = unused_port();
    Server::start(place, port, "socat", &[&format!("TCP6-LISTEN:{port},ipv6only=0,fork,reuseaddr"), "PIPE"])
}

/// Sends bytes with socat, ends its direction and gives what came back.
pub fn socat(place: &Place, to: SocketAddr, bytes: &[u8]) -> Result<String> {
    let mut socat = place.start("socat", &["-t", "30", "-", &format!("TCP:{to},shut-down")])?;
    socat.feed(bytes)?;
    socat.close_input();
    socat.finish()?.success()
}
