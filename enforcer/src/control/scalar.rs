//! What single values may be: names, paths, identities, prefixes, addresses, numbers.
//!
//! Pure functions from one value to one type; each error says what is wrong, why, and what to do.

use std::net::{IpAddr, SocketAddr};
use std::path::{Component, Path, PathBuf};

use ipnet::{IpNet, Ipv4Net};

use super::field::{choice, integer, text};
use super::problem::shown;
use super::snapshot::{Cipher, Mode, Offload, WantedPath};
use super::yaml::{Tree, Value};
use crate::identity::Identity;

/// Where agents take pair sessions, unless it is said otherwise.
pub(super) const PAIR_PORT: u16 = 15443;

/// The only version of the format.
pub(super) fn api_version(tree: &Tree) -> Result<&'static str, String> {
    choice(tree, &[("enforcer/v1", "enforcer/v1")])
}

/// A name of a node, workload, namespace, peer or policy.
pub(super) fn name(tree: &Tree) -> Result<String, String> {
    let text = text(tree)?;
    if (1..=63).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-'))
    {
        return Ok(text.to_owned());
    }
    Err(format!("{} is no name; names go into logs and metrics; use 1 to 63 of a-z, 0-9, `.` and `-`", shown(text)))
}

/// A SPIFFE trust domain.
pub(super) fn trust_domain(tree: &Tree) -> Result<String, String> {
    checked_trust_domain(text(tree)?)
}

/// The same, where it is the key of a mapping.
pub(super) fn checked_trust_domain(text: &str) -> Result<String, String> {
    let allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    if (1..=255).contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{} is no trust domain; SPIFFE allows 1 to 255 of a-z, 0-9, `.`, `-` and `_`; write it like example.org",
        shown(text)
    ))
}

/// A SPIFFE ID.
pub(super) fn identity(tree: &Tree) -> Result<Identity, String> {
    let text = text(tree)?;
    text.parse().map_err(|cause| {
        format!("{} is no SPIFFE ID; {cause}; write it like spiffe://example.org/ns/default/sa/web", shown(text))
    })
}

/// The value of a label.
pub(super) fn label(tree: &Tree) -> Result<String, String> {
    checked_label(text(tree)?)
}

/// A key or a value of a label.
pub(super) fn checked_label(text: &str) -> Result<String, String> {
    if text.len() <= 253 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte)) {
        return Ok(text.to_owned());
    }
    Err(format!("{} is no label; selectors compare them; use up to 253 of A-Z, a-z, 0-9 and `._-/`", shown(text)))
}

/// An absolute path without `..`, in its shortest spelling.
pub(super) fn path(tree: &Tree) -> Result<PathBuf, String> {
    let text = text(tree)?;
    let path = Path::new(text);
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) || text.contains('\0') {
        let why = "what it means must not depend on where the agent starts";
        return Err(format!("{} is no absolute path; {why}; begin it with / and leave out `..`", shown(text)));
    }
    Ok(path.components().collect())
}

/// The path of a Unix socket.
pub(super) fn socket(tree: &Tree) -> Result<PathBuf, String> {
    /// `sun_path` of unix(7), without the NUL at its end.
    const LONGEST: usize = 107;
    let path = path(tree)?;
    if path.as_os_str().len() > LONGEST {
        let length = path.as_os_str().len();
        return Err(format!(
            "this path has {length} octets; the kernel takes {LONGEST} for a socket; choose a shorter one"
        ));
    }
    Ok(path)
}

/// Where somebody else's Workload API is, as the standard writes it: `unix:` and a path.
pub(super) fn workload_api(tree: &Tree) -> Result<PathBuf, String> {
    let text = text(tree)?;
    let how = "write it like unix:///run/spire/agent.sock";
    let Some(path) = text.strip_prefix("unix:") else {
        return Err(format!("{} is no Workload API that is used here; only Unix sockets are; {how}", shown(text)));
    };
    // An authority may only be empty (SPIFFE Workload Endpoint, section 4).
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.contains(['?', '#', '%']) {
        return Err(format!("{} has more than a path; nothing else has a meaning here; {how}", shown(text)));
    }
    socket(&Tree { at: tree.at, value: Value::Text(path.to_owned()) })
}

/// An address or a prefix, normalised to IPv4 where it is IPv4 written as IPv6.
pub(super) fn prefix(tree: &Tree) -> Result<IpNet, String> {
    let text = text(tree)?;
    let parsed = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let Ok(prefix) = parsed else {
        let how = "write it like 10.0.0.2, 10.1.0.0/16 or \"fd00::/8\"";
        return Err(format!("{} is no address or prefix; peers are found by address; {how}", shown(text)));
    };
    if prefix != prefix.trunc() {
        return Err(format!(
            "{prefix} has bits after the prefix; it could mean the one address or all of them; write {} or {}",
            prefix.trunc(),
            prefix.addr()
        ));
    }
    Ok(canonical(prefix))
}

/// An IPv4 prefix written as IPv6 (`::ffff:10.0.0.0/104`) as the IPv4 prefix that it means; others unchanged.
fn canonical(prefix: IpNet) -> IpNet {
    /// `::ffff:0:0/96` is where IPv6 holds the IPv4 addresses (RFC 4291 2.5.5.2).
    const MAPPED: u8 = 96;
    let IpNet::V6(v6) = prefix else { return prefix };
    match (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(MAPPED)) {
        (Some(address), Some(length)) => Ipv4Net::new(address, length).map_or(prefix, IpNet::V4),
        _ => prefix,
    }
}

/// An IP address.
pub(super) fn address(tree: &Tree) -> Result<IpAddr, String> {
    let text = text(tree)?;
    text.parse().map_err(|_cause| format!("{} is no IP address; names are not looked up; write 10.0.0.53", shown(text)))
}

/// The address and port of the admin socket.
pub(super) fn loopback(tree: &Tree) -> Result<SocketAddr, String> {
    let text = text(tree)?;
    let how = "write it like 127.0.0.1:15000 or \"[::1]:15000\"";
    let address: SocketAddr =
        text.parse().map_err(|cause| format!("{} is no address with a port; {cause}; {how}", shown(text)))?;
    if !address.ip().to_canonical().is_loopback() {
        return Err(format!("{address} is not on loopback; whoever reaches it sees every connection; {how}"));
    }
    if address.port() == 0 {
        return Err(format!("{address} has port 0; `enforcer status` could not find it; {how}"));
    }
    Ok(address)
}

/// The address and port at which the agent takes pair sessions.
pub(super) fn listening(tree: &Tree) -> Result<SocketAddr, String> {
    let text = text(tree)?;
    let how = "write it like 0.0.0.0:15443 or \"[::]:15443\"";
    let address: SocketAddr =
        text.parse().map_err(|cause| format!("{} is no address with a port; {cause}; {how}", shown(text)))?;
    if address.port() == 0 {
        return Err(format!("{address} has port 0; other agents could not find it; {how}"));
    }
    Ok(address)
}

/// Where control is: a name or an address, and a port.
pub(super) fn host_and_port(tree: &Tree) -> Result<String, String> {
    let text = text(tree)?;
    let how = "write it like control.example.org:15444, 192.0.2.3:15444 or \"[fd00::3]:15444\"";
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let is_port = port.parse::<u16>().is_ok_and(|port| port != 0);
    let is_name = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    if is_port && (is_name || text.parse::<SocketAddr>().is_ok()) {
        return Ok(text.to_owned());
    }
    Err(format!("{} is no host with a port; control could not be found; {how}", shown(text)))
}

/// Where the agent of another node takes pair sessions; without a port, at the usual one.
pub(super) fn agent(tree: &Tree) -> Result<SocketAddr, String> {
    let text = text(tree)?;
    let how = "write it like 192.0.2.7, 192.0.2.7:15443 or \"[fd00::7]:15443\"";
    let parsed = text.parse().or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, PAIR_PORT)));
    let Ok(address) = parsed else {
        return Err(format!("{} is no address; agents find each other by address; {how}", shown(text)));
    };
    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
    if address.port() == 0 || address.ip().is_unspecified() {
        return Err(format!("{address} is nobody's; there would be no agent to ask; {how}"));
    }
    Ok(address)
}

/// A TCP port.
pub(super) fn port(tree: &Tree) -> Result<u16, String> {
    let number = integer(tree, 1, u16::MAX.into())?;
    u16::try_from(number).map_err(|cause| format!("{number} is no port; {cause}; write 1 to 65535"))
}

/// A process id.
pub(super) fn pid(tree: &Tree) -> Result<u32, String> {
    /// `PID_MAX_LIMIT` of Linux on 64 bits.
    const MOST: u32 = 4_194_304;
    integer(tree, 1, MOST)
}

/// What happens to connections that cannot be mutual TLS.
pub(super) fn mode(tree: &Tree) -> Result<Mode, String> {
    choice(tree, &[("strict", Mode::Strict), ("permissive", Mode::Permissive), ("off", Mode::Off)])
}

/// The same for some ports alone: a workload is left alone as a whole.
pub(super) fn port_mode(tree: &Tree) -> Result<Mode, String> {
    choice(tree, &[("strict", Mode::Strict), ("permissive", Mode::Permissive)])
}

/// Which path connections take.
pub(super) fn wanted_path(tree: &Tree) -> Result<WantedPath, String> {
    choice(tree, &[("auto", WantedPath::Auto), ("direct", WantedPath::Direct), ("relay", WantedPath::Relay)])
}

/// What connections are encrypted with.
pub(super) fn cipher(tree: &Tree) -> Result<Cipher, String> {
    let ciphers = [
        ("aes-128-gcm", Cipher::Aes128Gcm),
        ("aes-256-gcm", Cipher::Aes256Gcm),
        ("chacha20-poly1305", Cipher::ChaCha20Poly1305),
    ];
    choice(tree, &ciphers)
}

/// Where records are made.
pub(super) fn offload(tree: &Tree) -> Result<Offload, String> {
    choice(tree, &[("auto", Offload::Auto), ("on", Offload::On), ("off", Offload::Off)])
}
