//! What control does not do: bad input gets a reason, and what was there before is there after.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use enforcer_tests::control::Control;
use enforcer_tests::wait;
use libtest_mimic::Trial;

use super::{Node, known, request};
use crate::stage::promises;

pub(super) fn trials() -> Vec<Trial> {
    promises![
        a_bad_request_is_refused_with_its_reason,
        a_token_is_good_once_for_one_node_of_one_authority,
        control_does_not_start_on_what_it_cannot_trust,
        what_was_answered_is_known_after_a_kill,
    ]
}

async fn a_bad_request_is_refused_with_its_reason(directory: PathBuf) -> Result<()> {
    let control = Control::start(&directory, &["a", "b"])?;
    let node = Node::join(&control, "node-a", &directory).await?;
    let good = node.issue("a").await?;
    let before = known(&control)?;
    let mut forged = request()?;
    *forged.last_mut().context("an empty request")? ^= 1;
    let cases = [
        ("a", Vec::new(), "certificate request"),
        ("a", b"-----BEGIN CERTIFICATE REQUEST-----".to_vec(), "certificate request"),
        ("a", forged, "certificate request does not verify"),
        ("a", vec![0x30; 20_000], "at most 16384 octets"),
        ("a", vec![0x30; 8 << 20], "issue at control"),
        ("b", request()?, "not placed on node node-a"),
        ("nobody", request()?, "not placed on node node-a"),
    ];
    for (account, csr, why) in cases {
        let refused = refusal(node.issue_for(account, csr).await)?;
        ensure!(refused.contains(why), "for {account}, not `{why}` but: {refused}");
    }
    ensure!(known(&control)? == before && before.contains(&good.serial), "the journal has changed");
    node.issue("a").await?;
    control.has_noted("refused", &enforcer_tests::config::identity("b"))
}

async fn a_token_is_good_once_for_one_node_of_one_authority(directory: PathBuf) -> Result<()> {
    let control = Control::start(&directory, &["a", "b"])?;
    let join = async |name: &str, token: &PathBuf| {
        let place = directory.join(format!("try-{name}-{}", rand_name()));
        Node::join_with(&control, name, &place, token).await.map(drop)
    };
    // For the other node, it gives the certificate of its own, which that machine does not take.
    let stolen = refusal(join("node-b", &control.token("node-a")?).await)?;
    ensure!(stolen.contains("spiffe://example.org/enforcer/node/node-a"), "{stolen}");
    let token = control.token("node-a")?;
    join("node-a", &token).await?;
    let again = refusal(join("node-a", &token).await)?;
    ensure!(again.contains("has been used"), "{again}");

    let (shortest, expires) = (directory.join("short"), time(1));
    fs::write(&shortest, control.done(&["control", "token", "create", "--node", "node-a", "--ttl", "1s"])?)?;
    wait::until("the token to expire", wait::patience(), || Ok((time(0) > expires).then_some(())))?;
    let late = refusal(join("node-a", &shortest).await)?;
    ensure!(late.contains("has expired"), "{late}");

    let unknown = directory.join("unknown");
    let text = fs::read_to_string(&token)?;
    let mut parts: Vec<String> = text.trim().split('.').map(str::to_owned).collect();
    parts[1] = "ab".repeat(32);
    fs::write(&unknown, parts.join("."))?;
    let never = refusal(join("node-a", &unknown).await)?;
    ensure!(never.contains("never made"), "{never}");
    // A token of another authority: the secret is not even sent.
    parts[2] = "ab".repeat(32);
    fs::write(&unknown, parts.join("."))?;
    let noted = control.audit()?.len();
    let foreign = refusal(join("node-a", &unknown).await)?;
    ensure!(foreign.contains("join at control") && control.audit()?.len() == noted, "{foreign}");
    fs::write(&unknown, "no token")?;
    let none = refusal(join("node-a", &unknown).await)?;
    ensure!(none.contains("holds no join token"), "{none}");
    let stranger = control.ask(&["control", "token", "create", "--node", "node-c"])?.failure()?;
    ensure!(stranger.contains("there is no node node-c"), "{stranger}");
    Ok(())
}

async fn control_does_not_start_on_what_it_cannot_trust(directory: PathBuf) -> Result<()> {
    let mut control = Control::start(&directory, &["a"])?;
    let node = Node::join(&control, "node-a", &directory).await?;
    let before = known(&control)?;
    control.stop()?;
    let passphrase = directory.join("passphrase");
    let right = fs::read(&passphrase)?;
    fs::write(&passphrase, "another one")?;
    let wrong = control.refuse_to_start()?;
    ensure!(wrong.contains("wrong passphrase"), "{wrong}");
    fs::write(&passphrase, &right)?;
    let open = fs::Permissions::from_mode(0o644);
    fs::set_permissions(&passphrase, open)?;
    let readable = control.refuse_to_start()?;
    ensure!(readable.contains("chmod 600"), "{readable}");
    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600))?;
    let store = control.state.join("control.redb");
    let whole = fs::read(&store)?;
    fs::write(&store, &whole[..whole.len() / 2])?;
    let torn = control.refuse_to_start()?;
    ensure!(torn.contains("restore it from a copy"), "{torn}");
    ensure!(fs::read(&store)? == whole[..whole.len() / 2], "a damaged store was written to");
    fs::write(&store, &whole)?;
    control.restart()?;
    ensure!(before.is_subset(&known(&control)?), "something was lost");
    // The agent has noticed nothing but the time without control.
    wait_for_issue(&node).await
}

async fn what_was_answered_is_known_after_a_kill(directory: PathBuf) -> Result<()> {
    let mut control = Control::start(&directory, &["a"])?;
    let node = Node::join(&control, "node-a", &directory).await?;
    let mut answered = Vec::new();
    for round in 0..5 {
        wait_for_issue(&node).await?;
        let issuing = async {
            loop {
                match node.issue("a").await {
                    Ok(issued) => answered.push(issued.serial),
                    Err(_killed) => return,
                }
            }
        };
        // In the middle of an issue, wherever that is.
        let killing = async {
            tokio::time::sleep(std::time::Duration::from_millis(50 + 37 * round)).await;
            control.kill()
        };
        let ((), killed) = tokio::join!(issuing, killing);
        killed?;
        control.restart()?;
    }
    let known = known(&control)?;
    ensure!(answered.len() > 10, "only {} were issued", answered.len());
    let lost: Vec<_> = answered.iter().filter(|serial| !known.contains(*serial)).collect();
    ensure!(lost.is_empty(), "{} of {} were answered and are not known", lost.len(), answered.len());
    Ok(())
}

async fn wait_for_issue(node: &Node) -> Result<()> {
    let started = std::time::Instant::now();
    while node.issue("a").await.is_err() {
        ensure!(started.elapsed() < wait::patience(), "control does not answer its node");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    Ok(())
}

/// What was said instead of doing it.
fn refusal<T>(result: Result<T>) -> Result<String> {
    let refused = result.err().context("it was not refused")?;
    Ok(format!("{refused:#}"))
}

/// Seconds since 1970, and some more.
fn time(more: u64) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map(|now| now.as_secs()).unwrap_or_default() + more
}

fn rand_name() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}
