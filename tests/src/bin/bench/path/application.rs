//! Unmodified servers, on the node of the server.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use enforcer_tests::place::Place;
use enforcer_tests::process::Running;

use super::Site;

/// Where they listen; sidecars pass connections on to it.
pub(crate) const PORT: u16 = 18080;

/// What the page consists of: nobody on the wire may see it.
pub(super) const MARKER: &str = "the page that only client and server may read; ";

/// Bytes of the page.
const PAGE: usize = 1024;

const NGINX: &str = include_str!("../../../../benches/peers/nginx-application.conf");

/// A server that runs until it is dropped.
pub(crate) struct Application {
    _running: Running,
}

impl Application {
    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        PORT
    }

    /// nginx with a page of 1 KiB.
    pub(crate) fn web(site: &Site) -> Result<Application> {
        let place = site.route()?.server;
        let directory = fresh_directory(place, "application")?;
        let page: String = MARKER.chars().cycle().take(PAGE).collect();
        for (name, content) in [("page", page.as_str()), ("nginx.conf", NGINX)] {
            fs::write(directory.join(name), content).with_context(|| format!("write {name}"))?;
        }
        start(&Place { directory, ..place.clone() }, "nginx", &["-e", "stderr", "-p", ".", "-c", "nginx.conf"])
    }

    /// Redis with nothing in it.
    pub(crate) fn redis(site: &Site) -> Result<Application> {
        let place = site.route()?.server;
        let place = Place { directory: fresh_directory(place, "application")?, ..place.clone() };
        let port = PORT.to_string();
        let listen = ["--port", &port, "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""];
        start(&place, "redis-server", &listen)
    }
}

fn start(place: &Place, program: &str, arguments: &[&str]) -> Result<Application> {
    let mut running = place.start(program, arguments)?;
    place.network()?.wait_for_listener(PORT, &mut running)?;
    Ok(Application { _running: running })
}

/// A directory for one program; others may enter it, because workers give up root.
pub(super) fn fresh_directory(place: &Place, name: &str) -> Result<PathBuf> {
    static DIRECTORIES: AtomicU32 = AtomicU32::new(0);
    let number = DIRECTORIES.fetch_add(1, Ordering::Relaxed);
    let directory = place.directory.join(format!("{name}-{number}"));
    fs::create_dir(&directory).with_context(|| format!("create {}", directory.display()))?;
    Ok(directory)
}
