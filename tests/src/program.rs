//! Unmodified programs, as a distribution ships them, with the least configuration that they run with.
//!
//! A server is there when its port listens in its namespace; clients fail rather than hang.

use std::fs::{self, Permissions};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::authority::Credentials;
use crate::ground::unused_port;
use crate::place::Place;
use crate::process::{self, Running};

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct Server {
    /// The port it listens on; unless said otherwise, on every address of both families.
    pub port: u16,
    _running: Running,
}

impl Server {
    /// The address to reach it under.
    pub fn at(&self, address: IpAddr) -> SocketAddr {
        SocketAddr::new(address, self.port)
    }

    /// Starts a program and waits until it listens on `port`.
    fn start(place: &Place, port: u16, program: &str, arguments: &[&str]) -> Result<Server> {
        let mut running = place.start(program, arguments)?;
        let namespace = place.namespace.as_ref().context("servers run in namespaces")?;
        namespace.wait_for_listener(port).or_else(|error| running.check_alive().and(Err(error)))?;
        Ok(Server { port, _running: running })
    }
}

/// nginx, whose document root has one file, `/`, with `content`.
pub fn nginx(place: &Place, content: &str) -> Result<Server> {
    nginx_on(place, unused_port(), content)
}

/// The same on a port that is known beforehand.
pub fn nginx_on(place: &Place, port: u16, content: &str) -> Result<Server> {
    let directory = fresh_directory(place, "nginx", port)?;
    write(&directory.join("index.html"), content)?;
    let root = directory.display();
    // `daemon off` only, so that we see it end; everything else as in any nginx: a master and two workers.
    let configuration = format!(
        "daemon off; user root; worker_processes 2; pid {root}/pid; error_log {root}/error.log;\n\
         events {{ }}\n\
         http {{\n\
           access_log off; sendfile on; tcp_nopush on;\n\
           client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;\n\
           uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;\n\
           server {{ listen 0.0.0.0:{port}; listen [::]:{port}; root {root}; }}\n\
         }}\n"
    );
    let file = directory.join("nginx.conf");
    write(&file, &configuration)?;
    Server::start(place, port, "nginx", &["-c", text(&file)?])
}

/// Redis, with nothing in it.
pub fn redis(place: &Place) -> Result<Server> {
    let port = unused_port();
    let directory = fresh_directory(place, "redis", port)?;
    let (number, directory) = (port.to_string(), text(&directory)?.to_owned());
    let arguments =
        ["--port", &number, "--bind", "0.0.0.0", "::", "--protected-mode", "no", "--save", "", "--dir", &directory];
    Server::start(place, port, "redis-server", &arguments)
}

/// An HTTP server of the Python library, which serves one file, `/`, with `content`.
pub fn python_http(place: &Place, content: &str) -> Result<Server> {
    let port = unused_port();
    let directory = fresh_directory(place, "python", port)?;
    write(&directory.join("index.html"), content)?;
    let (number, directory) = (port.to_string(), text(&directory)?.to_owned());
    Server::start(place, port, "python3", &["-m", "http.server", "--bind", "::", "--directory", &directory, &number])
}

/// socat as an echo server.
pub fn socat_echo(place: &Place) -> Result<Server> {
    let port = unused_port();
    Server::start(place, port, "socat", &[&format!("TCP6-LISTEN:{port},ipv6only=0,fork,reuseaddr"), "PIPE"])
}

/// `openssl s_server`: mutual TLS 1.3 of its own, no agent; serves the file `/index.html` with `content`, on one
/// address only.
pub fn openssl_server(place: &Place, at: IpAddr, credentials: &Credentials, content: &str) -> Result<Server> {
    let port = unused_port();
    let directory = fresh_directory(place, "openssl", port)?;
    write(&directory.join("index.html"), content)?;
    let inside = Place { directory, ..place.clone() };
    let [certificate, key, bundle] = credentials.texts()?;
    let listen = SocketAddr::new(at, port).to_string();
    let arguments = [
        "s_server",
        "-accept",
        &listen,
        "-tls1_3",
        "-WWW",
        "-Verify",
        "4",
        "-verify_return_error",
        "-cert",
        certificate,
        "-cert_chain",
        certificate,
        "-key",
        key,
        "-CAfile",
        bundle,
        "-num_tickets",
        "0",
    ];
    Server::start(&inside, port, "openssl", &arguments)
}

/// `openssl s_client`: mutual TLS 1.3 of its own; sends an HTTP request and gives all that came back.
pub fn openssl_request(place: &Place, from: IpAddr, to: SocketAddr, credentials: &Credentials) -> Result<Running> {
    let [certificate, key, bundle] = credentials.texts()?;
    let (from, to) = (SocketAddr::new(from, 0).to_string(), to.to_string());
    let arguments = [
        "s_client",
        "-connect",
        &to,
        "-bind",
        &from,
        "-tls1_3",
        "-quiet",
        "-verify",
        "4",
        "-verify_return_error",
        "-cert",
        certificate,
        "-cert_chain",
        certificate,
        "-key",
        key,
        "-CAfile",
        bundle,
    ];
    let mut client = place.start("openssl", &arguments)?;
    client.feed(b"GET / HTTP/1.0\r\n\r\n")?;
    Ok(client)
}

/// What curl says of an HTTP server: one attempt, no proxy, a bound on its time.
pub fn curl(place: &Place, to: SocketAddr) -> Result<Running> {
    place.start(
        "curl",
        &[
            "--silent",
            "--show-error",
            "--fail",
            "--noproxy",
            "*",
            "--max-time",
            "60",
            &format!("http://{to}/index.html"),
        ],
    )
}

/// The same from one of several addresses.
pub fn curl_from(place: &Place, from: IpAddr, to: SocketAddr) -> Result<Running> {
    let (from, url) = (from.to_string(), format!("http://{to}/index.html"));
    place.start(
        "curl",
        &["--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "60", "--interface", &from, &url],
    )
}

/// One command of `redis-cli`.
pub fn redis_cli(place: &Place, to: SocketAddr, command: &[&str]) -> Result<String> {
    let (host, port) = (to.ip().to_string(), to.port().to_string());
    place.run("redis-cli", &[&["-h", &host, "-p", &port, "-e"], command].concat())
}

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
        let (port, login) = (self.server.port.to_string(), format!("root@{host}"));
        let options = ["-n", "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"];
        let known = ["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-i", text(&self.client_key)?];
        place.run("ssh", &[&options[..], &known[..], &["-p", &port, &login, command]].concat())
    }
}

impl Credentials {
    fn texts(&self) -> Result<[&str; 3]> {
        Ok([text(&self.certificate)?, text(&self.key)?, text(&self.bundle)?])
    }
}

/// A directory for one server; ports are unique, so its name is.
fn fresh_directory(place: &Place, program: &str, port: u16) -> Result<PathBuf> {
    let directory = place.directory.join(format!("{program}-{port}"));
    fs::create_dir(&directory).with_context(|| format!("create {}", directory.display()))?;
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).context("open the directory to the server")?;
    Ok(directory)
}

fn write(file: &Path, content: &str) -> Result<()> {
    fs::write(file, content).with_context(|| format!("write {}", file.display()))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not text", path.display()))
}
