//! What is offered to clients without a certificate: `acme` of the node, `public` of a workload, and how they fit.
//!
//! It lets everybody in, so nothing is implied: each name and each port is listed, and somebody has agreed to the terms of
//! the authority.

use std::collections::HashMap;
use std::path::PathBuf;

use hyper::Uri;

use super::field::{Fields, read_each, text};
use super::object::{Objects, RawWorkload};
use super::problem::{Located, Position, Problems, shown};
use super::scalar::{path, port};
use super::snapshot::{Acme, Public};
use super::yaml::{Tree, Value};

/// Where Debian and its descendants keep the roots of public authorities.
const ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Octets of a name. DNS has 253; with `.pem.new` it is to be a file name of 255.
const LONGEST_NAME: usize = 247;
/// Octets of a label (RFC 1035 2.3.4).
const LONGEST_LABEL: usize = 63;
/// Names of one workload: each has a certificate of its own, and authorities limit how often one may ask.
const MOST_NAMES: usize = 64;

/// What a workload offers, as far as it could be read.
#[derive(Debug)]
pub(super) struct RawPublic {
    at: Position,
    names: Vec<Located<String>>,
    ports: Vec<Located<u16>>,
}

/// Who issues certificates for public names.
pub(super) fn acme(tree: Tree, problems: &mut Problems) -> Option<Acme> {
    let mut acme = Fields::open(tree, "acme", problems)?;
    let directory = acme.required("directory", directory);
    let agreed = acme.required("termsOfServiceAgreed", agreed);
    let roots = acme.optional("roots", path, PathBuf::from(ROOTS));
    let contact = acme.take("contact");
    acme.close();
    let contact = contact.map(|tree| read_each(tree, mailto, problems)).unwrap_or_default();
    agreed?;
    let contact = contact.into_iter().map(|url| url.value).collect();
    Some(Acme { directory: directory?.value, contact, roots: roots?.value })
}

/// What a workload offers to everybody.
pub(super) fn public(tree: Tree, problems: &mut Problems) -> Option<RawPublic> {
    let at = tree.at;
    let mut public = Fields::open(tree, "public", problems)?;
    let (names, ports) = (public.take_required("names"), public.take_required("ports"));
    public.close();
    let names = names.map(|tree| read_each(tree, dns_name, problems)).unwrap_or_default();
    let ports = ports.map(|tree| read_each(tree, port, problems)).unwrap_or_default();
    if let Some(first_too_many) = names.get(MOST_NAMES) {
        let message = format!(
            "this is name {} of one workload; each has a certificate of its own, and authorities limit how many they \
             issue; list {MOST_NAMES} at most",
            MOST_NAMES + 1
        );
        problems.add(first_too_many.at, message);
    }
    Some(RawPublic { at, names, ports })
}

/// The same once it was checked.
pub(super) fn wanted(raw: RawPublic) -> Public {
    Public {
        names: raw.names.into_iter().map(|name| name.value).collect(),
        ports: raw.ports.into_iter().map(|port| port.value).collect(),
    }
}

/// What must hold between workloads and with the node.
pub(super) fn check(objects: &Objects, problems: &mut Problems) {
    let [node] = objects.nodes.as_slice() else { return };
    let mut owners = HashMap::new();
    for workload in &objects.workloads {
        let Some(public) = &workload.public else { continue };
        if !node.has_acme {
            let message = "public names without an authority; nobody would issue their certificates; add `acme:` to the \
                           Node's spec";
            problems.add(public.at, message);
        }
        check_ports(workload, public, problems);
        for name in &public.names {
            if let Some(owner) = owners.insert(name.value.as_str(), workload.name.value.as_str()) {
                let message = format!(
                    "{} is also a name of {owner:?}; an authority that asks for it finds only one of them; remove one",
                    shown(&name.value)
                );
                problems.add(name.at, message);
            }
        }
    }
}

/// Connections to other ports do not come to the agent.
fn check_ports(workload: &RawWorkload, public: &RawPublic, problems: &mut Problems) {
    let Some(guarded) = &workload.ports else { return };
    for port in &public.ports {
        if !guarded.iter().any(|guarded| guarded.value == port.value) {
            let message = format!(
                "port {} is none of the workload's `ports`; its connections never come to the agent; add it there",
                port.value
            );
            problems.add(port.at, message);
        }
    }
}

/// Where an ACME directory is.
fn directory(tree: &Tree) -> Result<String, String> {
    let text = text(tree)?;
    let how = "write it like https://acme-v02.api.letsencrypt.org/directory";
    let url = text.parse::<Uri>().ok().filter(|url| {
        let authority = url.authority().filter(|authority| !authority.as_str().contains('@'));
        url.scheme_str() == Some("https") && authority.is_some_and(|authority| !authority.host().is_empty())
    });
    match url {
        Some(_) if !text.contains('#') => Ok(text.to_owned()),
        _ => Err(format!("{} is no https URL; the authority must prove who it is; {how}", shown(text))),
    }
}

fn agreed(tree: &Tree) -> Result<(), String> {
    match &tree.value {
        Value::Boolean(true) => Ok(()),
        _ => {
            let why = "authorities issue nothing without it";
            Err(format!("{} is no agreement; {why}; read their terms of service, then write true", tree.found()))
        }
    }
}

fn mailto(tree: &Tree) -> Result<String, String> {
    let text = text(tree)?;
    let is_plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'@');
    let address = text.strip_prefix("mailto:").and_then(|address| address.split_once('@'));
    if text.len() <= 254 && address.is_some_and(|(user, host)| is_plain(user) && is_plain(host)) {
        return Ok(text.to_owned());
    }
    let how = "write it like mailto:operator@example.org";
    Err(format!("{} is no mailto URL; authorities write to nothing else; {how}", shown(text)))
}

/// A name that an authority may certify by TLS-ALPN-01 (RFC 8737): no wildcard, no address.
fn dns_name(tree: &Tree) -> Result<String, String> {
    let text = text(tree)?;
    let how = "write it like www.example.org";
    let refused = |why: &str| Err(format!("{} is no public name; {why}; {how}", shown(text)));
    if text.starts_with("*.") {
        return refused("TLS-ALPN-01 (RFC 8737) cannot prove a wildcard");
    }
    let labels: Vec<&str> = text.split('.').collect();
    let is_label = |label: &&str| {
        (1..=LONGEST_LABEL).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    };
    if text.len() > LONGEST_NAME || labels.len() < 2 || !labels.iter().all(is_label) {
        return refused("it is made of labels with a dot between them, each of 1 to 63 of a-z, 0-9 and `-` inside");
    }
    if labels.last().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return refused("an address has no name to prove");
    }
    Ok(text.to_owned())
}
