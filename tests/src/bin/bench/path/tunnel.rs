//! What the kernel encrypts below TCP, without agents and without proxies.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use enforcer_tests::ground::{A, B, Ground};
use enforcer_tests::place::Place;

use super::Path;

/// The addresses of client and server inside WireGuard's tunnel.
pub(super) const INSIDE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 80, 0, 1)), IpAddr::V4(Ipv4Addr::new(10, 80, 0, 2))];

/// On which WireGuard has its datagrams.
pub(super) const WIREGUARD: u16 = 51820;

/// A key of 128 bits and 4 bytes of salt for each direction. They are printed here, so nothing is kept secret.
const KEYS: [&str; 2] = ["0x0101010101010101010101010101010101010101", "0x0202020202020202020202020202020202020202"];

/// Sets up what the path needs between the nodes; nothing if it is no tunnel.
pub(super) fn dig(path: Path, ground: &Ground) -> Result<()> {
    match path {
        Path::Ipsec => ipsec(ground),
        Path::Wireguard => wireguard(ground),
        _ => Ok(()),
    }
}

/// ESP in transport mode between the nodes, AES-128-GCM, no key exchange.
fn ipsec(ground: &Ground) -> Result<()> {
    let ends = [[A[0], B[0]], [B[0], A[0]]];
    let states: String = ends
        .iter()
        .zip(KEYS)
        .zip(1000..)
        .map(|(([from, to], key), index)| {
            format!(
                "xfrm state add src {from} dst {to} proto esp spi {index} mode transport replay-window 32 \
                 aead rfc4106(gcm(aes)) {key} 128\n"
            )
        })
        .collect();
    for (place, [here, there]) in [&ground.a, &ground.b].into_iter().zip(ends) {
        let policy = |from: IpAddr, to: IpAddr, direction| {
            format!(
                "xfrm policy add src {from} dst {to} dir {direction} \
                 tmpl src {from} dst {to} proto esp mode transport level required\n"
            )
        };
        let commands = states.clone() + &policy(here, there, "out") + &policy(there, here, "in");
        place
            .network()?
            .configure(&commands)
            .context("IPsec: a kernel that has ESP with AES-GCM (modules esp4 and gcm)")?;
    }
    Ok(())
}

/// One end of a tunnel.
struct End<'a> {
    name: &'static str,
    place: &'a Place,
    /// Where its datagrams go.
    outside: IpAddr,
    inside: IpAddr,
}

/// A tunnel between the nodes, as `wg-quick` would set it up.
fn wireguard(ground: &Ground) -> Result<()> {
    let a = End { name: "a", place: &ground.a, outside: A[0], inside: INSIDE[0] };
    let b = End { name: "b", place: &ground.b, outside: B[0], inside: INSIDE[1] };
    for End { name, place, .. } in [&a, &b] {
        let device = "link add wg0 type wireguard\n";
        place.network()?.configure(device).context("WireGuard: a kernel that has it (module wireguard)")?;
        place.run("sh", &["-c", MAKE_KEYS, "keys", name])?;
    }
    introduce(&a, &b)?;
    introduce(&b, &a)
}

/// Tells one end about the other.
fn introduce(own: &End<'_>, other: &End<'_>) -> Result<()> {
    let file = other.place.directory.join(format!("{}.public", other.name));
    let public = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let (port, key) = (WIREGUARD.to_string(), format!("{}.private", own.name));
    let (endpoint, allowed) = (format!("{}:{WIREGUARD}", other.outside), format!("{}/32", other.inside));
    let interface = ["set", "wg0", "listen-port", &port, "private-key", &key];
    let peer = ["peer", public.trim(), "endpoint", &endpoint, "allowed-ips", &allowed];
    own.place.run("wg", &[&interface[..], &peer[..]].concat())?;
    own.place.network()?.configure(&format!("addr add {}/24 dev wg0\nlink set wg0 up\n", own.inside))
}

const MAKE_KEYS: &str = r#"umask 077 && wg genkey >"$1.private" && wg pubkey <"$1.private" >"$1.public""#;
