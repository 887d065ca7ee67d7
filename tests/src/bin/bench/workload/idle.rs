//! Memory of agents and sidecars while connections are open and do nothing, and what they do meanwhile. What the kernel keeps
//! for them is not counted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use enforcer_tests::peer::{self, Server};
use enforcer_tests::process::Running;
use enforcer_tests::settings;
use enforcer_tests::wait;
use nix::sys::resource::{Resource, getrlimit};

use crate::figures::Figures;
use crate::path::{Path, Site, quiet};
use crate::rows::{PERCENT, Row};
use crate::workload::Workload;

/// Connections that are open at the same time. The difference of the last two is free of what is needed anyway.
const CONNECTIONS: [u32; 4] = [0, 1, 1000, 10_000];

/// For how long it is looked what is done with connections that are idle: several of each timer that ticks.
const WINDOW: Duration = Duration::from_secs(30);

/// What so many idle connections take.
#[derive(Debug, Default)]
pub(crate) struct Held(BTreeMap<(Path, u32), Taken>);

#[derive(Debug, Clone, Copy)]
struct Taken {
    /// Bytes on the nodes of client and server.
    memory: [f64; 2],
    /// Of the time of one processor, on both nodes together; a part of 1.
    work: f64,
}

pub(super) fn measure(site: &Site, figures: &mut Figures) -> Result<()> {
    if site.memory()?.is_none() {
        return Ok(());
    }
    // What was measured before has left its traces.
    let site = Site::create(site.path)?;
    site.explain(hold(&site, figures))
}

fn hold(site: &Site, figures: &mut Figures) -> Result<()> {
    let steps = steps(site.path);
    let &[.., few, many] = steps else { bail!("growth needs two steps") };
    require_files(many)?;
    let mut idle = Idle::begin(site, many)?;
    for &connections in steps {
        idle.open(connections).with_context(|| format!("open {connections} connections"))?;
        let memory = site.memory()?.context("nobody has memory")?;
        figures.held.0.insert((site.path, connections), Taken { memory, work: work(site)? });
    }
    let [before, after] = [few, many].map(|connections| figures.held.0[&(site.path, connections)].memory);
    let growth = |node: usize| (after[node] - before[node]) / f64::from(many - few);
    figures.remember(site.path, [growth(0), growth(1)]);
    Ok(())
}

/// What is done where there is nothing to do.
fn work(site: &Site) -> Result<f64> {
    quiet::settle()?;
    let done = || site.processor_time().map(|[_, proxies]| proxies.user + proxies.system);
    let (start, before) = (Instant::now(), done()?);
    wait::until("the end of a while", WINDOW * 2, || Ok((start.elapsed() >= WINDOW).then_some(())))?;
    Ok((done()? - before) / 1e9 / start.elapsed().as_secs_f64())
}

/// A proxy has two files open for each connection, and some of its own.
fn require_files(connections: u32) -> Result<()> {
    let (limit, needed) = (getrlimit(Resource::RLIMIT_NOFILE)?.0, u64::from(connections) * 2 + 1000);
    ensure!(
        limit >= needed,
        "{connections} idle connections need {needed} open files in a process, the limit is {limit}: raise it \
         (`ulimit -Hn {needed}`), or leave out `idle`"
    );
    Ok(())
}

/// An emulated processor takes a quarter of an hour for the handshakes of 10,000 connections: there, who shakes hands for each has
/// a thousand, each of which costs what the one before did. It has all of them with `--native`.
fn steps(path: Path) -> &'static [u32] {
    if path == Path::Direct || settings::is_quick() { &CONNECTIONS } else { &CONNECTIONS[..3] }
}

/// Connections that stay open until this is dropped.
struct Idle<'a> {
    site: &'a Site,
    server: Server,
    clients: Vec<Running>,
    open: u32,
}

impl<'a> Idle<'a> {
    /// None yet, of this many.
    fn begin(site: &'a Site, most: u32) -> Result<Idle<'a>> {
        let server = site.serve(&["keep", "--connections", &most.to_string()])?;
        Ok(Idle { site, server, clients: Vec::new(), open: 0 })
    }

    /// Returns when so many are open, and a byte has come and gone through each of them.
    fn open(&mut self, connections: u32) -> Result<()> {
        if connections == self.open {
            return Ok(());
        }
        let (place, address) = (self.site.route()?.client, self.site.address(self.server.port)?);
        let more = (connections - self.open).to_string();
        let mut client = peer::start(place, address, &self.site.client(&["hold", "--connections", &more]))?;
        wait::until("idle connections", wait::patience() * 6, || {
            client.check_alive()?;
            self.server.check_alive()?;
            Ok(client.stdout()?.contains("held").then_some(()))
        })?;
        self.clients.push(client);
        self.open = connections;
        Ok(())
    }
}

impl Held {
    /// As figures, of each path in the order of the numbers of connections.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let all = self.0.iter().flat_map(|((path, connections), taken)| {
            let row = |figure: String, value, unit| Row::new(Workload::Idle, *path, &figure, value, unit);
            let [client, server] = taken.memory;
            [
                row(format!("memory-client-{connections}"), client, "bytes"),
                row(format!("memory-server-{connections}"), server, "bytes"),
                row(format!("busy-{connections}"), taken.work * 100.0, PERCENT),
            ]
        });
        all.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_told_for_each_number_of_connections() {
        let taken = |client, work| Taken { memory: [client, client + 1.0], work };
        let all = [((Path::Direct, 10_000), taken(5.0, 0.0025)), ((Path::Direct, 0), taken(3.0, 0.0))];
        let rows = Held(BTreeMap::from(all)).rows();
        let told: Vec<_> = rows.iter().map(|row| (row.figure.as_str(), row.value)).collect();
        let expected = [
            ("memory-client-0", 3.0),
            ("memory-server-0", 4.0),
            ("busy-0", 0.0),
            ("memory-client-10000", 5.0),
            ("memory-server-10000", 6.0),
            ("busy-10000", 0.25),
        ];
        assert_eq!(told, expected);
    }
}
