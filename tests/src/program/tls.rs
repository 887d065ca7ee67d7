//! OpenSSL: peers that speak mutual TLS of their own.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::Result;

use super::{Server, fresh_directory, text, write};
use crate::authority::Credentials;
use crate::ground::unused_port;
use crate::place::Place;
use crate::process::{Finished, Running};

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

/// The same for the page `/page` of a server that demands certificates, with one or without; gives all that came of it.
pub fn openssl_page(place: &Place, to: SocketAddr, bundle: &Path, own: Option<&Credentials>) -> Result<Finished> {
    let to = to.to_string();
    let mut arguments = vec!["s_client", "-connect", &to, "-tls1_3", "-quiet", "-verify", "4", "-verify_return_error"];
    arguments.extend(["-CAfile", text(bundle)?]);
    if let Some(own) = own {
        let [certificate, key, _] = own.texts()?;
        arguments.extend(["-cert", certificate, "-cert_chain", certificate, "-key", key]);
    }
    let mut client = place.start("openssl", &arguments)?;
    client.feed(b"GET /page HTTP/1.1\r\nHost: server.mesh.internal\r\nConnection: close\r\n\r\n")?;
    client.finish()
}

impl Credentials {
    fn texts(&self) -> Result<[&str; 3]> {
        Ok([text(&self.certificate)?, text(&self.key)?, text(&self.bundle)?])
    }
}
