//! What an authority costs: processor time of `enforcer control` for each certificate, with keys in a file and in a token,
//! and how long it takes until a thousand nodes know what was revoked.
//!
//! The nodes are the agent's own client, without the agent. Figures are processor time of control's process, so they do
//! not depend on what the clients cost beside it; the time of the push is that of both together on one machine.

#[path = "../issuer/softhsm.rs"]
mod softhsm;

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use enforcer::ca::{SigningRequest, WORKLOAD_LIFETIME};
use enforcer::identity::Serial;
use enforcer::identity::client::{Control as Client, Wanted};
use enforcer::identity::source::Source;
use enforcer_tests::config::{TRUST_DOMAIN, identity};
use enforcer_tests::control::Control;
use rcgen::{CertificateParams, KeyPair};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Nodes that ask at the same time, and certificates that each asks for: within the turns that a node has saved.
const NODES: usize = 16;
const EACH: usize = 100;
/// Nodes that listen.
const LISTENERS: usize = 1000;
/// Workloads whose renewals are estimated: twice an hour each.
const WORKLOADS: f64 = 10_000.0;
/// How long a push may take.
const PUSHED_WITHIN: Duration = Duration::from_secs(1);

fn main() -> Result<()> {
    let directory = tempfile::tempdir().context("make a directory")?;
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    runtime.block_on(async {
        say("| keys | certificates | milliseconds of a core each | for each core and second | 10,000 workloads |")?;
        say("|---|---|---|---|---|")?;
        for place in ["sealed", "token"] {
            let directory = directory.path().join(place);
            let accounts = names("n", NODES);
            let control = if place == "token" {
                softhsm::control(&directory, &borrowed(&accounts))?
            } else {
                Control::start(&directory, &borrowed(&accounts))?
            };
            issues(&control, &accounts, &directory, place).await?;
        }
        push(&directory.path().join("push")).await
    })
}

/// Certificates for all nodes at once, and what each has cost.
async fn issues(control: &Control, accounts: &[String], directory: &Path, place: &str) -> Result<()> {
    let stop = CancellationToken::new();
    let mut nodes = Vec::new();
    for account in accounts {
        nodes.push((account.clone(), join(control, account, directory, &stop).await?));
    }
    let before = control.processor_time()?;
    let mut asking = JoinSet::new();
    for (account, node) in nodes {
        asking.spawn(async move {
            for _ in 0..EACH {
                issue(&node, &account).await?;
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    while let Some(asked) = asking.join_next().await {
        asked??;
    }
    let count = NODES * EACH;
    let each = (control.processor_time()? - before).as_secs_f64() / f64::from(u32::try_from(count)?);
    let share = each * WORKLOADS * 2.0 / 3600.0 * 100.0;
    say(&format!("| {place} | {count} | {:.2} | {:.0} | {share:.1} % of a core |", each * 1000.0, 1.0 / each))?;
    stop.cancel();
    ensure!(share < 5.0, "{WORKLOADS} workloads need {share:.1} % of a core, more than 5 %");
    Ok(())
}

/// From the moment that `enforcer ca revoke` has returned until the last of many nodes judges by it.
async fn push(directory: &Path) -> Result<()> {
    let accounts = names("p", LISTENERS);
    let control = Control::start(directory, &borrowed(&accounts))?;
    let stop = CancellationToken::new();
    let mut nodes = Vec::new();
    for account in &accounts {
        nodes.push(join(&control, account, directory, &stop).await?);
    }
    let doomed = issue(&nodes[0], &accounts[0]).await?;
    for node in &nodes {
        ensure!(node.told(Duration::from_secs(20)).await, "a node was not told whom to trust");
    }
    let mut listening = JoinSet::new();
    for node in nodes.clone() {
        listening.spawn(async move {
            let mut trusted = node.trusted();
            while !trusted.current().revokes(&doomed) {
                trusted.changed().await;
            }
        });
    }
    control.done(&["ca", "revoke", "--serial", &doomed.to_string()])?;
    let since = Instant::now();
    while let Some(knows) = listening.join_next().await {
        knows?;
    }
    let took = since.elapsed();
    let told = took.as_millis();
    say(&format!("\n{LISTENERS} nodes knew what was revoked {told} ms after `enforcer ca revoke` had returned"))?;
    stop.cancel();
    ensure!(took < PUSHED_WITHIN, "it took {took:?}, more than {PUSHED_WITHIN:?}");
    Ok(())
}

async fn join(control: &Control, account: &str, directory: &Path, stop: &CancellationToken) -> Result<Arc<Client>> {
    let name = format!("node-{account}");
    let wanted = Wanted {
        address: control.address.to_string(),
        token: Some(control.token(&name)?),
        grace: Duration::ZERO,
        directory: directory.join(&name),
        trust_domain: TRUST_DOMAIN.to_owned(),
        node: name,
    };
    let started = Instant::now();
    loop {
        match Client::start(wanted.clone(), stop).await {
            Ok(client) => return Ok(client),
            // All that join share their turns.
            Err(error) if error.to_string().contains("too many requests") => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => bail!("{error:#}"),
        }
        ensure!(started.elapsed() < Duration::from_secs(60), "{account} has not joined");
    }
}

async fn issue(node: &Client, account: &str) -> Result<Serial> {
    let request = CertificateParams::default().serialize_request(&KeyPair::generate()?)?;
    let request = SigningRequest {
        csr: request.der().clone(),
        identity: identity(account).parse()?,
        lifetime: WORKLOAD_LIFETIME,
    };
    let issued = node.issue(request).await.map_err(|refused| anyhow!("{refused}"))?;
    Ok(issued.serial.parse()?)
}

fn say(line: &str) -> Result<()> {
    writeln!(io::stdout(), "{line}").context("print a line")
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

fn borrowed(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}
