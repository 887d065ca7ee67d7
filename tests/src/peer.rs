//! The endpoint program, started inside a workload: both ends of the connections that no everyday program makes.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::ground::unused_port;
use crate::place::Place;
use crate::process::Running;
use crate::settings;
use crate::wait;

/// A serving endpoint.
#[derive(Debug)]
pub struct Server {
    /// The port it listens on, on every address of both families.
    pub port: u16,
    running: Running,
}

/// What became of a connection, as one end of it saw it.
#[derive(Debug)]
pub struct Outcome(Value);

impl Server {
    /// Starts to serve; `arguments` name the behaviour and its options.
    pub fn start(place: &Place, arguments: &[&str]) -> Result<Server> {
        Server::start_on(place, unused_port(), arguments)
    }

    /// The same on a port that somebody else may have had before.
    pub fn start_on(place: &Place, port: u16, arguments: &[&str]) -> Result<Server> {
        let listen = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).to_string();
        let arguments = [&["serve", "--listen", &listen], arguments].concat();
        let mut running = place.start(settings::endpoint_binary()?, &arguments)?;
        let namespace = place.namespace.as_ref().context("servers run in namespaces")?;
        namespace.wait_for_listener(port, &mut running)?;
        Ok(Server { port, running })
    }

    /// The address to reach it under.
    pub fn at(&self, address: IpAddr) -> SocketAddr {
        SocketAddr::new(address, self.port)
    }

    /// Tells a stalled server to read.
    pub fn release(&mut self) {
        self.running.close_input();
    }

    /// What it has printed until now.
    pub fn said(&self) -> Result<String> {
        self.running.stdout()
    }

    /// Fails, with what it said, if it has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        self.running.check_alive()
    }

    /// Waits until it has served its connections.
    pub fn outcomes(self) -> Result<Vec<Outcome>> {
        list(parse(&self.running.finish()?.success()?)?)
    }

    /// Waits until it has served its one connection.
    pub fn outcome(self) -> Result<Outcome> {
        self.outcomes()?.pop().context("the server served nobody")
    }
}

/// Connects from a workload and waits for the outcome; `arguments` name the behaviour and its options.
pub fn connect(place: &Place, to: SocketAddr, arguments: &[&str]) -> Result<Outcome> {
    outcome_of(start(place, to, arguments)?)
}

/// Connects from a workload and does not wait.
pub fn start(place: &Place, to: SocketAddr, arguments: &[&str]) -> Result<Running> {
    let to = to.to_string();
    let arguments = [&["connect", "--to", &to], arguments].concat();
    place.start(settings::endpoint_binary()?, &arguments)
}

/// What the kernel says at once to each of these attempts, as `endpoint reach` names them: 0 when it was let pass, else the
/// number of the error.
pub fn reach(place: &Place, attempts: &[(&str, SocketAddr)]) -> Result<Vec<i64>> {
    static FILES: AtomicU32 = AtomicU32::new(0);
    let file = place.directory.join(format!("attempts-{}", FILES.fetch_add(1, Ordering::Relaxed)));
    let lines: String = attempts.iter().map(|(kind, destination)| format!("{kind} {destination}\n")).collect();
    fs::write(&file, lines).with_context(|| format!("write {}", file.display()))?;
    let running = place.start(settings::endpoint_binary()?, &["reach", file.to_str().context("not UTF-8")?])?;
    let outcomes = parse(&running.finish()?.success()?)?;
    let outcomes = outcomes.as_array().context("no list")?.iter().map(Value::as_i64);
    outcomes.collect::<Option<_>>().context("no numbers")
}

/// Waits for the outcome of a client that was started.
pub fn outcome_of(client: Running) -> Result<Outcome> {
    // A transfer may take long; what nobody answers is cut off by the client itself.
    let finished = client.finish_within(wait::patience() * 6)?;
    Ok(Outcome(parse(finished.success()?.lines().last().unwrap_or_default())?))
}

/// The same of a client that did it several times, or opened several connections at once.
pub fn outcomes_of(client: Running) -> Result<Vec<Outcome>> {
    let finished = client.finish_within(wait::patience() * 6)?;
    list(parse(finished.success()?.lines().last().unwrap_or_default())?)
}

fn list(printed: Value) -> Result<Vec<Outcome>> {
    match printed {
        Value::Array(outcomes) => Ok(outcomes.into_iter().map(Outcome).collect()),
        other => bail!("instead of a list an endpoint printed {other}"),
    }
}

impl Outcome {
    /// What the connection gave in the end, or an error if it broke.
    pub fn details(&self) -> Result<&Value> {
        match self.error() {
            Some(error) => bail!("the connection broke with {error}: {}", self.0),
            None => self.0.get("details").with_context(|| format!("no details in {}", self.0)),
        }
    }

    /// How it broke, in the words of `std::io::ErrorKind`.
    pub fn error(&self) -> Option<&str> {
        self.0.get("error")?.as_str()
    }

    /// A field of the whole outcome: `local`, `peer`, `milliseconds`.
    pub fn field(&self, name: &str) -> &Value {
        &self.0[name]
    }

    /// The text that came.
    pub fn text(&self) -> Result<&str> {
        self.details()?["text"].as_str().with_context(|| format!("no text in {}", self.0))
    }

    /// Fails unless so many bytes of the pattern came; the pattern is always the same, and so is its checksum.
    pub fn prove_exchanged(&self, bytes: usize) -> Result<()> {
        let details = self.details()?;
        ensure!(details["received"] == bytes, "not all has come: {details}");
        ensure!(details["checksum"] == details["sent"], "what came is not what was sent: {details}");
        Ok(())
    }

    /// The address of one end, `local` or `peer`; an IPv4 address in IPv6 clothes is undressed.
    pub fn address(&self, end: &str) -> Result<SocketAddr> {
        let address = self.field(end).as_str().with_context(|| format!("no {end} in {}", self.0))?;
        let address: SocketAddr = address.parse().with_context(|| format!("{address} is no address"))?;
        Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }
}

fn parse(line: &str) -> Result<Value> {
    line.trim().parse().with_context(|| format!("an endpoint printed `{line}`"))
}
