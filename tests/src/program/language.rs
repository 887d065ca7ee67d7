//! What people write programs in: Python, JavaScript, Go. Their sources are in `tests/programs`; Rust's are the
//! endpoint's (`peer`).

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

use super::{Server, fresh_directory, text, write};
use crate::ground::unused_port;
use crate::place::Place;
use crate::process::Running;
use crate::settings;

/// Debian's own; another one may come first on the search path of a developer's machine.
const PYTHON: &str = "/usr/bin/python3";

/// An HTTP server of the Python library, which serves one file, `/`, with `content`.
pub fn python_http(place: &Place, content: &str) -> Result<Server> {
    let port = unused_port();
    let directory = fresh_directory(place, "python", port)?;
    write(&directory.join("index.html"), content)?;
    let (number, directory) = (port.to_string(), text(&directory)?.to_owned());
    Server::start(place, port, PYTHON, &["-m", "http.server", "--bind", "::", "--directory", &directory, &number])
}

/// One of the scripts in Python, which are both ends of a connection; `ends.py` says how they are called.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    /// Its file, without the extension.
    pub name: &'static str,
    /// What it does at the serving end.
    pub serve: &'static str,
    /// What it does at the connecting end.
    pub connect: &'static str,
}

impl Script {
    /// Starts the serving end.
    pub fn start(&self, place: &Place, secret: &str) -> Result<Server> {
        let (port, file) = (unused_port(), self.file(place)?);
        Server::start(place, port, PYTHON, &[text(&file)?, "serve", self.serve, &port.to_string(), secret])
    }

    /// Starts the connecting end.
    pub fn connect(&self, place: &Place, to: SocketAddr, secret: &str) -> Result<Running> {
        let file = self.file(place)?;
        let (host, port) = (to.ip().to_string(), to.port().to_string());
        place.start(PYTHON, &[text(&file)?, "connect", self.connect, &host, &port, secret])
    }

    fn file(&self, place: &Place) -> Result<PathBuf> {
        Ok(sources(place)?.join(format!("{}.py", self.name)))
    }
}

/// node as an HTTP server that answers with `answer` and what it was sent.
pub fn node_server(place: &Place, answer: &str) -> Result<Server> {
    let (port, file) = (unused_port(), sources(place)?.join("web.js"));
    Server::start(place, port, "node", &[text(&file)?, "serve", &port.to_string(), answer])
}

/// node as a client of `node_server` or `go_server`; fails unless every answer is right.
pub fn node_client(place: &Place, to: SocketAddr, answer: &str) -> Result<Running> {
    let file = sources(place)?.join("web.js");
    place.start("node", &[text(&file)?, "get", &format!("http://{to}/"), answer])
}

/// Go's net/http as a server that answers with `answer` and what it was sent.
pub fn go_server(place: &Place, answer: &str) -> Result<Server> {
    let port = unused_port();
    let program = settings::go_binary()?;
    Server::start(place, port, text(&program)?, &["serve", &format!(":{port}"), answer])
}

/// Go's net/http as a client of `node_server` or `go_server`; fails unless every answer is right.
pub fn go_client(place: &Place, to: SocketAddr, answer: &str) -> Result<Running> {
    place.start(settings::go_binary()?, &["get", &format!("http://{to}/"), answer])
}

/// All sources that are not compiled: they travel in this binary, and are laid out once for each world.
const SOURCES: &[(&str, &str)] = &[
    ("ends.py", include_str!("../../programs/ends.py")),
    ("threads.py", include_str!("../../programs/threads.py")),
    ("buffers.py", include_str!("../../programs/buffers.py")),
    ("coroutines.py", include_str!("../../programs/coroutines.py")),
    ("polling.py", include_str!("../../programs/polling.py")),
    ("timeouts.py", include_str!("../../programs/timeouts.py")),
    ("signals.py", include_str!("../../programs/signals.py")),
    ("descriptors.py", include_str!("../../programs/descriptors.py")),
    ("workers.py", include_str!("../../programs/workers.py")),
    ("zerocopy.py", include_str!("../../programs/zerocopy.py")),
    ("web.js", include_str!("../../programs/web.js")),
];

fn sources(place: &Place) -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = place.directory.join("programs");
    if !directory.is_dir() {
        lay_out(&directory).with_context(|| format!("lay out {}", directory.display()))?;
    }
    Ok(directory)
}

fn lay_out(directory: &Path) -> Result<()> {
    fs::create_dir(directory).context("create it")?;
    SOURCES.iter().try_for_each(|(name, source)| write(&directory.join(name), source))
}
