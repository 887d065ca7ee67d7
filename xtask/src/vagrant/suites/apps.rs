//! The unmodified programs: servers on `node-b`, clients on `node-a`, and the marked payload that they exchange.
//!
//! All run in the slice that the agents enrol, started by systemd as on any host.

use anyhow::{Context, Result, ensure};

use super::World;
use crate::vagrant::node::{Family, Node};

/// What an onlooker must not see.
pub(super) const MARKER: &str = "marked-for-the-eyes-of-the-other-end-only";
/// How much of it crosses, in bytes: many segments and several TLS records.
pub(super) const PAYLOAD_SIZE: usize = 64 * 1024;
/// The slice of the enrolled programs; its cgroup is `/sys/fs/cgroup/` and this.
pub(super) const SLICE: &str = "enrolled.slice";
/// The ports of the servers.
pub(super) const PORTS: [u16; 4] =
    [Program::Http.port(), Program::Redis.port(), Program::Banner.port(), Program::Ssh.port()];

/// nginx with what it needs for one file, and a log of the marked headers that reached it.
const NGINX_CONF: &str = "\
daemon off;
pid /run/suite/nginx.pid;
error_log stderr;
events {}
http {
    log_format marked '$http_x_marked';
    access_log /run/suite/headers marked;
    server {
        listen [::]:80 ipv6only=off;
        root /run/suite/www;
    }
}
";

/// A pair of client and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    /// curl and nginx; the marker also travels in a header of the request.
    Http,
    /// redis-cli and redis-server; the payload crosses in both directions.
    Redis,
    /// socat and socat: the server speaks first, and the client never.
    Banner,
    /// OpenSSH, whose server also speaks first.
    Ssh,
}

impl Program {
    /// Where its server listens.
    pub(super) const fn port(self) -> u16 {
        match self {
            Program::Http => 80,
            Program::Redis => 6379,
            Program::Banner => 7000,
            Program::Ssh => 2222,
        }
    }

    /// What an onlooker sees in the clear when nothing hides it: ssh hides the payload itself, but not its greeting.
    pub(super) fn telltale(self) -> &'static str {
        match self {
            Program::Http | Program::Redis | Program::Banner => MARKER,
            Program::Ssh => "SSH-2.0-",
        }
    }

    /// The shell command of the client that writes the payload it received.
    pub(super) fn client(self, server: &Node<'_>, family: Family) -> String {
        let (host, port) = (server.host(family), self.port());
        let bare = host.trim_matches(['[', ']']);
        match self {
            Program::Http => format!("curl -sS -m 60 -H \"X-Marked: {MARKER}\" http://{host}:{port}/payload"),
            Program::Redis => format!(
                "redis-cli -h {bare} -p {port} -x SET payload </run/suite/www/payload >/dev/null; \
                 redis-cli -h {bare} -p {port} GET payload"
            ),
            Program::Banner => format!("socat -u TCP:{host}:{port} -"),
            Program::Ssh => format!(
                "ssh -n -p {port} -i /run/suite/key -o BatchMode=yes -o StrictHostKeyChecking=no \
                 -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR root@{bare} cat /run/suite/www/payload"
            ),
        }
    }
}

/// The payload: the marker, one a line.
pub(super) fn payload() -> Vec<u8> {
    let line = format!("{MARKER}\n");
    line.bytes().cycle().take(PAYLOAD_SIZE).collect()
}

/// Wraps a shell command so that it runs in the enrolled slice, its output and exit code passed on; 124 is that of a
/// client that was left hanging. curl gives up sooner by itself.
pub(super) fn enrolled(command: &str) -> String {
    format!("systemd-run --quiet --pipe --wait --collect --slice={SLICE} timeout 90 sh -euc '{command}'")
}

/// Fetches the payload with an enrolled client on `node-a`, and fails unless all of it arrived.
pub(super) fn fetch(world: &World<'_>, program: Program, family: Family) -> Result<()> {
    let received = world.a.check(&enrolled(&program.client(&world.b, family)))?;
    let mut received = received.as_slice();
    if program == Program::Redis {
        // redis-cli ends its answer with a line feed of its own.
        received = received.strip_suffix(b"\n").unwrap_or(received);
    }
    ensure!(received == payload(), "the client received {} bytes that are not the payload", received.len());
    Ok(())
}

/// How many requests with the marker nginx has logged.
pub(super) fn marked_requests(world: &World<'_>) -> Result<usize> {
    let log = String::from_utf8(world.b.check("cat /run/suite/headers")?).context("read the log of nginx")?;
    Ok(log.lines().filter(|line| *line == MARKER).count())
}

/// Starts all servers anew and waits until they listen.
pub(super) fn start(world: &World<'_>) -> Result<()> {
    for node in [&world.a, &world.b] {
        node.check(&format!(
            "systemctl stop suite-nginx suite-redis suite-banner suite-ssh 2>/dev/null || true
             rm -rf /run/suite; mkdir -p /run/suite/www
             systemctl start {SLICE}
             yes {MARKER} | head -c {PAYLOAD_SIZE} >/run/suite/www/payload"
        ))?;
    }
    let key = world.a.check("ssh-keygen -q -t ed25519 -N \"\" -f /run/suite/key; cat /run/suite/key.pub")?;
    world.b.write("/run/suite/authorized_keys", String::from_utf8(key)?.trim())?;
    world.b.write("/run/suite/nginx.conf", NGINX_CONF)?;
    serve(&world.b, "nginx", "nginx -c /run/suite/nginx.conf")?;
    serve(&world.b, "redis", "redis-server --bind \"*\" \"-::*\" --protected-mode no --save \"\" --dir /run/suite")?;
    serve(
        &world.b,
        "banner",
        "socat -U TCP6-LISTEN:7000,ipv6only=0,reuseaddr,fork OPEN:/run/suite/www/payload,rdonly",
    )?;
    let keys = "-o AuthorizedKeysFile=/run/suite/authorized_keys -o PidFile=none -o PermitRootLogin=yes";
    serve(&world.b, "ssh", &format!("/usr/sbin/sshd -D -e -p 2222 {keys}"))?;
    for port in PORTS {
        let listens = format!("ss -Htln sport = :{port} | grep -q .");
        world.b.wait_until(&format!("a server on port {port}"), &listens)?;
    }
    Ok(())
}

/// Starts a server in the enrolled slice.
fn serve(node: &Node<'_>, unit: &str, command: &str) -> Result<()> {
    node.check(&format!("systemd-run --quiet --collect --unit=suite-{unit} --slice={SLICE} {command}")).map(drop)
}
