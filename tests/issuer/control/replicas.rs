//! Two controls on one etcd are one control.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use enforcer::identity::Serial;
use enforcer::identity::source::Source;
use enforcer_tests::control::Control;
use libtest_mimic::Trial;
use tokio::time::timeout;

use super::{Node, known};
use crate::etcd::Etcd;
use crate::stage::promises;

/// From the moment that `enforcer ca revoke` has returned.
const SEEN_WITHIN: Duration = Duration::from_secs(1);

pub(super) fn trials() -> Vec<Trial> {
    promises![replicas_issue_apart_and_revoke_together]
}

async fn replicas_issue_apart_and_revoke_together(directory: PathBuf) -> Result<()> {
    let etcd = Etcd::start(&directory)?;
    let [mut one, two] = [replica(&directory, &etcd, "one")?, replica(&directory, &etcd, "two")?];
    let of_one = Node::join(&one, "node-a", &directory).await?;
    let of_two = Node::join(&two, "node-b", &directory).await?;
    ensure!(of_two.client.told(Duration::from_secs(5)).await, "the second replica tells nothing");

    let issue = async |node: &Node, account: &str| {
        let mut serials = Vec::new();
        for _ in 0..50 {
            serials.push(node.issue(account).await?.serial);
        }
        Ok::<_, anyhow::Error>(serials)
    };
    let (from_one, from_two) = tokio::join!(issue(&of_one, "a"), issue(&of_two, "b"));
    let (from_one, from_two) = (from_one?, from_two?);
    let mut all = [from_one.clone(), from_two].concat();
    all.sort();
    all.dedup();
    ensure!(all.len() == 100, "a serial number was given twice");
    let (by_one, by_two) = (known(&one)?, known(&two)?);
    ensure!(
        all.iter().all(|serial| by_one.contains(serial) && by_two.contains(serial)),
        "they do not share the journal"
    );

    // Revoked at one, known to a node of the other.
    let doomed = &from_one[0];
    let serial: Serial = doomed.parse()?;
    let mut trusted = of_two.client.trusted();
    one.done(&["ca", "revoke", "--serial", doomed, "--reason", "keyCompromise"])?;
    let since = Instant::now();
    let seen = async {
        while !trusted.current().revokes(&serial) {
            trusted.changed().await;
        }
    };
    timeout(SEEN_WITHIN, seen).await.context("the other replica's node has not learned it in time")?;
    eprintln!("a node of the other replica knew it {} ms after the revocation", since.elapsed().as_millis());

    // One killed in the middle of issuing loses nothing that was answered, and the other goes on.
    let mut answered = Vec::new();
    let issuing = async {
        while let Ok(issued) = of_one.issue("a").await {
            answered.push(issued.serial);
        }
    };
    let killing = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        one.kill()
    };
    let ((), killed) = tokio::join!(issuing, killing);
    killed?;
    let known = known(&two)?;
    ensure!(!answered.is_empty() && answered.iter().all(|serial| known.contains(serial)), "something was lost");
    of_two.issue("b").await?;
    Ok(())
}

pub(super) fn replica(directory: &std::path::Path, etcd: &Etcd, name: &str) -> Result<Control> {
    let place = directory.join(name);
    let store = format!("  store: {{ etcd: {{ endpoints: [\"{}\"] }} }}\n", etcd.endpoint());
    Control::start_with(&place, &["a", "b"], &store)
}
