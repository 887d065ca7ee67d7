//! An agent with a hundred workloads, each in a network of its own, from its start until it is ready: nothing of it is in
//! the kernel before.

use anyhow::Result;
use enforcer_tests::config::Workload as Enrolled;
use enforcer_tests::endpoint::stopwatch::Stopwatch;
use enforcer_tests::ground::Ground;
use enforcer_tests::world::Node;

use crate::figures::{Cost, Figures};
use crate::path::{Site, quiet};
use crate::workload::Workload;

/// As many as a Kubernetes node has at most by default (110), in round numbers.
const WORKLOADS: u32 = 100;

pub(super) fn measure(site: &Site, figures: &mut Figures) -> Result<()> {
    // Nobody else shall have so many workloads.
    let mut site = Site::create(site.path)?;
    let (ground, node) = site.node()?;
    let enrolled = (1..WORKLOADS).map(|number| workload(ground, number)).collect::<Result<_>>()?;
    node.config.workloads = enrolled;
    node.agent.rewrite(&node.config)?;
    let cost = super::measure(Workload::Start, || start(node));
    let cost = site.explain(cost)?;
    figures.add(Workload::Start, site.path, cost);
    Ok(())
}

fn workload(ground: &Ground, number: u32) -> Result<Enrolled> {
    let account = format!("beside-{number}");
    let place = ground.alone(&account)?;
    let (cgroup, network) = (place.cgroup.path().to_owned(), place.network()?.path());
    Ok(Enrolled { account, cgroup, network, ports: Vec::new() })
}

fn start(node: &mut Node) -> Result<Cost> {
    node.agent.stop()?;
    node.agent.uninstall()?;
    quiet::settle()?;
    let watch = Stopwatch::start();
    node.agent.restart()?;
    Cost::read(&watch.read())
}
