//! etcd is killed, again and again, under two controls that issue and revoke: what was answered is there, and no serial
//! number is there twice.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use enforcer_tests::control::Control;
use enforcer_tests::wait;
use libtest_mimic::Trial;
use tokio::task::{JoinSet, block_in_place, spawn_blocking};
use tokio::time::sleep;

use super::replicas::replica;
use super::{Node, known, serials};
use crate::etcd::Etcd;
use crate::stage::promises;

/// Rounds are begun for so long.
const BEGUN_WITHIN: Duration = Duration::from_secs(15);
/// The latest moment at which etcd is killed after everything works again.
const LATEST: Duration = Duration::from_millis(300);
/// Certificates that each node asks for at once.
const AT_ONCE: usize = 4;
/// Fewer show nothing.
const FEWEST: u32 = 4;

pub(super) fn trials() -> Vec<Trial> {
    promises![what_a_killed_etcd_was_answered_for_is_known]
}

async fn what_a_killed_etcd_was_answered_for_is_known(directory: PathBuf) -> Result<()> {
    let mut etcd = Etcd::start(&directory)?;
    let one = replica(&directory, &etcd, "one")?;
    let two = Arc::new(replica(&directory, &etcd, "two")?);
    let of_one = Arc::new(Node::join(&one, "node-a", &directory).await?);
    let of_two = Arc::new(Node::join(&two, "node-b", &directory).await?);
    let load = Arc::new(Load::default());
    let (doomed, dying) = channel();
    let mut issuing = JoinSet::new();
    for _ in 0..AT_ONCE {
        issuing.spawn(issue(Arc::clone(&of_one), "a", 0, (Arc::clone(&load), Some(doomed.clone()))));
        issuing.spawn(issue(Arc::clone(&of_two), "b", 1, (Arc::clone(&load), None)));
    }
    drop(doomed);
    let revoking = {
        let (two, load) = (Arc::clone(&two), Arc::clone(&load));
        spawn_blocking(move || revoke(&two, &dying, &load))
    };
    let rounds = kill_again_and_again(&mut etcd, &load).await;
    load.over.store(true, Ordering::Relaxed);
    let issued = issuing.join_all().await.concat();
    let revoked = revoking.await?;
    eprintln!("etcd was killed {} times; {} were issued, {} revoked", rounds?, issued.len(), revoked.len());
    for control in [&one, &two] {
        all_there(control, &issued, &revoked)?;
    }
    Ok(())
}

fn all_there(control: &Control, issued: &[String], revoked: &[String]) -> Result<()> {
    let distinct: HashSet<_> = issued.iter().collect();
    ensure!(distinct.len() == issued.len(), "a serial number was given twice");
    let known = known(control)?;
    let lost = issued.iter().filter(|serial| !known.contains(*serial)).count();
    ensure!(lost == 0, "{lost} of {} were answered and are not known", issued.len());
    let dead = serials(&control.told(&["ca", "list", "--revoked"])?)?;
    let risen: Vec<_> = revoked.iter().filter(|serial| !dead.contains(*serial)).collect();
    ensure!(risen.is_empty(), "{risen:?} were revoked, and are not any more");
    ensure!(!revoked.is_empty(), "nothing was revoked");
    Ok(())
}

/// What goes on meanwhile.
#[derive(Default)]
struct Load {
    /// How many certificates each replica has answered with.
    issued: [AtomicUsize; 2],
    /// How many revocations were answered.
    revoked: AtomicUsize,
    over: AtomicBool,
}

/// Gives how often.
async fn kill_again_and_again(etcd: &mut Etcd, load: &Load) -> Result<u32> {
    let (begun, mut rounds) = (Instant::now(), 0);
    while begun.elapsed() < wait::bound(BEGUN_WITHIN) || rounds < FEWEST {
        // The fractions of multiples of the golden ratio are spread evenly.
        sleep(wait::bound(LATEST).mul_f64((f64::from(rounds) * 0.618_034).fract())).await;
        etcd.kill()?;
        block_in_place(|| etcd.resume())?;
        rounds += 1;
        works_again(load).await.with_context(|| format!("after {rounds} rounds"))?;
    }
    Ok(rounds)
}

/// Waits until both replicas issue, and one has revoked.
async fn works_again(load: &Load) -> Result<()> {
    let counts = || [&load.issued[0], &load.issued[1], &load.revoked].map(|count| count.load(Ordering::Relaxed));
    let (since, before) = (Instant::now(), counts());
    while counts().iter().zip(before).any(|(now, before)| *now == before) {
        ensure!(
            since.elapsed() < wait::patience(),
            "{before:?} were issued and revoked, and are still: {:?}",
            counts()
        );
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Issues until it is over; gives what was answered, and lets others have it too.
async fn issue(
    node: Arc<Node>,
    account: &str,
    replica: usize,
    (load, doomed): (Arc<Load>, Option<Sender<String>>),
) -> Vec<String> {
    let mut answered = Vec::new();
    while !load.over.load(Ordering::Relaxed) {
        let Ok(issued) = node.issue(account).await else {
            // Nobody answers while etcd is away.
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        load.issued[replica].fetch_add(1, Ordering::Relaxed);
        // Once it is over nobody listens.
        let _sent = doomed.as_ref().map(|doomed| doomed.send(issued.serial.clone()));
        answered.push(issued.serial);
    }
    answered
}

/// Revokes what the other replica has issued; gives what was answered.
fn revoke(control: &Control, dying: &Receiver<String>, load: &Load) -> Vec<String> {
    let mut answered = Vec::new();
    while let (false, Ok(serial)) = (load.over.load(Ordering::Relaxed), dying.recv()) {
        if control.done(&["ca", "revoke", "--serial", &serial]).is_ok() {
            load.revoked.fetch_add(1, Ordering::Relaxed);
            answered.push(serial);
        }
    }
    answered
}
