//! HTTP: nginx and HAProxy, curl and wget.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{Server, fresh_directory, text, write};
use crate::ground::unused_port;
use crate::place::Place;
use crate::process::Running;

/// nginx, whose document root has one file, `/`, with `content`.
pub fn nginx(place: &Place, content: &str) -> Result<Server> {
    nginx_on(place, unused_port(), content)
}

/// The same on a port that is known beforehand.
pub fn nginx_on(place: &Place, port: u16, content: &str) -> Result<Server> {
    start_nginx(place, port, &Site { content, ..Site::PLAIN })
}

/// The same as it is set up for load: four workers, each with an accept queue of its own.
pub fn nginx_with_workers(place: &Place, content: &str) -> Result<Server> {
    start_nginx(place, unused_port(), &Site { content, workers: 4, listen: "reuseport", ..Site::PLAIN })
}

/// nginx that passes every request on, over connections that it keeps.
pub fn nginx_before(place: &Place, upstream: SocketAddr) -> Result<Server> {
    let outside = format!("upstream origin {{ server {upstream}; keepalive 4; }}");
    let pass = "location / { proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection \"\"; }";
    start_nginx(place, unused_port(), &Site { outside: &outside, inside: pass, ..Site::PLAIN })
}

/// What distinguishes one nginx from another.
struct Site<'a> {
    content: &'a str,
    workers: u8,
    /// Options of its listeners.
    listen: &'a str,
    /// Beside the server.
    outside: &'a str,
    /// In the server.
    inside: &'a str,
}

impl Site<'_> {
    const PLAIN: Site<'static> = Site { content: "", workers: 2, listen: "", outside: "", inside: "" };
}

fn start_nginx(place: &Place, port: u16, site: &Site<'_>) -> Result<Server> {
    let directory = fresh_directory(place, "nginx", port)?;
    write(&directory.join("index.html"), site.content)?;
    let Site { workers, listen, outside, inside, .. } = site;
    let root = directory.display();
    // `daemon off` only, so that we see it end; everything else as in any nginx: a master and workers.
    let configuration = format!(
        "daemon off; user root; worker_processes {workers}; pid {root}/pid; error_log {root}/error.log;\n\
         events {{ }}\n\
         http {{\n\
           access_log off; sendfile on; tcp_nopush on;\n\
           client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;\n\
           uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;\n\
           {outside}\n\
           server {{ listen 0.0.0.0:{port} {listen}; listen [::]:{port} {listen}; root {root}; {inside} }}\n\
         }}\n"
    );
    let file = directory.join("nginx.conf");
    write(&file, &configuration)?;
    Server::start(place, port, "nginx", &["-c", text(&file)?])
}

/// HAProxy that passes on what it understands as HTTP, or, with `mode` `tcp`, bytes, which it may splice.
pub fn haproxy_before(place: &Place, mode: &str, upstream: SocketAddr) -> Result<Server> {
    let port = unused_port();
    let directory = fresh_directory(place, "haproxy", port)?;
    let splice = if mode == "tcp" { "option splice-auto" } else { "" };
    let configuration = format!(
        "global\n  nbthread 2\n  maxconn 100\n\
         defaults\n  mode {mode}\n  {splice}\n\
         \x20 timeout connect 60s\n  timeout client 60s\n  timeout server 60s\n\
         frontend here\n  bind 0.0.0.0:{port}\n  bind [::]:{port} v6only\n  default_backend there\n\
         backend there\n  server origin {upstream}\n"
    );
    let file = directory.join("haproxy.cfg");
    write(&file, &configuration)?;
    Server::start(place, port, "haproxy", &["-db", "-f", text(&file)?])
}

/// One attempt, no proxy, a bound on its time.
const CURL: &[&str] = &["--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "60"];

/// What curl says of an HTTP server.
pub fn curl(place: &Place, to: SocketAddr) -> Result<Running> {
    place.start("curl", &[CURL, &[&format!("http://{to}/index.html")]].concat())
}

/// The same from one of several addresses.
pub fn curl_from(place: &Place, from: IpAddr, to: SocketAddr) -> Result<Running> {
    let (from, url) = (from.to_string(), format!("http://{to}/index.html"));
    place.start("curl", &[CURL, &["--interface", &from, &url]].concat())
}

/// What curl says of an HTTP server that it calls by a public name, over TLS, verified by this root alone, and what else
/// it is to do.
pub fn curl_by_name(
    place: &Place,
    (from, to): (IpAddr, SocketAddr),
    (name, root): (&str, &Path),
    more: &[&str],
) -> Result<Running> {
    let resolve = match to.ip() {
        IpAddr::V4(ip) => format!("{name}:{}:{ip}", to.port()),
        IpAddr::V6(ip) => format!("{name}:{}:[{ip}]", to.port()),
    };
    let (from, url) = (from.to_string(), format!("https://{name}:{}/index.html", to.port()));
    let by_name = ["--interface", &from, "--resolve", &resolve, "--cacert", text(root)?, &url];
    place.start("curl", &[CURL, &by_name, more].concat())
}

/// The same page several times.
#[derive(Debug)]
pub struct Pages {
    /// What came each time.
    pub contents: Vec<String>,
    /// How many connections it took.
    pub connections: usize,
}

/// Gets the page so many times, one after the other.
pub fn curl_over_one_connection(place: &Place, to: SocketAddr, times: usize) -> Result<Pages> {
    curl_many(place, to, times, &[])
}

/// Gets the page so many times, all at once.
pub fn curl_side_by_side(place: &Place, to: SocketAddr, times: usize) -> Result<Pages> {
    curl_many(place, to, times, &["--parallel", "--parallel-immediate"])
}

fn curl_many(place: &Place, to: SocketAddr, times: usize, options: &[&str]) -> Result<Pages> {
    let directory = fresh_directory(place, "curl", unused_port())?;
    let output = directory.join("page-#1");
    let url = format!("http://{to}/index.html?[1-{times}]");
    let many = ["--write-out", "%{num_connects}\n", "--output", text(&output)?, &url];
    let said = place.run("curl", &[CURL, options, &many].concat())?;
    let connects: Vec<usize> = said.lines().map(str::parse).collect::<Result<_, _>>().context("read what curl said")?;
    ensure!(connects.len() == times, "curl got {} pages of {times}", connects.len());
    let read = |number| {
        let file = directory.join(format!("page-{number}"));
        fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
    };
    Ok(Pages { contents: (1..=times).map(read).collect::<Result<_>>()?, connections: connects.into_iter().sum() })
}

/// What wget says of an HTTP server.
pub fn wget(place: &Place, to: SocketAddr) -> Result<String> {
    let url = format!("http://{to}/index.html");
    place.run("wget", &["--quiet", "--no-proxy", "--tries=1", "--timeout=60", "--output-document=-", &url])
}
