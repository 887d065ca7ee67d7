//! etcd is killed, stopped, compacted, and forgets who we are: nothing hangs, and afterwards everything works again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use enforcer::ca::store::etcd::{ANSWERED_WITHIN, Config, Etcd, User};
use enforcer::ca::store::{Error, Outcome, Store, Transaction};
use enforcer_tests::wait;
use etcd_client::{Client, ConnectOptions};
use libtest_mimic::Trial;
use tokio::sync::watch;
use tokio::time::timeout;

use super::conformance::{HEARD_WITHIN, committed, heard};
use crate::etcd;
use crate::stage::promises;

pub(crate) fn trials() -> Vec<Trial> {
    promises![
        etcd_is_killed_and_comes_back,
        etcd_stands_still_and_goes_on,
        one_of_two_endpoints_is_enough,
        a_list_is_whole_while_etcd_compacts,
        a_watch_recovers_when_etcd_forgets_its_tokens,
        an_etcd_that_is_not_there_is_an_error,
    ]
}

async fn replicas(config: &Config) -> Result<[Arc<dyn Store>; 2]> {
    let [one, other] = [Etcd::connect(config.clone()).await?, Etcd::connect(config.clone()).await?];
    Ok([Arc::new(one), Arc::new(other)])
}

async fn etcd_is_killed_and_comes_back(directory: PathBuf) -> Result<()> {
    let mut server = etcd::Etcd::start_with_tls(&directory)?;
    let [one, other] = replicas(&server.config("/test")).await?;
    committed(one.commit(Transaction::new().create("kept", "1")).await?)?;
    heard(&one, &other, "heard").await?;
    let mut counts = [one.changes(), other.changes()];

    server.kill()?;
    fails_in_time(&*one).await?;
    fails_in_time(&*other).await?;
    counts.iter_mut().for_each(watch::Receiver::mark_unchanged);
    server.resume()?;
    for changes in &mut counts {
        timeout(wait::bound(2 * HEARD_WITHIN), changes.changed()).await.context("a watch has not recovered")??;
    }
    ensure!(other.get("kept").await? == Some(b"1".to_vec()), "what was committed is lost");
    let took = heard(&one, &other, "heard").await?.max(heard(&other, &one, "heard").await?);
    eprintln!("after etcd was back, a change was heard of within {took:?}");
    Ok(())
}

/// Every call, with an etcd that does not answer.
async fn fails_in_time(store: &dyn Store) -> Result<()> {
    let begun = Instant::now();
    let limit = wait::bound(ANSWERED_WITHIN + Duration::from_secs(1));
    let calls = async {
        tokio::join!(store.get("kept"), store.list(""), store.commit(Transaction::new().create("unknown", "1")))
    };
    let (get, list, commit) = timeout(limit, calls).await.context("a call without an answer")?;
    ensure!(matches!(get, Err(Error::Failed { .. })), "get: {get:?}");
    ensure!(matches!(list, Err(Error::Failed { .. })), "list: {list:?}");
    let commit = commit.err().context("a commit is answered")?;
    ensure!(matches!(commit, Error::Failed { .. } | Error::Unanswered { .. }), "commit: {commit:?}");
    eprintln!("without etcd calls fail after {:?}: {:#}", begun.elapsed(), anyhow::Error::new(commit));
    Ok(())
}

async fn etcd_stands_still_and_goes_on(directory: PathBuf) -> Result<()> {
    let server = etcd::Etcd::start(&directory)?;
    let [one, other] = replicas(&server.config("/test")).await?;
    server.process()?.freeze()?;
    let failed = fails_in_time(&*one).await;
    server.process()?.thaw()?;
    failed?;
    // It was sent, and is made now, or never; its condition keeps it from being made after this one.
    let again = one.commit(Transaction::new().create("unknown", "2")).await?;
    let expected: &[u8] = if again == Outcome::Committed { b"2" } else { b"1" };
    ensure!(
        other.get("unknown").await?.as_deref() == Some(expected),
        "it is neither as one nor as the other has created it"
    );
    heard(&one, &other, "heard").await.map(drop)
}

async fn one_of_two_endpoints_is_enough(directory: PathBuf) -> Result<()> {
    let server = etcd::Etcd::start(&directory)?;
    let [nobody] = crate::stage::free_ports()?;
    let mut config = server.config("/test");
    config.endpoints.insert(0, format!("http://127.0.0.1:{nobody}"));
    let [one, other] = replicas(&config).await?;
    for number in 0..50 {
        committed(one.commit(Transaction::new().create(format!("{number}"), "")).await?)?;
        ensure!(other.get(&format!("{number}")).await?.is_some(), "{number} is not there");
    }
    heard(&one, &other, "heard").await.map(drop)
}

async fn a_list_is_whole_while_etcd_compacts(directory: PathBuf) -> Result<()> {
    const KEYS: usize = 2000;
    let server = etcd::Etcd::start(&directory)?;
    let store = Etcd::connect(server.config("/test")).await?;
    for first in (0..KEYS).step_by(100) {
        let filling = (first..first + 100).fold(Transaction::new(), |all, number| all.put(format!("{number}"), ""));
        committed(store.commit(filling).await?)?;
    }
    let mut client = Client::connect([server.endpoint()], None).await?;
    let compacting = async {
        // Each one makes every list begin again that is under way.
        for _ in 0..10 {
            let put = client.put("elsewhere", "", None).await?;
            client.compact(put.header().context("no header")?.revision(), None).await?;
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        anyhow::Ok(())
    };
    let listing = async {
        let mut lists = 0;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(400) {
            let keys = store.list("").await?.len();
            ensure!(keys == KEYS, "{keys} of {KEYS} keys");
            lists += 1;
        }
        eprintln!("{lists} lists of {KEYS} keys took {:?}", begun.elapsed());
        Ok(())
    };
    let (compacted, listed) = tokio::join!(compacting, listing);
    compacted.and(listed)
}

async fn a_watch_recovers_when_etcd_forgets_its_tokens(directory: PathBuf) -> Result<()> {
    let mut server = etcd::Etcd::start(&directory)?;
    let (name, password) = ("root", "a password");
    let mut root = Client::connect([server.endpoint()], None).await?;
    root.user_add(name, password, None).await?;
    root.role_add("root").await?;
    root.user_grant_role(name, "root").await?;
    root.auth_enable().await?;
    let nobody = Etcd::connect(server.config("/test")).await;
    ensure!(nobody.is_err(), "etcd answers without a password");
    let user = User { name: name.to_owned(), password: password.to_owned() };
    let [one, other] = replicas(&Config { user: Some(user), ..server.config("/test") }).await?;
    heard(&one, &other, "heard").await?;

    // etcd knows its tokens again when it starts, unless authentication was off in between.
    let options = ConnectOptions::new().with_user(name, password);
    let mut root = Client::connect([server.endpoint()], Some(options.clone())).await?;
    root.auth_disable().await.context("disable authentication")?;
    root.update_user(None).await?;
    root.auth_enable().await.context("enable authentication again")?;
    let mut changes = other.changes();
    changes.mark_unchanged();
    server.kill()?;
    server.resume()?;
    timeout(wait::bound(5 * HEARD_WITHIN), changes.changed()).await.context("the watch has not recovered")??;
    // Somebody else's change: `other` itself has asked for nothing since.
    let mut root = Client::connect([server.endpoint()], Some(options)).await?;
    while timeout(Duration::from_millis(100), changes.changed()).await.is_ok() {}
    root.put("/test/heard", "somebody", None).await.context("change something")?;
    timeout(wait::bound(HEARD_WITHIN), changes.changed()).await.context("a change is not heard of")??;
    ensure!(one.get("heard").await? == Some(b"somebody".to_vec()), "another value");
    heard(&one, &other, "heard").await.map(drop)
}

async fn an_etcd_that_is_not_there_is_an_error(_directory: PathBuf) -> Result<()> {
    let [port] = crate::stage::free_ports()?;
    let endpoints = vec![format!("http://127.0.0.1:{port}")];
    let config = Config { endpoints, prefix: "/test".to_owned(), tls: None, user: None };
    let begun = Instant::now();
    let connected = Etcd::connect(config).await;
    let error = connected.err().context("connected to nobody")?;
    ensure!(begun.elapsed() < wait::bound(2 * ANSWERED_WITHIN), "refused after {:?}", begun.elapsed());
    let said = format!("{:#}", anyhow::Error::new(error));
    ensure!(said.contains("connect to etcd at") && said.contains(&format!(":{port}")), "{said}");
    Ok(())
}
