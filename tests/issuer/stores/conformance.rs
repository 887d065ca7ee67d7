//! What every store promises, whichever it is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use enforcer::ca::store::{
    Condition, Error, LARGEST_TRANSACTION, LONGEST_KEY, LONGEST_VALUE, MOST_CHANGES, Outcome, Store, Transaction,
};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Another replica hears of a change within this time.
pub(super) const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// How long nobody hears of a change when there is none.
const QUIET: Duration = Duration::from_millis(30);

/// All of it, with an empty store; `other` is another way to the same one.
pub(super) async fn check(store: &Arc<dyn Store>, other: &Arc<dyn Store>) -> Result<()> {
    conditions(store).await.context("conditions")?;
    all_or_nothing(store).await.context("all or nothing")?;
    lists(store, other).await.context("lists")?;
    limits(store).await.context("limits")?;
    many_changes(store).await.context("many changes")?;
    changes_are_heard_of(store, other).await.context("changes")?;
    one_of_many_creates(store, other).await.context("create")?;
    no_increment_is_lost(store, other).await.context("increments")
}

pub(super) fn committed(outcome: Outcome) -> Result<()> {
    ensure!(outcome == Outcome::Committed, "a condition did not hold that does");
    Ok(())
}

fn refused(outcome: Outcome) -> Result<()> {
    ensure!(outcome == Outcome::Conflict, "a condition held that does not");
    Ok(())
}

async fn conditions(store: &Arc<dyn Store>) -> Result<()> {
    let some = |text: &str| Some(text.as_bytes().to_vec());
    ensure!(store.get("c/1").await?.is_none(), "a key of an empty store");
    committed(store.commit(Transaction::new()).await?)?;
    committed(store.commit(Transaction::new().create("c/1", "a")).await?)?;
    refused(store.commit(Transaction::new().create("c/1", "b")).await?)?;
    ensure!(store.get("c/1").await? == some("a"), "what is there is replaced by create");
    refused(store.commit(Transaction::new().replace("c/1", some("b"), some("c"))).await?)?;
    refused(store.commit(Transaction::new().replace("c/1", None, some("c"))).await?)?;
    refused(store.commit(Transaction::new().replace("c/2", some(""), some("c"))).await?)?;
    committed(store.commit(Transaction::new().replace("c/1", some("a"), some(""))).await?)?;
    ensure!(store.get("c/1").await? == some(""), "an empty value is none");
    refused(store.commit(Transaction::new().replace("c/1", None, some("c"))).await?)?;
    committed(store.commit(Transaction::new().replace("c/1", some(""), None)).await?)?;
    ensure!(store.get("c/1").await?.is_none(), "a removed key is there");
    committed(store.commit(Transaction::new().remove("c/1")).await?)?;
    committed(store.commit(Transaction::new().put("c/1", "d").put("c/2", vec![0, 255])).await?)?;
    ensure!(store.get("c/2").await? == Some(vec![0, 255]), "a value is changed on its way");
    // A condition on what is not written.
    let guarded = Transaction { conditions: vec![("c/3".into(), Condition::Absent)], ..Transaction::new() };
    committed(store.commit(guarded.remove("c/1").remove("c/2")).await?)
}

async fn all_or_nothing(store: &Arc<dyn Store>) -> Result<()> {
    committed(store.commit(Transaction::new().put("a/1", "1").put("a/2", "2")).await?)?;
    let before = store.list("").await?;
    let late = Transaction::new().put("a/1", "x").remove("a/2").create("a/3", "x").create("a/1", "x");
    let late = Transaction { writes: late.writes[..3].to_vec(), ..late };
    refused(store.commit(late).await?)?;
    ensure!(store.list("").await? == before, "a part of a refused transaction was made");
    committed(store.commit(Transaction::new().remove("a/1").remove("a/2")).await?)
}

async fn lists(store: &Arc<dyn Store>, other: &Arc<dyn Store>) -> Result<()> {
    let keys = ["l", "l.", "l/", "l/1", "l/10", "l/2", "l/~", "l/~~", "l0", "m/1"];
    for key in keys.iter().rev() {
        committed(store.commit(Transaction::new().put(*key, *key)).await?)?;
    }
    for (prefix, expected) in [("", &keys[..]), ("l", &keys[..9]), ("l/", &keys[2..8]), ("l/1", &keys[3..5])] {
        same(prefix, &other.list(prefix).await?, expected)?;
    }
    same("l/~~~", &other.list("l/~~~").await?, &[])?;
    // The last key that can be is one that ends with tildes.
    same("~", &other.list("~").await?, &[])?;
    let removing = keys.iter().fold(Transaction::new(), |transaction, key| transaction.remove(*key));
    committed(store.commit(removing).await?)
}

fn same(prefix: &str, listed: &[(String, Vec<u8>)], expected: &[&str]) -> Result<()> {
    let keys: Vec<_> = listed.iter().map(|(key, _)| key.as_str()).collect();
    ensure!(keys == expected, "{prefix:?} lists {keys:?}");
    ensure!(listed.iter().all(|(key, value)| key.as_bytes() == value), "{prefix:?} lists other values");
    Ok(())
}

async fn limits(store: &Arc<dyn Store>) -> Result<()> {
    let longest = "k".repeat(LONGEST_KEY);
    let largest = vec![7; LONGEST_VALUE];
    committed(store.commit(Transaction::new().create(&longest, largest.clone())).await?)?;
    let replaced = Transaction::new().replace(&longest, Some(largest.clone()), Some(vec![8; LONGEST_VALUE]));
    committed(store.commit(replaced).await?)?;
    ensure!(store.get(&longest).await? == Some(vec![8; LONGEST_VALUE]), "the longest value");
    committed(store.commit(Transaction::new().remove(&longest)).await?)?;

    let longer = longest + "k";
    let half = LARGEST_TRANSACTION / 3 + 1;
    let too_large = [
        Transaction::new().put(&longer, ""),
        Transaction::new().put("k", vec![0; LONGEST_VALUE + 1]),
        Transaction::new().replace("k", Some(vec![0; LONGEST_VALUE + 1]), None),
        Transaction::new().put("k/1", vec![0; half]).put("k/2", vec![0; half]).put("k/3", vec![0; half]),
        (0..=MOST_CHANGES).fold(Transaction::new(), |transaction, number| transaction.put(format!("k/{number}"), "")),
    ];
    for transaction in too_large {
        let result = store.commit(transaction).await;
        ensure!(matches!(result, Err(Error::TooLarge { .. })), "{result:?}");
    }
    ensure!(matches!(store.get(&longer).await, Err(Error::TooLarge { .. })), "a key that is too long");
    ensure!(matches!(store.list(&longer).await, Err(Error::TooLarge { .. })), "a prefix that is too long");
    for key in ["", "a b", "\u{e4}", "a\n"] {
        let result = store.commit(Transaction::new().put(key, "")).await;
        ensure!(matches!(result, Err(Error::Key { .. })), "{key:?}: {result:?}");
        ensure!(matches!(store.get(key).await, Err(Error::Key { .. })), "{key:?} is read");
    }
    let twice = store.commit(Transaction::new().put("k", "1").put("k", "2")).await;
    ensure!(matches!(twice, Err(Error::Key { .. })), "{twice:?}");
    ensure!(store.list("k").await?.is_empty(), "something was written all the same");
    Ok(())
}

/// More than one page of a list, and as many changes as a transaction may have.
async fn many_changes(store: &Arc<dyn Store>) -> Result<()> {
    let key = |number: usize| format!("n/{number:04}");
    for first in (0..10 * MOST_CHANGES).step_by(MOST_CHANGES) {
        let numbers = first..first + MOST_CHANGES;
        let filling = numbers.fold(Transaction::new(), |filling, number| filling.create(key(number), key(number)));
        committed(store.commit(filling).await?)?;
    }
    let expected: Vec<_> = (0..10 * MOST_CHANGES).map(key).collect();
    same("n/", &store.list("n/").await?, &expected.iter().map(String::as_str).collect::<Vec<_>>())?;
    for keys in expected.chunks(MOST_CHANGES) {
        let emptying = keys
            .iter()
            .fold(Transaction::new(), |emptying, key| emptying.replace(key, Some(key.clone().into_bytes()), None));
        committed(store.commit(emptying).await?)?;
    }
    ensure!(store.list("n/").await?.is_empty(), "not all was removed");
    Ok(())
}

/// Commits one change with `store`, and waits until `other` has counted it; says how long it took.
pub(super) async fn heard(store: &Arc<dyn Store>, other: &Arc<dyn Store>, key: &str) -> Result<Duration> {
    let mut changes = other.changes();
    // What is still to be heard of earlier changes would pass for this one.
    while timeout(QUIET, changes.changed()).await.is_ok() {}
    let begun = Instant::now();
    committed(store.commit(Transaction::new().put(key, format!("{begun:?}"))).await?)?;
    timeout(HEARD_WITHIN, changes.changed()).await.context("nobody heard of a change")?.context("no more changes")?;
    Ok(begun.elapsed())
}

async fn changes_are_heard_of(store: &Arc<dyn Store>, other: &Arc<dyn Store>) -> Result<()> {
    let mut slowest = Duration::ZERO;
    for number in 0..20 {
        let key = format!("h/{}", number % 3);
        slowest = slowest.max(heard(store, other, &key).await?).max(heard(other, store, &key).await?);
    }
    ensure!(slowest < HEARD_WITHIN, "a change was heard of after {slowest:?}");
    eprintln!("changes were heard of within {slowest:?}");
    let removing = (0..3).fold(Transaction::new(), |removing, number| removing.remove(format!("h/{number}")));
    committed(store.commit(removing).await?)
}

async fn one_of_many_creates(store: &Arc<dyn Store>, other: &Arc<dyn Store>) -> Result<()> {
    for round in 0..8 {
        let key = format!("o/{round}");
        let mut tasks = JoinSet::new();
        for task in 0..16 {
            let store = Arc::clone(if task % 2 == 0 { store } else { other });
            let key = key.clone();
            tasks.spawn(async move { (task, store.commit(Transaction::new().create(key, format!("{task}"))).await) });
        }
        let mut winners = Vec::new();
        for (task, outcome) in tasks.join_all().await {
            if outcome? == Outcome::Committed {
                winners.push(format!("{task}").into_bytes());
            }
        }
        ensure!(winners.len() == 1, "{} have created it", winners.len());
        ensure!(store.get(&key).await? == winners.pop(), "another one has won");
        committed(store.commit(Transaction::new().remove(key)).await?)?;
    }
    Ok(())
}

async fn no_increment_is_lost(store: &Arc<dyn Store>, other: &Arc<dyn Store>) -> Result<()> {
    const TASKS: usize = 8;
    const EACH: usize = 25;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let store = Arc::clone(if task % 2 == 0 { store } else { other });
        tasks.spawn(async move {
            for _ in 0..EACH {
                while increment(&store, "i").await? == Outcome::Conflict {}
            }
            anyhow::Ok(())
        });
    }
    tasks.join_all().await.into_iter().collect::<Result<()>>()?;
    let count = store.get("i").await?.context("no counter")?;
    ensure!(count == (TASKS * EACH).to_string().into_bytes(), "{}", String::from_utf8_lossy(&count));
    committed(store.commit(Transaction::new().remove("i")).await?)
}

async fn increment(store: &Arc<dyn Store>, key: &str) -> Result<Outcome> {
    let old = store.get(key).await?;
    let count: usize = old.as_deref().map(str::from_utf8).transpose()?.unwrap_or("0").parse()?;
    let new = (count + 1).to_string().into_bytes();
    Ok(store.commit(Transaction::new().replace(key, old, Some(new))).await?)
}
