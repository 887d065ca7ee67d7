//! Network namespaces and the wires between them.
//!
//! A namespace is named (`ip netns`), so that an agent can be given its path. Duplicate address detection is
//! off: an IPv6 address is usable at once.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};

use crate::process::{self, Running};
use crate::teardown;
use crate::wait;

const DIRECTORY: &str = "/run/netns";

/// A named network namespace. It lives until `remove`, or until the world it is of is taken down.
#[derive(Debug, Clone)]
pub struct Namespace {
    name: String,
}

/// One end of a wire: the device inside a namespace and the addresses it has.
#[derive(Debug)]
pub struct End<'a> {
    /// The namespace this end is in.
    pub namespace: &'a Namespace,
    /// The name of the device there.
    pub device: &'a str,
    /// Its addresses; the networks are /24 and /64. Programs connect from the first one of each family.
    pub addresses: &'a [IpAddr],
}

impl Namespace {
    /// Makes a namespace with a working loopback device.
    pub fn create(name: &str) -> Result<Namespace> {
        process::run(Command::new("ip").args(["netns", "add", name]))?;
        let namespace = Namespace { name: name.to_owned() };
        namespace.configure("link set lo up\n")?;
        Ok(namespace)
    }

    /// The namespace of this name, which somebody has made.
    pub fn named(name: &str) -> Namespace {
        Namespace { name: name.to_owned() }
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Runs `work` on a thread of its own inside the namespace and gives its result.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = self.path();
        let inside = || {
            let file = File::open(&path).with_context(|| format!("open namespace {}", path.display()))?;
            setns(&file, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter namespace {}", path.display()))?;
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join())
            .map_err(|_panic| anyhow!("a thread in {} panicked", self.name))?
    }

    /// Waits until `server` listens on TCP `port` here, on either family.
    pub fn wait_for_listener(&self, port: u16, server: &mut Running) -> Result<()> {
        let what = format!("a listener on port {port} in {}", self.name);
        wait::until(&what, wait::patience(), || {
            let listens = self.listens(port)?;
            server.check_alive()?;
            Ok(listens.then_some(()))
        })
    }

    /// Whether something listens on TCP `port` here.
    pub fn listens(&self, port: u16) -> Result<bool> {
        self.run(|| {
            // `/proc/net` is the view of the process, `thread-self` that of the thread that entered.
            let tables = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"].map(fs::read_to_string);
            let tables = tables.into_iter().collect::<Result<Vec<_>, _>>().context("read the socket tables")?;
            Ok(tables.iter().any(|table| listening_ports(table).any(|listening| listening == port)))
        })
    }

    /// Connects two namespaces with a veth pair.
    pub fn connect(one: &End<'_>, other: &End<'_>) -> Result<()> {
        process::run(Command::new("ip").args([
            "link",
            "add",
            one.device,
            "netns",
            &one.namespace.name,
            "type",
            "veth",
            "peer",
            "name",
            other.device,
            "netns",
            &other.namespace.name,
        ]))?;
        one.bring_up()?;
        other.bring_up()
    }

    /// Removes it, with its devices, once the last process in it has ended.
    pub fn remove(self) -> Result<()> {
        process::run(Command::new("ip").args(["netns", "del", &self.name])).map(drop)
    }

    /// The namespaces whose names begin with `prefix`.
    pub fn with_prefix(prefix: &str) -> Result<Vec<Namespace>> {
        if !Path::new(DIRECTORY).is_dir() {
            return Ok(Vec::new());
        }
        let entries = fs::read_dir(DIRECTORY).context("list the namespaces")?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let names = names.collect::<Result<Vec<_>>>()?;
        Ok(names.into_iter().filter(|name| name.starts_with(prefix)).map(|name| Namespace { name }).collect())
    }

    /// Gives `ip` several commands at once: on an emulated machine every start of a program counts.
    pub fn configure(&self, commands: &str) -> Result<()> {
        let _open = teardown::open();
        let mut ip = Command::new("ip").args(["-n", &self.name, "-batch", "-"]).stdin(Stdio::piped()).spawn()?;
        ip.stdin.take().context("ip has no input")?.write_all(commands.as_bytes())?;
        let status = ip.wait()?;
        if !status.success() {
            bail!("ip failed in {} ({status}) at one of:\n{commands}", self.name);
        }
        Ok(())
    }
}

impl End<'_> {
    fn bring_up(&self) -> Result<()> {
        let mut commands = String::new();
        let mut preferred = HashSet::new();
        for address in self.addresses {
            // The kernel takes any IPv6 address as a source, unless the later ones are not preferred.
            let lifetime = if preferred.insert(address.is_ipv4()) { "" } else { "preferred_lft 0" };
            let (length, detection) = if address.is_ipv4() { (24, "") } else { (64, "nodad") };
            commands.push_str(&format!("addr add {address}/{length} dev {} {detection} {lifetime}\n", self.device));
        }
        commands.push_str(&format!("link set {} up\n", self.device));
        self.namespace.configure(&commands)
    }
}

/// The local ports in state LISTEN (0A) of a `/proc/net/tcp` or `tcp6` table.
fn listening_ports(table: &str) -> impl Iterator<Item = u16> {
    table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, port) = fields.get(1)?.rsplit_once(':')?;
        (*fields.get(3)? == "0A").then(|| u16::from_str_radix(port, 16).ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_listeners_and_nothing_else_from_the_socket_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n\
                        0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1\n\
                        1: 0100007F:0050 0100007F:C350 01 00000000:00000000 00:00000000 00000000 0 0 2\n";
        assert_eq!(listening_ports(table).collect::<Vec<_>>(), [8080]);
    }

    #[test]
    fn reads_the_longer_addresses_of_tcp6() {
        let table = "header\n 0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 0 0\n";
        assert_eq!(listening_ports(table).collect::<Vec<_>>(), [22]);
    }
}
